"""`lockstep-export all --quick` leaves a repository that loads, and says what it measured."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from unit.zoo.sample_data import write_data

BAGS = ("bow", "tfidf", "mean")
NETWORKS = ("rnn", "gru", "lstm", "bilstm", "textcnn", "cnn2d", "attention", "transformer")
WRITERS = ("next-word", "next-word-gru", "next-word-lstm", "context-cnn")
NAMES = (
    *(f"sentiment-{name}" for name in (*BAGS, *NETWORKS)),
    "shakespeare-char-lstm",
    *(f"captions-{name}" for name in WRITERS),
    "translate-en-fr",
)
ROWS, ELEMENTS = 3, 5

pytestmark = pytest.mark.timeout(300)  # 40 s of one core, which others may want


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves of a little made-up data."""
    folder = tmp_path_factory.mktemp("export")
    write_data(folder / "data")
    command = [sys.executable, "-W", "error", "-m", "lockstep_export", "all", "--quick"]
    places = ["--data", folder / "data", "--out", folder / "models", "--work", folder / "work"]
    done = subprocess.run([*command, *places], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("parity holds") == len(NAMES)
    return folder / "models"


def faces(repository: Path, name: str) -> dict[str, dict[str, Any]]:
    """What the manifest says of each graph, by its file."""
    manifest = tomllib.loads((repository / name / "model.toml").read_text(encoding="utf-8"))
    parts = [manifest | {"graph": "model.onnx"}, manifest.get("prefill", {}), manifest.get("stepwise", {})]
    return {part["graph"]: part for part in parts if "inputs" in part}


def feed(tensor: onnxruntime.NodeArg, words: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Something that fits an input: ids, lengths, a mask of all, or states of zero."""
    shape = [{"batch": ROWS}.get(axis, ELEMENTS) if isinstance(axis, str) else axis for axis in tensor.shape]
    if words.get("generated") == "lengths":
        return np.full(shape, ELEMENTS)
    kinds = {"tensor(int64)": np.int64, "tensor(bool)": np.bool_, "tensor(float)": np.float32}
    return np.zeros(shape, kinds[tensor.type]) + (words.get("generated") == "mask")


@pytest.mark.parametrize("name", NAMES)
def test_every_face_answers_by_the_names_of_its_manifest(repository: Path, name: str) -> None:
    found = faces(repository, name)
    assert found
    for file, face in found.items():
        session = onnxruntime.InferenceSession(repository / name / "1" / file)
        feeds = {one.name: feed(one, face["inputs"].get(one.name, {})) for one in session.get_inputs()}
        answers = session.run(list(face["outputs"]), feeds)
        assert all(np.isfinite(answer).all() for answer in answers)


@pytest.mark.parametrize("name", NAMES)
def test_every_tokenizer_that_a_manifest_names_is_there(repository: Path, name: str) -> None:
    manifest = tomllib.loads((repository / name / "model.toml").read_text(encoding="utf-8"))
    files = [manifest["text"][side] for side in ("source", "target") if side in manifest["text"]]
    assert files
    assert all((repository / name / file).is_file() for file in files)


def test_the_tables_are_written(repository: Path) -> None:
    record = json.loads((repository / "accuracy.json").read_text(encoding="utf-8"))
    assert [score["model"] for score in record["models"]] == list(NAMES)
    assert record["sizes"]["sst2"] == {"train": 60, "dev": 20, "test": 20}
    measures = {"accuracy", "bits per character", "bits per word", "BLEU"}
    assert {score["measure"] for score in record["models"]} == measures
    page = (repository / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in NAMES)
    assert all(source in page for source in ("Socher", "karpathy/char-rnn", "multi30k/dataset", "tok:13a"))


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_a_card(repository: Path, name: str) -> None:
    spec = (repository / name / "README.md").read_text(encoding="utf-8")
    assert spec.startswith(f"# {name}\n")
    assert all(f"`1/{file.name}`" in spec for file in (repository / name / "1").glob("*.onnx"))

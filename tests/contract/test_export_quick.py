"""`lockstep-export all --quick` writes a repository that loads, with its figures."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from unit.zoo.sample_data import quick_build

BAGS = ("bow", "tfidf", "mean")
NETWORKS = ("rnn", "gru", "lstm", "bilstm", "textcnn", "cnn2d", "attention", "transformer")
WRITERS = ("next-word", "next-word-gru", "next-word-lstm", "context-cnn")
NAMES = (
    *(f"sentiment-{name}" for name in (*BAGS, *NETWORKS)),
    "shakespeare-char-lstm",
    "shakespeare-gpt",
    *(f"captions-{name}" for name in WRITERS),
    "translate-en-fr",
)
ROWS, ELEMENTS = 3, 5


@pytest.fixture(scope="module")
def repository() -> Path:
    """The models that the command leaves."""
    return quick_build() / "models"


def graph_sections(repository: Path, name: str) -> dict[str, dict[str, Any]]:
    """The section of the manifest for each graph, by file name."""
    manifest = tomllib.loads((repository / name / "model.toml").read_text(encoding="utf-8"))
    parts = [manifest | {"graph": "model.onnx"}, manifest.get("prefill", {}), manifest.get("stepwise", {})]
    return {part["graph"]: part for part in parts if "inputs" in part}


def sample_input(tensor: onnxruntime.NodeArg, spec: dict[str, Any]) -> np.ndarray[Any, Any]:
    """A valid value of an input: ids, lengths, a full mask, or zero states."""
    shape = [{"batch": ROWS}.get(axis, ELEMENTS) if isinstance(axis, str) else axis for axis in tensor.shape]
    if spec.get("generated") == "lengths":
        return np.full(shape, ELEMENTS)
    kinds = {"tensor(int64)": np.int64, "tensor(bool)": np.bool_, "tensor(float)": np.float32}
    return np.zeros(shape, kinds[tensor.type]) + (spec.get("generated") == "mask")


def test_every_model_is_reported_as_proven() -> None:
    output = (quick_build() / "stdout").read_text(encoding="utf-8").splitlines()
    assert sorted(line.split()[0] for line in output if "parity holds" in line) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_graph_runs_with_the_names_of_its_manifest(repository: Path, name: str) -> None:
    sections = graph_sections(repository, name)
    assert sections
    for file, section in sections.items():
        session = onnxruntime.InferenceSession(repository / name / "1" / file)
        inputs = {
            tensor.name: sample_input(tensor, section["inputs"].get(tensor.name, {}))
            for tensor in session.get_inputs()
        }
        outputs = session.run(list(section["outputs"]), inputs)
        assert all(np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_every_tokenizer_of_a_manifest_exists(repository: Path, name: str) -> None:
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
def test_every_model_has_a_model_card(repository: Path, name: str) -> None:
    card = (repository / name / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    assert all(f"`1/{file.name}`" in card for file in (repository / name / "1").glob("*.onnx"))

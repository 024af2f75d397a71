"""`lockstep-export all --quick` leaves a repository that loads, and says what it measured."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

NAMES = ("sentiment-bow", "sentiment-lstm", "sentiment-bilstm", "sentiment-transformer")
WORDS = {"0": ("bad", "dull", "boring"), "1": ("good", "lovely", "moving")}


def write_data(folder: Path) -> None:
    """A made-up set in the layout of the real one."""
    (folder / "sst2").mkdir(parents=True)
    for split, count in (("train", 60), ("dev", 12), ("test", 12)):
        lines = [
            f"{index % 2} the film is {WORDS[str(index % 2)][index % 3]}"
            + " and it is n't long" * (index % 4)
            for index in range(count)
        ]
        (folder / "sst2" / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_data(folder / "data")
    command = [sys.executable, "-W", "error", "-m", "lockstep_export", "all", "--quick"]
    places = ["--data", folder / "data", "--out", folder / "models", "--work", folder / "work"]
    done = subprocess.run([*command, *places], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("parity holds") == len(NAMES)
    return folder / "models"


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_is_whole_and_answers(repository: Path, name: str) -> None:
    manifest = tomllib.loads((repository / name / "model.toml").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(repository / name / manifest["text"]["source"]))
    session = onnxruntime.InferenceSession(repository / name / "1" / "model.onnx")
    tokens = np.array([tokenizer.encode("The film isn't bad").ids], dtype=np.int64)
    generated = {
        "lengths": np.array([tokens.shape[1]], dtype=np.int64),
        "mask": np.ones(tokens.shape, dtype=bool),
    }
    feeds = {"tokens": tokens} | {key: generated[key] for key in manifest["inputs"] if key != "tokens"}
    answer = dict(zip(manifest["outputs"], session.run(list(manifest["outputs"]), feeds), strict=True))
    assert answer["logits"].shape in ((1, 1), (1, 2))
    assert np.isfinite(answer["logits"]).all()


def test_the_table_is_written(repository: Path) -> None:
    record = json.loads((repository / "accuracy.json").read_text(encoding="utf-8"))
    assert [score["model"] for score in record["models"]] == list(NAMES)
    assert record["sentences"] == {"train": 60, "dev": 12, "test": 12}
    page = (repository / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in NAMES)
    assert "Socher" in page

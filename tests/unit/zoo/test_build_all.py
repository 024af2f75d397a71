"""Building the whole zoo or some of it, in one process or several; other models keep their record."""

import json
from pathlib import Path

import pytest

from lockstep_export.errors import ExportError
from lockstep_zoo.build_all import build_all
from lockstep_zoo.pipeline import Pipeline

NAMES = ("sentiment-bow", "sentiment-mean")


def pipeline(folder: Path) -> Pipeline:
    return Pipeline(folder / "models", folder / "work", lambda _: None, quick=True)


def ignore(line: str) -> None:
    """A report function that can be pickled for other processes."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_parallel_builds_equal_sequential_ones(data: Path, tmp_path: Path) -> None:
    made = {}
    for jobs in (1, 2):
        one = Pipeline(tmp_path / str(jobs) / "models", tmp_path / str(jobs) / "work", ignore, quick=True)
        build_all(one, data, NAMES, jobs)
        made[jobs] = files(one.out)
    models = {name for name in made[1] if name.endswith((".onnx", ".toml", "tokenizer.json"))}
    assert len(models) == 3 * len(NAMES)
    assert all(made[1][name] == made[2][name] for name in models)
    assert made[1].keys() == made[2].keys()


def test_models_that_are_not_built_keep_their_record(data: Path, tmp_path: Path) -> None:
    one = pipeline(tmp_path)
    before = build_all(one, data, ["sentiment-mean"])
    after = build_all(one, data, ["sentiment-bow"])
    assert list(after.scores) == ["sentiment-bow", "sentiment-mean"]
    assert after.scores["sentiment-mean"] == before.scores["sentiment-mean"]
    record = json.loads((one.out / "accuracy.json").read_text())
    assert [row["model"] for row in record["models"]] == list(after.scores)
    assert all((one.out / name / "README.md").is_file() for name in NAMES)


def test_an_unknown_name_is_reported_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unknown model 'sentiment-oracle'"):
        build_all(pipeline(tmp_path), tmp_path / "nowhere", ["sentiment-oracle"])
    assert not list(tmp_path.iterdir())


def test_an_unreadable_record_is_reported(data: Path, tmp_path: Path) -> None:
    one = pipeline(tmp_path)
    one.out.mkdir()
    (one.out / "accuracy.json").write_text('{"models": [{}]}')
    with pytest.raises(ExportError, match=r"cannot read .*accuracy\.json"):
        build_all(one, data, ["sentiment-bow"])

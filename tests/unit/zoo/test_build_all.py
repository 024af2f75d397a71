"""Building the whole zoo or some of it, in one process or several; other models keep their record."""

import json
import shutil
from pathlib import Path

import pytest
from unit.zoo.sample_data import quick_build

from lockstep_export.errors import ExportError
from lockstep_zoo.build_all import build_all
from lockstep_zoo.models import ZOO
from lockstep_zoo.pipeline import Pipeline
from lockstep_zoo.scores import read_record

NAMES = ("sentiment-bow", "sentiment-mean")


def finished(folder: Path) -> Pipeline:
    """The pipeline of a copy of the finished quick build."""
    shutil.copytree(quick_build(), folder, dirs_exist_ok=True)
    (folder / "quick").rename(folder / "work")
    return pipeline(folder)


def pipeline(folder: Path) -> Pipeline:
    return Pipeline(folder / "models", folder / "work", lambda _: None, quick=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_parallel_builds_equal_sequential_ones(tmp_path: Path) -> None:
    """The quick build is made by two processes."""
    one = pipeline(tmp_path)
    build_all(one, quick_build() / "data", NAMES, jobs=1)
    for name in NAMES:
        parallel, sequential = files(quick_build() / "models" / name), files(one.out / name)
        models = {file for file in sequential if file.endswith((".onnx", ".toml", "tokenizer.json"))}
        assert len(models) == 3
        assert all(sequential[file] == parallel[file] for file in models)
        assert sequential.keys() == parallel.keys()


def test_models_that_are_not_built_keep_their_record(tmp_path: Path) -> None:
    one = finished(tmp_path)
    before = read_record(one.out)
    shutil.rmtree(one.out / "sentiment-bow")
    after = build_all(one, tmp_path / "data", ["sentiment-bow"])
    assert list(after.scores) == list(ZOO)
    assert all(after.scores[name] == before.scores[name] for name in ZOO if name != "sentiment-bow")
    record = json.loads((one.out / "accuracy.json").read_text())
    assert [row["model"] for row in record["models"]] == list(after.scores)
    assert all((one.out / name / "README.md").is_file() for name in ZOO)


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

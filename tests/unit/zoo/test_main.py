"""The command line: expected errors are one message, before any time is spent."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from unit.zoo.sample_data import quick_build

from lockstep_export import publication
from lockstep_export.cli import main
from lockstep_zoo.pipeline import Pipeline


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lockstep-export", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_lists_the_zoo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "zoo", "list") == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("sentiment-bilstm", "shakespeare-char-lstm", "translate-en-fr"))


def test_an_unknown_name_is_reported_with_the_available_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    assert run(monkeypatch, "train", "sentiment-oracle", "--data", str(data)) == 1
    assert "unknown model 'sentiment-oracle'; available: sentiment-bow" in capsys.readouterr().err


def test_a_missing_data_folder_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "all", "--data", str(tmp_path), "--work", str(tmp_path / "work")) == 1
    assert "lockstep-export: no folder" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("missing", ["sst2/dev.txt", "tinyshakespeare.txt", "multi30k/val.fr"])
def test_missing_files_are_reported_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    missing: str,
) -> None:
    (data / missing).unlink()
    assert run(monkeypatch, "all", "--data", str(data), "--work", str(tmp_path / "work")) == 1
    assert f"lacks {Path(missing).name}: expected" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("sst2/train.txt", "", "has 0 sentences"),
        ("sst2/test.txt", "1 good\n0", "expected '0 sentence' or '1 sentence', found '0'"),
        ("multi30k/train.en", "", "train.en is empty"),
        ("multi30k/val.fr", "Un homme.\n", "20 lines of en and 1 of fr"),
        ("tinyshakespeare.txt", "To be, or", "has 9 characters"),
    ],
)
def test_a_broken_file_is_reported_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    file: str,
    content: str,
    message: str,
) -> None:
    (data / file).write_text(content)
    assert run(monkeypatch, "all", "--data", str(data), "--work", str(tmp_path / "work")) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("place", ["--out", "--work"])
def test_a_folder_that_cannot_be_written_to_is_reported_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    place: str,
) -> None:
    (tmp_path / "file").write_text("no folder")
    places = {"--out": tmp_path / "models", "--work": tmp_path / "work"} | {place: tmp_path / "file"}
    given = [str(part) for pair in places.items() for part in pair]
    assert run(monkeypatch, "train", "sentiment-bow", "--data", str(data), *given) == 1
    assert f"cannot write into {tmp_path / 'file'}: " in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))


def test_commands_exist_at_the_top_level_and_under_zoo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = []
    for where in ([], ["zoo"]):
        assert run(monkeypatch, *where, "check", "sentiment-oracle") == 1
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1]


def test_one_model_needs_only_its_own_data(data: Path, tmp_path: Path) -> None:
    (data / "tinyshakespeare.txt").unlink()
    pipeline = Pipeline(tmp_path / "models", tmp_path / "work", lambda _: None, quick=True)
    assert set(pipeline.prepare(data, "sentiment-bow")) == {"sst2"}


def test_export_before_training_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "export", "sentiment-bow", "--work", str(tmp_path)) == 1
    assert "run `lockstep-export train sentiment-bow --data DIR` first" in capsys.readouterr().err


def test_train_export_check_one_model(tmp_path: Path) -> None:
    made, name = quick_build(), "sentiment-rnn"
    output = (made / "stdout").read_text(encoding="utf-8").splitlines()
    trained, exported = (line for line in output if line.startswith(f"{name}  "))
    assert trained.startswith(f"{name}  epoch 1/1  loss ")
    lines: list[str] = []
    Pipeline(made / "models", made / "quick", lines.append, quick=True).check(name)
    assert lines == [exported]
    Pipeline(made / "models", tmp_path, lines.append, quick=True).check(name)
    assert "comparing the graphs with themselves" in lines[1]


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """A pipeline with the trained weights of the quick build, and nothing exported."""
    shutil.copytree(quick_build() / "quick", tmp_path / "work")
    return Pipeline(tmp_path / "models", tmp_path / "work", lambda _: None, quick=True)


def test_files_of_an_older_version_are_removed(pipeline: Pipeline) -> None:
    old = pipeline.out / "sentiment-bow" / "1" / "step.onnx"
    old.parent.mkdir(parents=True)
    old.write_text("of another recipe")
    pipeline.export("sentiment-bow")
    assert [file.name for file in old.parent.iterdir()] == ["model.onnx"]


def test_a_failed_copy_leaves_the_published_version(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(quick_build() / "models", pipeline.out)
    before = {file: file.read_bytes() for file in pipeline.out.rglob("*") if file.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(publication, "save_tokenizer", full)
    with pytest.raises(OSError, match="no space left"):
        pipeline.export("sentiment-bow")
    assert {file: file.read_bytes() for file in pipeline.out.rglob("*") if file.is_file()} == before

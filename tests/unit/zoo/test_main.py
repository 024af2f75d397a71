"""The command line: one message for what a person can mend, and no time spent before it."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from lockstep_export.__main__ import main
from lockstep_zoo.pipeline import Pipeline


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lockstep-export", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_lists_the_zoo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "zoo", "list") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("sentiment-bilstm", "shakespeare-char-lstm", "translate-en-fr"))


def test_an_unknown_name_is_told_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    assert run(monkeypatch, "train", "sentiment-oracle", "--data", str(data)) == 1
    assert "no model 'sentiment-oracle' in the zoo; there are: sentiment-bow" in capsys.readouterr().err


def test_a_missing_data_folder_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "all", "--data", str(tmp_path), "--work", str(tmp_path / "work")) == 1
    assert "lockstep-export: no folder" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("missing", ["sst2/dev.txt", "tinyshakespeare.txt", "multi30k/val.fr"])
def test_half_of_the_data_is_told_before_any_training(
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
    ("file", "content", "told"),
    [
        ("sst2/train.txt", "", "holds 0 sentences"),
        ("sst2/test.txt", "1 good\n0", "expected '0 sentence' or '1 sentence', found '0'"),
        ("multi30k/train.en", "", "train.en is empty"),
        ("multi30k/val.fr", "Un homme.\n", "20 lines of en and 1 of fr"),
        ("tinyshakespeare.txt", "To be, or", "holds 9 characters"),
    ],
)
def test_a_broken_file_is_told_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    file: str,
    content: str,
    told: str,
) -> None:
    (data / file).write_text(content)
    assert run(monkeypatch, "all", "--data", str(data), "--work", str(tmp_path / "work")) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("place", ["--out", "--work"])
def test_a_place_that_cannot_be_written_to_is_told_before_any_training(
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


def test_verbs_stand_beside_the_zoo_and_under_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for where in ([], ["zoo"]):
        assert run(monkeypatch, *where, "check", "sentiment-oracle") == 1
        told.append(capsys.readouterr().err)
    assert told[0] == told[1]


def test_one_model_needs_only_its_own_data(data: Path, tmp_path: Path) -> None:
    (data / "tinyshakespeare.txt").unlink()
    workshop = Pipeline(tmp_path / "models", tmp_path / "work", lambda _: None, quick=True)
    assert set(workshop.prepare(data, "sentiment-bow")) == {"sst2"}


def test_export_before_training_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "export", "sentiment-bow", "--work", str(tmp_path)) == 1
    assert "run `lockstep-export train sentiment-bow --data DIR` first" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sentiment-rnn", "shakespeare-char-lstm", "translate-en-fr"])
def test_train_export_check_one_model(data: Path, tmp_path: Path, name: str) -> None:
    lines: list[str] = []
    workshop = Pipeline(tmp_path / "models", tmp_path / "work", lines.append, quick=True)
    workshop.train(name, workshop.prepare(data, name))
    workshop.export(name)
    workshop.check(name)
    assert lines[0].startswith(f"{name}  epoch 1/1  loss ")
    assert lines[1] == lines[2]
    (tmp_path / "work" / f"{name}.pt").unlink()
    workshop.check(name)
    assert "the graphs are held against themselves" in lines[3]


def test_nothing_of_an_older_version_is_left(data: Path, tmp_path: Path) -> None:
    workshop = Pipeline(tmp_path / "models", tmp_path / "work", lambda _: None, quick=True)
    old = tmp_path / "models" / "sentiment-bow" / "1" / "step.onnx"
    old.parent.mkdir(parents=True)
    old.write_text("of another recipe")
    workshop.train("sentiment-bow", workshop.prepare(data, "sentiment-bow"))
    workshop.export("sentiment-bow")
    assert [file.name for file in old.parent.iterdir()] == ["model.onnx"]


def test_an_export_that_cannot_be_copied_leaves_what_was_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Pipeline(tmp_path / "models", tmp_path / "work", lambda _: None, quick=True)
    workshop.train("sentiment-bow", workshop.prepare(data, "sentiment-bow"))
    workshop.export("sentiment-bow")
    before = {file: file.read_bytes() for file in workshop.out.rglob("*") if file.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match="no space left"):
        workshop.export("sentiment-bow")
    assert {file: file.read_bytes() for file in workshop.out.rglob("*") if file.is_file()} == before

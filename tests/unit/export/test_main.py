"""The command line: one message for what a person can mend, and no time spent before it."""

import sys
from pathlib import Path

import pytest

from lockstep_export.__main__ import main
from lockstep_export.workshop import Workshop


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lockstep-export", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_lists_the_zoo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "zoo", "list") == 0
    assert "sentiment-bilstm" in capsys.readouterr().out


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


def test_export_before_training_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "export", "sentiment-bow", "--work", str(tmp_path)) == 1
    assert "run `lockstep-export train sentiment-bow --data DIR` first" in capsys.readouterr().err


def test_train_export_check_one_model(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    workshop = Workshop(tmp_path / "models", tmp_path / "work", lines.append, quick=True)
    workshop.train("sentiment-bow", workshop.prepare(data))
    workshop.export("sentiment-bow")
    workshop.check("sentiment-bow")
    assert lines[0].startswith("sentiment-bow  epoch 1/1  loss ")
    assert lines[1] == lines[2]
    (tmp_path / "work" / "sentiment-bow.pt").unlink()
    workshop.check("sentiment-bow")
    assert "only padded rows against the same alone" in lines[3]

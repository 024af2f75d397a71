"""`lockstep-export study`: every study end to end with small settings, and the errors if none can run."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lockstep_studies import command, gradients, serving
from lockstep_studies.catalogue import STUDIES
from lockstep_studies.study import ReportProgress, StudySettings

Study = Callable[..., int]


@pytest.fixture(scope="module")
def gradients_1(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the study `gradients` writes with the seed 1; not to be changed."""
    out = tmp_path_factory.mktemp("gradients")
    assert study("gradients", "--quick", "--out", out) == 0
    return out


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_end_to_end(
    study: Study, name: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert study(name, "--quick", "--out", out, "--models", models) == 0
    saved = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    assert saved["rows"]
    assert saved["settings"]["quick"] is True
    assert saved["settings"]["seed"] == 1
    assert saved["machine"]["processor"]
    assert saved["versions"]["torch"]
    text = capsys.readouterr().out
    assert " ".join(saved["finding"].split()) in " ".join(text.split())
    assert_labelled(out / f"{name}.svg", name)
    assert saved["finding"] in " ".join((out / "README.md").read_text(encoding="utf-8").split())
    assert sorted(file.name for file in out.iterdir()) == ["README.md", f"{name}.json", f"{name}.svg"]


def assert_labelled(path: Path, name: str) -> None:
    """The SVG is complete and small, and its axes and lines are labelled."""
    picture = path.read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    assert len(picture) < 150_000
    saved = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    rows = [STUDIES[name].row(**row) for row in saved["rows"]]
    for panel in STUDIES[name].panels(rows):
        labels = (panel.title, panel.x_label, panel.y_label, *(line.label for line in panel.lines))
        labels += (*(bar.label for bar in panel.bars), *(panel.grid.labels if panel.grid else ()))
        assert all(label.replace("<", "&lt;") in picture for label in labels)
        assert panel.y_label or panel.bars


def test_list_shows_every_study_and_its_question(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert study("list") == 0
    text = capsys.readouterr().out
    assert all(name in text and one.question in text for name, one in STUDIES.items())


def test_the_error_for_an_unknown_study_lists_the_available_ones(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study("alchemy") == 1
    assert "unknown study 'alchemy'; available: sequential-cost, gradients" in capsys.readouterr().err


def test_an_unwritable_folder_fails_before_the_measurement(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert study("gradients", "--out", taken / "out") == 1
    assert (
        f"cannot write into {taken / 'out'}: Not a directory; name another folder with --out"
        in capsys.readouterr().err
    )


def test_without_matplotlib_the_error_names_the_extra(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lockstep_studies.drawing.find_spec", lambda _: None)
    assert study("gradients", "--out", tmp_path / "out") == 1
    assert "pip install 'lockstep-inference[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_server_the_error_names_the_extra_before_the_first_study(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "lockstep_server" else object())
    out = tmp_path / "out"
    assert study("all", "--quick", "--out", out, "--models", models) == 1
    assert (
        "needs lockstep_server: install the extra with pip install 'lockstep-inference[server-cpu]'"
        in capsys.readouterr().err
    )
    assert not list(out.iterdir())


@pytest.mark.parametrize("name", ["comparison", "growing-context", "receptive-field"])
def test_a_repository_without_the_models_is_an_error(
    study: Study, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(name, "--out", tmp_path / "out", "--models", tmp_path) == 1
    assert "set the model repository with --models" in capsys.readouterr().err


def test_an_invalid_record_in_the_folder_is_an_error(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "long-range.json").write_text('{"rows": [{"layer": 1}]}')
    assert study("gradients", "--quick", "--out", tmp_path) == 1
    assert f"{tmp_path / 'long-range.json'} is not a record of this study" in capsys.readouterr().err
    assert not (tmp_path / "gradients.json").exists()


def test_an_interrupted_study_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(
        plan: gradients.GradientsPlan, settings: StudySettings, progress: ReportProgress
    ) -> list[gradients.GradientsRow]:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    [one] = [study for study in STUDIES.values() if study.name == "gradients"]
    stopped = type(one)(**{**vars(one), "measure": interrupted})
    with pytest.raises(KeyboardInterrupt):
        command.run([stopped], tmp_path, StudySettings(tmp_path))
    assert not list(tmp_path.iterdir())


def test_interrupted_writing_leaves_existing_files_unchanged(
    monkeypatch: pytest.MonkeyPatch, study: Study, gradients_1: Path, tmp_path: Path
) -> None:
    shutil.copytree(gradients_1, tmp_path, dirs_exist_ok=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def half(panels: object, path: Path) -> None:
        path.write_text("<svg>")
        raise KeyboardInterrupt

    monkeypatch.setattr("lockstep_studies.report.draw", half)
    study("gradients", "--quick", "--seed", "2", "--out", tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_same_seed_gives_the_same_rows_and_chart(study: Study, gradients_1: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        assert study("gradients", "--quick", "--seed", seed, "--out", tmp_path / seed) == 0
    first, again, other = (
        json.loads((out / "gradients.json").read_text(encoding="utf-8"))["rows"]
        for out in (gradients_1, tmp_path / "1", tmp_path / "2")
    )
    assert first == again != other
    assert (gradients_1 / "gradients.svg").read_bytes() == (tmp_path / "1" / "gradients.svg").read_bytes()

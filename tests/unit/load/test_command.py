"""The commands as a shell gives them: what is wrong is one line and an exit code, before anything is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from unit.load import sample_runs

from lockstep_client import cli
from lockstep_load import documents

if TYPE_CHECKING:
    from pathlib import Path

RUN = ("load", "run", "--model", "m", "--address", "127.0.0.1:1")


@pytest.fixture
def lockstep(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str):
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seconds", "1"), "give one of the two"),
        (("--seconds", "1", "--rate", "5", "--concurrency", "2"), "give one of the two"),
        (("--seconds", "1", "--rate", "0"), "0 is not a rate above 0"),
        (("--seconds", "1", "--rate", "-5"), "-5 is not a rate above 0"),
        (("--seconds", "1", "--rate", "inf"), "inf is not a rate"),
        (("--seconds", "1", "--rate", "nan"), "nan is not a rate"),
        (("--seconds", "0", "--rate", "5"), "0 is not a number of seconds above 0"),
        (("--seconds", "1", "--concurrency", "0"), "greater than or equal to 1"),
        (("--seconds", "1", "--rate", "5", "--warmup", "-1"), "-1 is not a number of seconds from 0 up"),
        (("--seconds", "1", "--rate", "5", "--lengths", "nofile"), "'nofile'"),
        (("--seconds", "1", "--rate", "5", "--ids", "9,3"), "'9,3' is no range"),
        (("--seconds", "1", "--rate", "5", "--shape", "x"), "write INPUT=VALUE"),
        (("--seconds", "1", "--rate", "5", "--json", "/nosuch/a.json"), "there is no folder /nosuch"),
        (("--seconds", "1", "--rate", "5", "--html", "/nosuch/a.html"), "there is no folder /nosuch"),
        (("--seconds", "1", "--rate", "5", "--address", "http://x"), "must not be a URL"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(lockstep, arguments: tuple[str, ...], message: str) -> None:
    code, out, error = lockstep(*RUN, *arguments)
    assert code == 2
    assert message in out + error
    assert "Traceback" not in error


def test_a_server_that_is_away_ends_with_1(lockstep) -> None:
    code, _, error = lockstep(*RUN, "--rate", "5", "--seconds", "1")
    assert code == 1
    assert error.startswith("lockstep: no server at 127.0.0.1:1")
    assert len(error.splitlines()) == 1


def test_a_page_needs_its_packages_before_anything_is_measured(lockstep, monkeypatch) -> None:
    monkeypatch.setattr("lockstep_load.options.find_spec", lambda name: None)
    code, out, error = lockstep(*RUN, "--rate", "5", "--seconds", "1", "--html", "a.html")
    assert code == 2
    assert "pip install '.[load]'" in out + error


def test_scenarios_are_listed(lockstep) -> None:
    code, out, _ = lockstep("load", "scenario", "list")
    assert code == 0
    assert "sentiment" in out


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, latency_ms in zip(paths, (20.0, 30.0), strict=True):
        documents.write(path, sample_runs.steady(10, latency_ms))
    return str(paths[0]), str(paths[1])


def test_compare_ends_with_4_where_the_second_is_worse(lockstep, files: tuple[str, str]) -> None:
    code, out, _ = lockstep("load", "compare", *files)
    assert code == 4
    assert "latency p50" in out
    assert "worse" in out
    assert lockstep("load", "compare", files[1], files[0])[0] == 0
    assert lockstep("load", "compare", files[0], files[0])[0] == 0


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_compare_ends_with_3_where_a_run_says_nothing_of_its_server(
    lockstep, files: tuple[str, str], tmp_path: Path, which: int, partial: bool
) -> None:
    late = {
        **sample_runs.steady(10, 30.0),
        "partial": partial,
        "valid": False,
        "reasons": ["the generator was late"],
    }
    documents.write(tmp_path / "late.json", late)
    pair = [files[0], str(tmp_path / "late.json")]
    code, out, _ = lockstep("load", "compare", *(reversed(pair) if which == 0 else pair))
    assert code == 3
    assert f"the {('first', 'second')[which]} run is invalid: the generator was late" in out


def test_compare_gives_its_rows_as_json(lockstep, files: tuple[str, str]) -> None:
    code, out, _ = lockstep("load", "compare", *files, "--json", "-")
    [rows] = json.loads(out).values()
    assert code == 4
    assert {"name", "ratio", "low", "high", "verdict"} <= set(rows[0])


def test_what_cannot_be_written_of_a_document_ends_with_1(lockstep, files: tuple[str, str]) -> None:
    for verb in (("compare", *files, "--json"), ("report", files[0], "--html")):
        code, _, error = lockstep("load", *verb, "/dev/full")
        assert code == 1
        assert error == "lockstep: /dev/full is not written: No space left on device\n"


def test_what_is_no_report_is_told(lockstep, files: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    for wrong in (str(other), str(tmp_path / "nosuch.json")):
        code, out, error = lockstep("load", "compare", files[0], wrong)
        assert code == 2
        assert wrong in out + error


def test_a_report_is_shown_again_and_drawn(lockstep, files: tuple[str, str], tmp_path: Path) -> None:
    code, out, _ = lockstep("load", "report", files[0])
    assert code == 0
    assert "answers/s" in out
    page = tmp_path / "page.html"
    assert lockstep("load", "report", files[0], "--html", str(page))[0] == 0
    assert page.read_text().count("<svg") >= 2

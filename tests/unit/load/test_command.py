"""The commands as run from a shell: errors are one line and an exit code, before any request is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
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
        (("--seconds", "1"), "give either --rate R"),
        (("--seconds", "1", "--rate", "5", "--concurrency", "2"), "give either --rate R"),
        (("--seconds", "1", "--rate", "0"), "0 is not a valid rate: use a number above 0"),
        (("--seconds", "1", "--rate", "-5"), "-5 is not a valid rate: use a number above 0"),
        (("--seconds", "1", "--rate", "inf"), "inf is not a valid rate"),
        (("--seconds", "1", "--rate", "nan"), "nan is not a valid rate"),
        (("--seconds", "0", "--rate", "5"), "0 is not a valid number of seconds: use a number above 0"),
        (("--seconds", "1", "--concurrency", "0"), "greater than or equal to 1"),
        (
            ("--seconds", "1", "--rate", "5", "--warmup", "-1"),
            "-1 is not a valid number of seconds: use 0 or more",
        ),
        (("--seconds", "1", "--rate", "5", "--lengths", "nofile"), "'nofile'"),
        (("--seconds", "1", "--rate", "5", "--ids", "9,3"), "'9,3' is not a range of ids"),
        (("--seconds", "1", "--rate", "5", "--shape", "x"), "'x' is not of the form INPUT=VALUE"),
        (("--seconds", "1", "--rate", "5", "--json", "/nosuch/a.json"), "directory /nosuch does not exist"),
        (("--seconds", "1", "--rate", "5", "--html", "/nosuch/a.html"), "directory /nosuch does not exist"),
        (("--seconds", "1", "--rate", "5", "--address", "http://x"), "must not be a URL"),
    ],
)
def test_wrong_usage_prints_an_error_and_exits_with_2(
    lockstep, arguments: tuple[str, ...], message: str
) -> None:
    code, out, error = lockstep(*RUN, *arguments)
    assert code == 2
    assert message in out + error
    assert "Traceback" not in error


def test_an_unreachable_server_exits_with_1(lockstep) -> None:
    code, _, error = lockstep(*RUN, "--rate", "5", "--seconds", "1")
    assert code == 1
    assert error.startswith("lockstep: no server at 127.0.0.1:1")
    assert len(error.splitlines()) == 1


def test_missing_packages_for_html_are_reported_before_the_run(lockstep, monkeypatch) -> None:
    monkeypatch.setattr("lockstep_load.options.find_spec", lambda name: None)
    code, out, error = lockstep(*RUN, "--rate", "5", "--seconds", "1", "--html", "a.html")
    assert code == 2
    assert "pip install 'lockstep-inference[load]'" in out + error


def test_scenario_list_shows_the_bundled_scenarios(lockstep) -> None:
    code, out, _ = lockstep("load", "scenario", "list")
    assert code == 0
    assert "sentiment" in out


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, latency_ms in zip(paths, (20.0, 30.0), strict=True):
        documents.write(path, sample_runs.steady(10, latency_ms))
    return str(paths[0]), str(paths[1])


def test_compare_exits_with_4_if_the_second_run_is_worse(lockstep, files: tuple[str, str]) -> None:
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
    run = sample_runs.steady(10, 30.0)
    late = structs.replace(run, partial=partial, valid=False, reasons=["the generator fell behind"])
    documents.write(tmp_path / "late.json", late)
    pair = [files[0], str(tmp_path / "late.json")]
    code, out, _ = lockstep("load", "compare", *(reversed(pair) if which == 0 else pair))
    assert code == 3
    assert f"the {('first', 'second')[which]} run is invalid: the generator fell behind" in out


def test_an_open_loop_is_not_compared_with_a_closed_one(
    lockstep, files: tuple[str, str], tmp_path: Path
) -> None:
    run = sample_runs.steady(10, 20.0)
    closed = structs.replace(run, load=structs.replace(run.load, loop="closed"))
    documents.write(tmp_path / "closed.json", closed)
    code, out, error = lockstep("load", "compare", files[0], str(tmp_path / "closed.json"))
    assert code == 2
    message = " ".join((out + error).split())
    assert "the first run is open loop, the second closed" in message


def test_compare_prints_json(lockstep, files: tuple[str, str]) -> None:
    code, out, _ = lockstep("load", "compare", *files, "--json", "-")
    [rows] = json.loads(out).values()
    assert code == 4
    assert {"name", "ratio", "low", "high", "verdict"} <= set(rows[0])


def test_a_write_error_exits_with_1(lockstep, files: tuple[str, str]) -> None:
    for verb in (("compare", *files, "--json"), ("report", files[0], "--html")):
        code, _, error = lockstep("load", *verb, "/dev/full")
        assert code == 1
        assert error == "lockstep: cannot write /dev/full: No space left on device\n"


def test_a_file_that_is_not_a_report_is_wrong_usage(lockstep, files: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    for wrong in (str(other), str(tmp_path / "nosuch.json")):
        code, out, error = lockstep("load", "compare", files[0], wrong)
        assert code == 2
        assert wrong in out + error


def test_a_damaged_histogram_is_wrong_usage(lockstep, files: tuple[str, str], tmp_path: Path) -> None:
    run = sample_runs.steady(6, 20.0)
    seconds = [structs.replace(one, histogram="no histogram") for one in run.seconds]
    documents.write(tmp_path / "damaged.json", structs.replace(run, seconds=seconds))
    code, out, error = lockstep("load", "compare", files[0], str(tmp_path / "damaged.json"))
    assert code == 2
    assert "histogram of second 0: not an HDR histogram" in " ".join((out + error).replace("│", " ").split())


def test_report_prints_a_summary_and_renders_html(lockstep, files: tuple[str, str], tmp_path: Path) -> None:
    code, out, _ = lockstep("load", "report", files[0])
    assert code == 0
    assert "answers/s" in out
    page = tmp_path / "page.html"
    assert lockstep("load", "report", files[0], "--html", str(page))[0] == 0
    assert page.read_text().count("<svg") >= 2

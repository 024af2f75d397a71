"""The command of the load generator: signals, and readers and terminals that stop reading."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from patience import PATIENCE_S, limit_s
from unit.load.fake_server import MODEL, fake_server

from lockstep_client import cli
from lockstep_load import documents, preflight
from lockstep_load.experiments import Experiment
from lockstep_load.lengths import parse
from lockstep_load.plan import LoadProfile, OpenLoop, Target, Workload
from lockstep_load.preflight import TensorOverrides
from lockstep_load.results import RunDocument
from lockstep_load.session import LoadSession

if TYPE_CHECKING:
    from pathlib import Path


def command(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    code = "from lockstep_client.cli import main; main()"
    whole = [sys.executable, "-c", code, "load", "run", "--model", MODEL, *arguments]
    return subprocess.Popen(whole, stdout=subprocess.PIPE, text=True, **{"stderr": subprocess.PIPE, **how})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_partial_report(tmp_path: Path, number: int) -> None:
    file, lines = tmp_path / "run.json", tmp_path / "run.jsonl"
    with fake_server() as server:
        arguments = ("--rate", "50", "--seconds", "600", "--warmup", "0", "--address", server.address)
        os.mkfifo(lines)
        process = command(*arguments, "--json", str(file), "--jsonl", str(lines))
        with lines.open(encoding="utf-8") as progress:
            assert json.loads(progress.readline())["second"] == 0
            process.send_signal(number)
            out, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in error
    made = documents.read(file)
    assert isinstance(made, RunDocument)
    assert made.partial is True
    assert made.ok > 10
    assert 1 <= made.measured_s < 60
    assert made.valid or "fell behind" in made.reasons[0]
    assert "partial" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_runs_ends_an_experiment_with_a_partial_document(number: int) -> None:
    drawn = parse("10")
    assert drawn is not None
    with fake_server() as server, LoadSession(1, [], max_lag_ms=10_000) as session:
        target = Target(server.address, MODEL)
        workload = preflight.prepare(target, Workload("infer", drawn, (5, 9)), None, TensorOverrides())

        def run(name: str, *what: Any) -> RunDocument:
            made = session.run(*what)
            if not session.interrupted:
                os.kill(os.getpid(), number)
            return structs.replace(made, name=name)

        made = Experiment(run, target, workload).sweep(
            LoadProfile(OpenLoop(1.0), 0.5, warmup_s=0), [50.0, 60.0, 70.0]
        )
    first, second = made.runs
    assert (made.partial, first.partial, second.partial) == (True, False, True)
    assert first.ok > 0
    assert second.ok == 0


def test_a_closed_reader_of_progress_lines_does_not_end_the_run(tmp_path: Path) -> None:
    """As in `--jsonl - | head -1`."""
    file = tmp_path / "run.json"
    with fake_server() as server:
        arguments = ("--rate", "50", "--seconds", "3", "--warmup", "0", "--address", server.address)
        with command(*arguments, "--json", str(file), "--jsonl", "-") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["second"] == 0
            process.stdout.close()
            error = process.stderr.read()
    assert "Traceback" not in error
    assert len(json.loads(file.read_text())["seconds"]) == 3


def test_a_blocked_terminal_does_not_delay_the_run(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    ours, theirs = pty.openpty()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"x" * 1000)
    os.set_blocking(theirs, True)
    with fake_server() as server:
        arguments = ("--rate", "50", "--seconds", "2", "--warmup", "0", "--address", server.address)
        process = command(*arguments, "--json", str(file), stderr=theirs)
        process.communicate(timeout=limit_s(90))
    os.close(ours)
    os.close(theirs)
    assert process.returncode in (0, 3)
    assert json.loads(file.read_text())["outcomes"]["ok"] > 50


def test_an_unknown_model_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server() as server:
        arguments = ("--rate", "5", "--seconds", "1", "--address", server.address)
        assert cli.run(("load", "run", "--model", "nosuch", *arguments)) == 1
    error = capsys.readouterr().err
    assert "unknown model nosuch" in error
    assert len(error.splitlines()) == 1

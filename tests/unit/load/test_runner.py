"""Results are kept despite write errors, closed readers and signals between runs."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from msgspec import structs
from patience import PATIENCE_S
from unit.load import sample_runs

from lockstep_load import documents, runner, session
from lockstep_load.option_groups import CommonOptions
from lockstep_load.plan import LoadProfile, OpenLoop
from lockstep_load.progress import ProgressLines
from lockstep_load.results import FORMAT, RunDocument
from lockstep_load.session import LoadSession

if TYPE_CHECKING:
    from collections.abc import Iterator


def exit_code_of(output_options: CommonOptions) -> int:
    with pytest.raises(typer.Exit) as ended:
        runner.write_results(structs.replace(sample_runs.steady(10, 20.0), name="one"), output_options)
    return ended.value.exit_code


def output_options(tmp_path: Path, json_file: Path) -> CommonOptions:
    return CommonOptions(json_file=json_file, html=tmp_path / "run.html")


def test_a_named_pipe_is_written_directly(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text("utf-8")))
    reader.start()
    documents.write(pipe, sample_runs.steady(10, 20.0))
    reader.join(PATIENCE_S)
    assert json.loads(read[0])["format"] == FORMAT
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device_is_written_directly() -> None:
    documents.write(Path("/dev/null"), sample_runs.steady(10, 20.0))
    assert Path("/dev/null").is_char_device()


def test_a_file_descriptor_path_is_written_directly(tmp_path: Path) -> None:
    """As with `--json /dev/fd/4 4> run.json` or `--json >(tool)` in a shell."""
    with (tmp_path / "run.json").open("w") as file:
        documents.write(Path(f"/dev/fd/{file.fileno()}"), sample_runs.steady(10, 20.0))
    assert isinstance(documents.read(tmp_path / "run.json"), RunDocument)


def test_a_symlink_is_followed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "latest.json").symlink_to(tmp_path / "run.json")
    documents.write(tmp_path / "latest.json", sample_runs.steady(10, 20.0))
    assert (tmp_path / "latest.json").is_symlink()
    assert isinstance(documents.read(tmp_path / "run.json"), RunDocument)


def test_a_full_disk_keeps_the_old_file_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "run.json"
    documents.write(before, sample_runs.steady(10, 20.0))

    def full(path: Path, text: str, encoding: str) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert exit_code_of(CommonOptions(json_file=before)) == runner.NOT_WRITTEN
    assert capsys.readouterr().err == f"lockstep: cannot write {before}: No space left on device\n"
    assert isinstance(documents.read(before), RunDocument)
    assert list(tmp_path.iterdir()) == [before]


def test_a_write_error_affects_neither_the_other_files_nor_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone" / "run.json"
    assert exit_code_of(output_options(tmp_path, json_file=gone)) == runner.NOT_WRITTEN
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"lockstep: cannot write {gone}: No such file or directory"]
    assert "p99" in printed.out
    assert f"written: {tmp_path / 'run.html'}" in printed.out
    assert str(gone) not in printed.out
    assert (tmp_path / "run.html").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_write_error_ends_the_progress_lines_but_not_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressLines(Path("/dev/full")) as lines:
        counts = sample_runs.counts([sample_runs.record(0.1 * n, 0.01) for n in range(30)], 3.0)
        lines.begin(LoadProfile(OpenLoop(100.0), 3.0), counts)
        lines.update()
        lines.end()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lockstep: /dev/full is incomplete")
    assert "No space left" in line


def test_progress_lines_on_a_closed_stdout_do_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    with ProgressLines(Path("-")) as lines:
        lines.begin(
            LoadProfile(OpenLoop(100.0), 3.0), sample_runs.counts([sample_runs.record(0.1, 0.01)], 3.0)
        )
        lines.end()


class Idle:
    """A worker pool without processes."""

    def __init__(self, processes: int) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(session, "WorkerPool", Idle)
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {one: signal.getsignal(one) for one in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_runs_interrupts_the_next(idle: None, number: signal.Signals) -> None:
    with LoadSession(1, []) as one:
        os.kill(os.getpid(), number)
        assert one.interrupted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)

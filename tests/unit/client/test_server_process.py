"""Child processes: start, readiness, log and stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from patience import PATIENCE_S, wait_until

from lockstep_client.server_process import LoggedProcess, ProcessError, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
SLEEP = "import time; print('up', flush=True); time.sleep(60)"


def python(code: str, **options: Any) -> LoggedProcess:
    return LoggedProcess("program", [sys.executable, "-c", code], **options)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the server's program in child processes with other code."""

    def replace(code: str) -> None:
        (tmp_path / "lockstep_server.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return replace


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# --- start ----------------------------------------------------------------------------------------


def test_a_server_that_exits_at_start_is_an_error_with_the_end_of_its_log(program):
    program("print('\\n'.join(f'line {n}' for n in range(50))); raise SystemExit(3)")
    with ServerProcess() as server, pytest.raises(ProcessError) as caught:
        server.wait_ready()
    message, *log = str(caught.value).splitlines()
    assert message == "the server exited with code 3"
    assert log == [f"  server: line {n}" for n in range(30, 50)]


def test_a_server_that_opens_no_port_is_an_error_with_its_log(program):
    program("import time; print('loading', flush=True); time.sleep(60)")
    with ServerProcess() as server:
        server.wait_for_log("loading")
        with pytest.raises(ProcessError, match=r"the server is not ready after 0.2 s\n  server: loading"):
            server.wait_ready(timeout_s=0.2)
    assert server.process.returncode == -signal.SIGTERM


def test_a_model_that_never_becomes_ready_is_named(program):
    program(
        "import time; print('serving m on 127.0.0.1:1, metrics on 2', flush=True); time.sleep(60)",
    )
    with ServerProcess() as server:
        server.wait_listening()
        assert (server.address, server.metrics_address) == ("127.0.0.1:1", "127.0.0.1:2")
        with pytest.raises(ProcessError, match=r"^m, n not ready after 0.2 s\n  server: serving m on"):
            server.wait_ready(["m", "n"], timeout_s=0.2)


def test_a_server_that_exits_before_its_models_are_ready_is_an_error(program):
    program("print('serving m on 127.0.0.1:1, metrics on 2', flush=True)")
    with ServerProcess() as server, pytest.raises(ProcessError, match="the server exited with code 0"):
        server.wait_ready()


def test_flags_follow_the_defaults(program):
    program("import sys; print(*sys.argv[1:], flush=True)")
    with ServerProcess("--port", "7001") as server:
        (flags,) = server.wait_for_log("(.*)\n")
    assert flags == "--host 127.0.0.1 --port 0 --metrics-port 0 --port 7001"


# --- stop -----------------------------------------------------------------------------------------


def test_the_process_and_its_log_end_with_the_block():
    with python(SLEEP) as child:
        child.wait_for_log("up")
        assert child.log.exists()
    assert child.process.returncode == -signal.SIGTERM
    assert not child.log.exists()


def test_a_process_that_ignores_sigterm_is_killed_in_bounded_time():
    with python(f"{STUBBORN}; time.sleep(60)", stop_timeout_s=0.3) as child:
        child.wait_for_log("up")
    assert child.process.returncode == -signal.SIGKILL


def test_children_of_a_killed_process_are_killed_too():
    code = (
        f"import subprocess, sys; one = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]);"
        f"{STUBBORN}; print('child', one.pid, flush=True); time.sleep(60)"
    )
    with python(code, stop_timeout_s=0.1) as child:
        (pid,) = child.wait_for_log(r"child (\d+)\n")
    wait_until(lambda: ended(int(pid)), "the process has ended")


def test_stopping_twice_returns_the_same_exit_code():
    with python(SLEEP) as child:
        child.wait_for_log("up")
        assert child.stop() == child.stop() == -signal.SIGTERM


def test_a_program_that_is_missing_leaves_the_signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(FileNotFoundError), LoggedProcess("program", ["/no/such/program"]):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


# --- signals to the parent ------------------------------------------------------------------------

PARENT = f"""
import sys, time
from lockstep_client.server_process import LoggedProcess
with LoggedProcess("program", [sys.executable, "-c", {SLEEP!r}]) as child:
    child.wait_for_log("up")
    print(child.process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_the_child(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        child = int(parent.stdout.readline())
        parent.send_signal(number)
        assert parent.wait(PATIENCE_S) in (-number, 128 + number)
    wait_until(lambda: ended(child), "the child has ended")


def test_a_second_signal_while_stopping_kills_the_child(tmp_path):
    asked = tmp_path / "asked"
    stubborn = (
        "import pathlib, signal, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(asked)!r}).touch())\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(60)"
    )
    code = PARENT.replace(repr(SLEEP), repr(stubborn)).replace(
        "]) as", f"], stop_timeout_s={10 * PATIENCE_S}) as"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGTERM)
        wait_until(asked.exists, "the child is asked to end")
        parent.send_signal(signal.SIGTERM)
        parent.wait(PATIENCE_S)
    wait_until(lambda: ended(child), "the child has ended")


def test_a_second_signal_before_the_child_is_asked_to_end_kills_it():
    code = PARENT.replace(
        "    print(child",
        "    child.process.terminate = lambda: signal.raise_signal(signal.SIGTERM)\n    print(child",
    ).replace("import sys", "import signal, sys")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGTERM)
        parent.wait(PATIENCE_S)
    wait_until(lambda: ended(child), "the child has ended")


def test_a_handler_of_the_program_stays():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with python(SLEEP):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_a_thread_may_run_a_process():
    codes = []

    def run():
        with python(SLEEP) as child:
            child.wait_for_log("up")
        codes.append(child.process.returncode)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    assert codes == [-signal.SIGTERM]

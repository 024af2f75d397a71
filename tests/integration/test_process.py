"""The server as a process: command line, ports, shutdown."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import fakes
import grpc
import pytest
from integration.harness import Served, Stubs, refused, settings
from patience import PATIENCE_S, limit_s, wait_until

from lockstep_client.metrics_text import scrape
from lockstep_client.server_process import ServerProcess
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockstep_proto import open_inference_pb2 as pb

COMMAND = [sys.executable, "-m", "lockstep_server"]


class Process(Stubs):
    """Stubs, metrics and log of a server process."""

    def __init__(self, running: ServerProcess) -> None:
        super().__init__(running.address)
        self.running, self.process = running, running.process

    def metric(self, name: str, **labels: str) -> float:
        return scrape(self.running.metrics_address, PATIENCE_S).total(name, **labels)

    def wait_end(self) -> int:
        return self.process.wait(PATIENCE_S)

    @property
    def log(self) -> list[str]:
        return self.running.log_text().splitlines()


@contextmanager
def process(*arguments: str) -> Iterator[Process]:
    with ServerProcess(*arguments) as running:
        running.wait_ready(timeout_s=limit_s(120))
        server = Process(running)
        try:
            yield server
        finally:
            server.channel.close()


def slow(times: int) -> pb.ModelInferRequest:
    return fakes.request("slow", {"x": ("FP32", [7]), "times": ("INT64", times)})


def test_sigterm_drains_requests_in_flight_and_rejects_new_ones(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "slow", fakes.slow())
    with process("--models", str(tmp_path), "--drain-s", "50") as server:
        in_flight = [server.inference.ModelInfer.future(slow(1500), timeout=limit_s(100)) for _ in range(3)]
        wait_until(lambda: server.metric("lockstep_queue_depth", model="slow") == 3, "three in flight")
        server.process.send_signal(signal.SIGTERM)
        server.wait_serving(serving=False)
        with refused(grpc.StatusCode.UNAVAILABLE, words="stopping"):
            server.infer(slow(1))
        assert server.serving("live")
        assert server.metric("lockstep_draining") == 1
        assert [fakes.values(one.result(), "y").item() for one in in_flight] == [7, 7, 7]
        assert server.wait_end() == 0


def test_requests_that_outlast_the_drain_fail_and_the_server_exits(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "slow", fakes.slow())
    with process("--models", str(tmp_path), "--drain-s", "0") as server:
        in_flight = [server.inference.ModelInfer.future(slow(40_000), timeout=limit_s(100)) for _ in range(3)]
        wait_until(lambda: server.metric("lockstep_queue_depth", model="slow") == 3, "three in flight")
        server.process.send_signal(signal.SIGTERM)
        for one in in_flight:
            with refused(grpc.StatusCode.UNAVAILABLE):
                one.result()
        assert server.wait_end() == 0


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "slow", fakes.slow())
    with process("--models", str(tmp_path), "--drain-s", "1000") as server:
        call = server.inference.ModelInfer.future(slow(400_000), timeout=limit_s(100))
        wait_until(lambda: server.metric("lockstep_queue_depth", model="slow") == 1, "one in flight")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any("stopping" in line for line in server.log), "a stopping server")
        server.process.send_signal(signal.SIGINT)
        assert server.wait_end() == 1
        with refused(grpc.StatusCode.UNAVAILABLE):
            call.result()


def test_a_server_takes_requests_until_balancers_have_noticed_that_it_stops(tmp_path: Path) -> None:
    fakes.write_model(tmp_path, "same", fakes.identity())
    with process("--models", str(tmp_path), "--shutdown-delay-s", "3600") as server:
        assert [_status(server, path) for path in ("/readyz", "/healthz")] == [200, 200]
        server.process.send_signal(signal.SIGTERM)
        server.wait_serving(serving=False)
        assert [_status(server, path) for path in ("/readyz", "/healthz")] == [404, 503]
        assert server.metric("lockstep_draining") == 1
        server.infer(fakes.floats("same", [[1.0]]))
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_end() == 1


def _status(server: Process, path: str) -> int:
    connection = HTTPConnection(server.running.metrics_address, timeout=PATIENCE_S)
    connection.request("GET", path)
    return connection.getresponse().status


def _handles_signals(pid: int) -> bool:
    """Whether the process has a handler of SIGTERM, which the interpreter itself has not."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the signals that a process handles")
@pytest.mark.parametrize(
    ("number", "delay_s"), [(signal.SIGTERM, 0.0), (signal.SIGINT, 0.4), (signal.SIGTERM, 0.8)]
)
def test_a_server_that_is_stopped_while_it_starts_exits_cleanly(
    tmp_path: Path, number: signal.Signals, delay_s: float
) -> None:
    """One handler has both signals, before and after the event loop runs."""
    with ServerProcess("--models", str(tmp_path)) as server:
        wait_until(lambda: _handles_signals(server.process.pid), "handlers")
        with suppress(subprocess.TimeoutExpired):  # wherever the start is by then
            server.process.wait(delay_s)
        os.killpg(server.process.pid, number)  # to all processes, as Ctrl-C at a terminal
        assert server.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in server.log_text()
        assert "died" not in server.log_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_exits_cleanly_and_both_processes_log_in_json(
    tmp_path: Path, number: signal.Signals
) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache"
    fakes.write_model(models, "same", fakes.identity())
    flags = ("--log-format", "json", "--log-level", "debug", "--cache", str(cache))
    with process("--models", str(models), *flags) as server:
        server.infer(fakes.floats("same", [[1.0]]))
        server.process.send_signal(number)
        assert server.wait_end() == 0
        assert not any("Traceback" in line for line in server.log)
        records = [json.loads(line) for line in server.log]
    assert {"lockstep_server.lifecycle", "lockstep_server.engine.model_changes"} <= {
        one["logger"] for one in records
    }
    (ended,) = [one for one in records if one["message"] == "request ended"]
    assert ended["model"] == "same"
    assert ended["outcome"] == "ok"
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("which", ["port", "metrics_port"])
def test_a_port_in_use_is_an_error(tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(LoadError, match=f"--{which.replace('_', '-')} {number}: cannot listen"):
            Served(settings(tmp_path, **{which: number}))


def test_a_server_that_cannot_listen_leaves_no_engine_process() -> None:
    """The engine process is started first. It has the same stderr, so `run` waits for its end too."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        flags = ["--host", "127.0.0.1", "--port", number, "--metrics-port", "0"]
        ended = subprocess.run(
            [*COMMAND, *flags], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"lockstep-serve: --port {number}: cannot listen")
    assert ended.stderr.count("\n") == 1


def test_a_missing_repository_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--models", str(tmp_path / "nowhere"), "--port", "0", "--metrics-port", "0"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "no such folder" in ended.stderr
    assert "--models" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("host", ["::", "::1"])
def test_ipv6_addresses_listen(tmp_path: Path, host: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    fakes.write_model(tmp_path, "same", fakes.identity())
    server = Served(settings(tmp_path, host=host))
    stubs = Stubs(f"[::1]:{server.app.port}")
    try:
        stubs.wait_serving()
        assert fakes.values(stubs.infer(fakes.floats("same", [[7]])), "y").item() == 7
        page = scrape(f"[::1]:{server.app.metrics_port}", PATIENCE_S)
        assert page.total("lockstep_model_ready", model="same") == 1
    finally:
        stubs.channel.close()
        server.close()


def test_a_host_that_is_not_of_this_machine_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"192\.0\.2\.1.*as --host an address of this machine"):
        Served(settings(tmp_path, host="192.0.2.1"))

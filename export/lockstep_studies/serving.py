"""Runs a server for a study, as a child process on a free port, and calls it.

lockstep_server (another package, used only through its command and the proto) → wait for each model
→ Classify, one call in flight → seconds of the call, and the timings in the reply
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lockstep_export.errors import ExportError
from lockstep_proto.v1 import sequences_pb2, sequences_pb2_grpc

NEEDED = ("lockstep_server", "onnxruntime", "tokenizers", "click", "prometheus_client")
START_S, CALL_S, STOP_S, LOOK_S = 120.0, 30.0, 10.0, 0.05


@dataclass(frozen=True)
class StudyCall:
    """The timings of one answer."""

    seconds: float  # latency at the client
    compute_s: float  # in the session
    elements: int  # that the model read


def check_server() -> None:
    """Raises ExportError if a package that the server needs is missing."""
    missing = [name for name in NEEDED if not find_spec(name)]
    if missing:
        raise ExportError(
            f"measuring served models needs {', '.join(missing)}: install the extra with"
            " pip install '.[server-cpu]' in a checkout of Lockstep"
        )


class StudyServer:
    """A connection to a running server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._classify = sequences_pb2_grpc.SequencesStub(channel).Classify  # type: ignore[no-untyped-call]
        self._check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]

    def classify(self, model: str, text: str) -> StudyCall:
        """Makes one call. Raises ExportError if it fails."""
        request = sequences_pb2.ClassifyRequest(model=model, texts=[text])
        started = time.perf_counter()
        try:
            reply = self._classify(request, timeout=CALL_S)
        except grpc.RpcError as error:
            words = len(text.split())
            raise ExportError(f"{model} failed on a text of {words} words: {_describe(error)}") from error
        seconds = time.perf_counter() - started
        [result] = reply.results
        return StudyCall(seconds, result.timings.compute_seconds, result.length)

    def ready(self, model: str) -> bool:
        """Whether the model is serving."""
        try:
            reply = self._check(health_pb2.HealthCheckRequest(service=model), timeout=CALL_S)
        except grpc.RpcError:
            return False  # not listening yet, or the model is not known yet
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def study_server(models: Path, names: Sequence[str]) -> Iterator[StudyServer]:
    """Serves these models while the block runs. The process has always ended when the block has."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="lockstep-study-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                _command(models, names, port), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,  # a Ctrl-C at the terminal reaches this process, which then stops it
            )  # fmt: skip
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                connection = StudyServer(channel)
                _wait(connection, names, process, log)
                yield connection
        finally:
            _stop(process)


def _command(models: Path, names: Sequence[str], port: int) -> list[str]:
    flags = {
        "--models": models, "--only": ",".join(names), "--device": "cpu", "--host": "127.0.0.1",
        "--port": port, "--metrics-port": 0, "--drain-s": 1, "--log-level": "warning",
    }  # fmt: skip
    return [sys.executable, "-m", "lockstep_server", *(str(part) for pair in flags.items() for part in pair)]


def _wait(
    connection: StudyServer, names: Sequence[str], process: "subprocess.Popen[bytes]", log: Path
) -> None:
    """Waits until every model is serving. Raises ExportError after START_S or if the server exits."""
    end = time.monotonic() + START_S
    missing = list(names)
    while missing:
        if process.poll() is not None:
            raise ExportError(f"the server exited with code {process.returncode}{_log(log)}")
        if time.monotonic() > end:
            raise ExportError(f"{', '.join(missing)} not ready after {START_S:.0f} s{_log(log)}")
        missing = [name for name in missing if not connection.ready(name)]
        time.sleep(LOOK_S if missing else 0)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
    return "".join(f"\n  server: {line}" for line in lines)


def _describe(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)

"""Runs a server for a study, as a child process on a free port, and calls it.

lockstep_server (another package, used only through its command and the proto) → wait for each model
→ Classify, one call in flight → seconds of the call, and the timings in the reply
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import grpc

from lockstep_client import extras
from lockstep_client.server_process import ProcessError, ServerProcess
from lockstep_export.errors import ExportError
from lockstep_proto.v1 import sequences_pb2, sequences_pb2_grpc

NEEDED = ("lockstep_server", "onnxruntime", "tokenizers", "click", "prometheus_client")
CALL_S = 30.0


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
        raise ExportError(extras.missing("measuring served models", ", ".join(missing), "server-cpu"))


class StudyServer:
    """A connection to a running server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._classify = sequences_pb2_grpc.SequencesStub(channel).Classify  # type: ignore[no-untyped-call]

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


@contextmanager
def study_server(models: Path, names: Sequence[str]) -> Iterator[StudyServer]:
    """Serves these models while the block runs. The process has always ended when the block has.

    Raises ExportError if the server exits or is not ready in time; the message has the end of its log.
    """
    flags = ("--models", str(models), "--only", ",".join(names), "--device", "cpu", "--drain-s", "1")
    with ServerProcess(*flags) as server:
        try:
            server.wait_ready(names)
        except ProcessError as error:
            raise ExportError(str(error)) from None
        with grpc.insecure_channel(server.address) as channel:
            yield StudyServer(channel)


def _describe(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)

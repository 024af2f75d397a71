"""Runs a server for a study, as a child process on a free port, and calls it.

lockstep_server (another package, used only through its command and the client) → wait for each model
→ Classify, one call in flight, by the client library → `ReadingTime`
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lockstep_client import Client, LockstepError, extras
from lockstep_client.reading import ReadingTime, measure_whole
from lockstep_client.server_process import ProcessError, ServerProcess
from lockstep_export.errors import ExportError

NEEDED = ("lockstep_server", "onnxruntime", "tokenizers", "click", "prometheus_client")
CALL_S = 30.0


def check_server() -> None:
    """Raises ExportError if a package that the server needs is missing."""
    missing = [name for name in NEEDED if not find_spec(name)]
    if missing:
        raise ExportError(extras.missing("measuring served models", ", ".join(missing), "server-cpu"))


class StudyServer:
    """A connection to a running server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def classify(self, model: str, text: str) -> ReadingTime:
        """Makes one call. Raises ExportError if it fails."""
        try:
            return measure_whole(self._client, model, text)
        except LockstepError as error:
            words = len(text.split())
            why = f"{error.code}: {error.message}"
            raise ExportError(f"{model} failed on a text of {words} words: {why}") from error


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
        with Client(server.address, timeout_s=CALL_S, retries=0) as client:
            yield StudyServer(client)

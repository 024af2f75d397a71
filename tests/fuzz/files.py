"""Every file that the engine reads, as targets: its bytes in, what the loader makes of them out.

The loader runs in a child process, as ONNX Runtime and the tokenizer library may end theirs, and graphs need
not end: in the server, that is why the engine is a process, and why loads have a limit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import steps
import tagger

from .outcomes import Outcome

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

HANG_S = 20.0

TARGETS = ("manifest", "step-manifest", "tokenizer", "cache", "graph")


class Fixture:
    """The repository of one target, whose file is replaced by each input."""

    def __init__(self, target: str, folder: Path) -> None:
        self.name = target
        root = self._root = folder / "models"
        self._cache = folder / "cache"
        name = {"cache": "identity", "graph": "identity", "step-manifest": "lm"}.get(target, "tagger")
        if name == "identity":
            fakes.write_model(root, name, fakes.identity())
        elif name == "lm":
            steps.language(root)
        else:
            tagger.write(root)
        self._file = {
            "manifest": root / name / "model.toml", "step-manifest": root / name / "model.toml",
            "tokenizer": root / name / "tokenizer.json", "graph": root / name / "1" / "model.onnx",
        }.get(target)  # fmt: skip
        if self._file is None:
            self.load()
            (self._file,) = self._cache.iterdir()
        self.seed = self._file.read_bytes()

    def load(self) -> None:
        """
        Raises:
            LoadError: the model cannot be served.
        """
        from lockstep_server import messages
        from lockstep_server.engine.loading import repository
        from lockstep_server.engine.loading.loader import Loader
        from lockstep_server.engine.runtime.device import CPU
        from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler

        config = messages.EngineConfig(models=str(self._root), cache=str(self._cache))
        loader = Loader(config, CPU, DeviceScheduler(1))
        (entry,) = repository.find_models(self._root)
        for loaded in loader.load(entry, lambda _: None):
            if loaded.vocabulary is not None:
                _tokenize(loaded.vocabulary)

    def run(self, data: bytes) -> Outcome:
        """Load the model with these bytes in place of the file."""
        from lockstep_server.errors import LoadError

        assert self._file is not None
        self._file.write_bytes(data)
        try:
            self.load()
        except LoadError as error:
            return Outcome("LoadError", str(error))
        except Exception as error:
            return Outcome(type(error).__name__, str(error))
        return Outcome("loaded")


def _tokenize(vocabulary: Any) -> None:
    """A tokenizer may be unable to encode a text; it must say so."""
    from lockstep_server.text.tokenizer import TokenizerError

    for text in ("Ada lives in Paris, New York", "", "é\x00 \U0001f600"):
        with contextlib.suppress(TokenizerError):
            vocabulary.names(vocabulary.encode(text, places=True).ids)


def _serve(target: str, folder: str, connection: Connection) -> None:
    fixture = Fixture(target, Path(folder))
    connection.send(fixture.seed)
    while (data := connection.recv()) is not None:
        connection.send(tuple(fixture.run(data)))


class FileTarget:
    """The loader in a child process, which is started again if an input has ended it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._folder: Path | None = None
        self._process: Any = None
        self.seed = self._start()

    def _start(self) -> bytes:
        self.close()
        self._folder = Path(tempfile.mkdtemp(prefix="lockstep-fuzz-"))
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._target, str(self._folder), theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        seed: bytes = self._connection.recv()
        return seed

    def run(self, data: bytes) -> Outcome:
        try:
            self._connection.send(data)
            if self._connection.poll(HANG_S):
                return Outcome(*self._connection.recv())
            found = Outcome("hang", f"no end within {HANG_S:g} s")
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            found = Outcome("crash", signal.Signals(-code).name if code < 0 else f"exit code {code}")
        self._start()
        return found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


ALLOWED = frozenset({"loaded", "LoadError"})
FROM_OUTSIDE = {"graph": frozenset({"crash", "hang"})}
"""What ends the process, and what the server survives because the engine has its own."""

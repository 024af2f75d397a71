"""The import of what only some commands need: PyTorch, ONNX and others that the base install lacks."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lockstep_export.errors import ExportError

INTERRUPTED = 130


@contextmanager
def importing() -> Iterator[None]:
    """Around imports that take seconds: Ctrl-C ends the process at once meanwhile.

    Raises:
        ExportError: a package is missing; the message names the extra that has it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored by the parent process
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    except ModuleNotFoundError as error:  # installed with the client or the server only
        missing = str(error.name).partition(".")[0]
        if missing.startswith("lockstep"):
            raise
        raise ExportError(
            f"this command needs {missing}: install the extra with pip install 'lockstep-inference[export]',"
            " or run `make setup` in a checkout"
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)  # what runs may have to be tidied up

"""The command line `lockstep-serve`."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import Settings


def main() -> None:
    """Parse the settings and run the server."""
    for number in (signal.SIGINT, signal.SIGTERM):  # until the event loop handles them
        signal.signal(number, lambda *_: os._exit(0))
    from . import __version__
    from .settings import command

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the server logs the same failures with more detail
    sys.exit(command(_run, __version__).main(standalone_mode=True))


def _run(settings: Settings) -> int:
    from .lifecycle import run

    sys.exit(run(settings))


if __name__ == "__main__":
    main()

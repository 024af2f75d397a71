"""The command line `lockstep-serve`."""

from __future__ import annotations

import os
import sys

from . import __version__
from .settings import Settings, command


def main() -> None:
    """Parse the settings and run the server."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the server logs the same failures with more detail
    sys.exit(command(_run, __version__).main(standalone_mode=True))


def _run(settings: Settings) -> int:
    from .lifecycle import run

    sys.exit(run(settings))


if __name__ == "__main__":
    main()

"""The command line `lockstep-serve`."""

from __future__ import annotations

import os
import sys

from . import __version__
from .settings import Settings, command


def main() -> None:
    """Parse the settings and serve."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines say less than ours
    sys.exit(command(_run, __version__).main(standalone_mode=True))


def _run(settings: Settings) -> int:
    from .lifecycle import run

    code = run(settings)
    sys.exit(code)


if __name__ == "__main__":
    main()

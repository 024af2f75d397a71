"""The command line `lockstep-serve`. Imports next to nothing before `main` handles signals: Ctrl-C ends it
cleanly."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all else
if TYPE_CHECKING:
    from .settings import Settings

_NEEDED = ("msgspec", "prometheus_client", "tokenizers", "grpc_reflection", "onnxruntime")
"""Packages that the base install does not have, and that a server needs, but its --help does not."""


def main() -> None:
    """Parse the settings and run the server."""
    for number in (signal.SIGINT, signal.SIGTERM):  # until the event loop handles them
        signal.signal(number, lambda *_: os._exit(0))
    from . import __version__

    _require("click")
    from .settings import command

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the server logs the same failures with more detail
    sys.exit(command(_run, __version__).main(standalone_mode=True))


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        sys.exit(
            f"lockstep-serve needs {', '.join(missing)}: install the extra with pip install"
            " 'lockstep-inference[server-cpu]', or [server-gpu] for CUDA"
        )


def _run(settings: Settings) -> int:
    import logging
    import threading

    _require(*_NEEDED)
    from .ipc.child_process import ENGINE, ChildProcess

    # Each of the two processes imports for 0.2 to 0.4 s, so they do it at the same time.
    engine = None
    if settings.engine == "process" and settings.frontends == 1:
        engine = ChildProcess(ENGINE, settings.log_level, settings.log_format)
    try:
        from .lifecycle import run

        code = run(settings, engine)
    finally:
        if engine is not None:
            engine.end()
    if threading.active_count() > 1:  # a run or a tokenizer that does not end must not keep the process
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()

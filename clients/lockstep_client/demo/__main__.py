"""The command line of the demo: options, signals, exit codes.

Exit codes: 0 success, 1 the demo could not run, 128 + signal number after a signal (Ctrl-C: 130). The server
is stopped in every case.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before grpc is imported: an error is one line of our own

from lockstep_client.demo import DemoError
from lockstep_client.demo.program import show
from lockstep_client.demo.server import checked_port, repository

if TYPE_CHECKING:
    from collections.abc import Sequence


def _options(arguments: Sequence[str], program: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        program, description="Start a server on the shipped models and show what it does."
    )
    parser.add_argument("--port", type=int, default=8001, help="gRPC port; 0 picks a free one (%(default)s)")
    parser.add_argument(
        "--metrics-port", type=int, default=8002, help="port of /metrics; 0 picks one (%(default)s)"
    )
    parser.add_argument(
        "--models",
        default="examples:",
        help="model repository; examples: those of the installation (%(default)s)",
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    return parser.parse_args(arguments)


async def _until_signalled(options: argparse.Namespace) -> int:
    """Run the demo until it ends or a signal cancels it. Signals are handled on the event loop, between two
    steps, so the server is never left running."""
    loop = asyncio.get_running_loop()
    demo_task = asyncio.ensure_future(show(options))
    signals: list[int] = []

    def on_signal(number: int) -> None:
        signals.append(number)
        if len(signals) == 1:
            demo_task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await demo_task
    except asyncio.CancelledError:
        print("\ndemo: interrupted, the server is stopped", file=sys.stderr)
        return 128 + signals[0]
    return 0


def run(arguments: Sequence[str], program: str = "lockstep demo") -> int:
    """Run the demo and return its exit code."""
    from lockstep_client.errors import LockstepError
    from lockstep_client.server_process import ProcessError

    options = _options(arguments, program)
    try:
        options.models = repository(options.models)
        options.port = checked_port(options.port, "gRPC")
        options.metrics_port = checked_port(options.metrics_port, "metrics")
        return asyncio.run(_until_signalled(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, LockstepError, ProcessError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the server started
        print("\ndemo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

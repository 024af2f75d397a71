"""The command: options, signals, exit codes.

Exit codes: 0 fine, 1 the demo could not be shown, 128 + its number after a signal (Ctrl-C: 130). The server
is gone then, each time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from lockstep_client.demo import DemoError
from lockstep_client.demo.program import show
from lockstep_client.demo.server import checked_port

if TYPE_CHECKING:
    from collections.abc import Sequence


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("lockstep_client.demo", description="Show the main job, end to end.")
    parser.add_argument("--port", type=int, default=8001, help="gRPC; 0 takes a free one (%(default)s)")
    parser.add_argument("--metrics-port", type=int, default=8002, help="/metrics; 0: free (%(default)s)")
    parser.add_argument("--models", default="models", help="folder of the models (%(default)s)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    return parser.parse_args(arguments)


async def _until_signalled(options: argparse.Namespace) -> int:
    """The show, or its end by a signal. Signals arrive between two steps only, never inside of one, so
    there is no moment at which the server runs and nobody would stop it."""
    loop = asyncio.get_running_loop()
    showing = asyncio.ensure_future(show(options))
    caught: list[int] = []

    def interrupt(number: int) -> None:
        caught.append(number)
        if len(caught) == 1:
            showing.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt, number)
    try:
        await showing
    except asyncio.CancelledError:
        print("\ndemo: interrupted, the server is stopped", file=sys.stderr)
        return 128 + caught[0]
    return 0


def run(arguments: Sequence[str]) -> int:
    """The demo with these arguments; its exit code."""
    from lockstep_client.errors import LockstepError

    options = _options(arguments)
    try:
        options.port = checked_port(options.port, "gRPC")
        options.metrics_port = checked_port(options.metrics_port, "metrics")
        return asyncio.run(_until_signalled(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, LockstepError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before there was a server
        print("\ndemo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

"""Runs the server: startup, main loop, shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import logs, memory, sources
from .app import App
from .errors import LoadError
from .settings import host_and_port
from .supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .ipc.child_process import ChildProcess
    from .settings import Settings

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0002
"""Python's thread switch interval: how long an engine thread waits for a busy event loop after a run."""


def run(settings: Settings, engine: ChildProcess | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code.

    Args:
        engine: the engine process, if it has been started.
    """
    logs.configure(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        # Before the event loop: a signal ends the process at once, and the next start goes on with the copy.
        folders = sources.fetch(settings.models, settings.cache)
        return run_loop(_serve(replace(settings, models=sources.joined(folders)), engine))
    except LoadError as error:
        print(f"lockstep-serve: {error}", file=sys.stderr)
        return 1


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop if it is installed: a third more calls per second (docs/decisions/0004)."""
    try:
        import uvloop
    except ImportError:  # not available on this platform
        return asyncio.run(main)
    return uvloop.run(main)


async def _serve(settings: Settings, engine: ChildProcess | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    app = App(settings, engine=engine) if settings.frontends == 1 else Supervisor(settings)
    try:
        if not await _start(app, stop):
            log.info("stopping before the start was complete")
            return 0
        memory.keep_all()
        address = host_and_port(settings.grpc_host, app.port)
        log.info("serving %s on %s, metrics on %d", settings.models, address, app.metrics_port)
        await stop.wait()
        log.info(
            "stopping within %g s: %s; a second signal stops at once",
            settings.drain_s,
            app.work,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, lambda *_: os._exit(1))
    finally:
        await app.stop()
    log.info("stopped")
    return 0


async def _start(app: App | Supervisor, stop: asyncio.Event) -> bool:
    """Start the server, unless it is stopped meanwhile. False: it was.

    Raises:
        LoadError: as `App.start`.
    """
    starting, stopping = asyncio.ensure_future(app.start()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        await starting
        return True
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
    return False

"""The acts in their order, from the server's start to its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lockstep_client.demo import DemoError
from lockstep_client.demo.models import DemoModels, demo_models
from lockstep_client.demo.output import emit
from lockstep_client.demo.server import DemoServer, server

if TYPE_CHECKING:
    import argparse

    from lockstep_client import AsyncClient


async def show(options: argparse.Namespace) -> None:
    """Everything."""
    from lockstep_client import AsyncClient

    called = demo_models(Path(options.models))
    address = f"127.0.0.1:{options.port}"
    with server(options, called.names) as running:
        async with AsyncClient(address) as client:
            emit(f"Starting a server on {options.models}/ (gRPC {address}, metrics {options.metrics_port})")
            await _play(client, await _there(client, running, called), options.metrics_port)
        emit("\nStopping the server")
    emit("Done. `make serve` keeps one running; `.venv/bin/lockstep --help` shows how to ask it.")


async def _there(client: AsyncClient, running: DemoServer, called: DemoModels) -> DemoModels:
    """Those of the cast that answer."""
    absent = set()
    last_s = 0.0
    for name in called.names:
        ready = await running.ready(client, name)
        if isinstance(ready, str):
            absent.add(name)
            emit(f"  {name} is not served: {ready}")
        else:
            last_s = max(last_s, ready)
            if name == called.names[0]:
                emit(f"  {name} is ready after {ready:.1f} s")
    there = called.without(absent)
    emit(f"  {len(there.names)} models are ready after {last_s:.1f} s")
    if not there.classifiers:
        raise DemoError(f"no model that labels texts is served{running.told()}")
    return there


async def _play(client: AsyncClient, there: DemoModels, metrics_port: int) -> None:
    from lockstep_client.demo import bursts, classify, follow, generate, race, translate

    await classify.show(client, there.classifiers)
    await bursts.show(client, there.featured, metrics_port)
    if _plays(there.writers[0] if there.writers else "", "continues a text"):
        await generate.show(client, there.writers)
    if _plays(there.translator, "translates"):
        await translate.show(client, there.translator)
    if _plays(there.stepper, "labels texts step by step"):
        await follow.show(client, there.stepper)
    if _plays(there.transformer and there.stepper, "returns its attention, for a race with one that steps"):
        await race.show(client, there.stepper, there.transformer)


def _plays(name: str, part: str) -> bool:
    """Whether there is somebody for a part; says so where there is not."""
    if not name:
        emit(f"\nNo model here {part}, so that part is left out.")
    return bool(name)

"""The demo's sequence: start the server, wait for the models, run the parts in order, stop the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep_client.demo import DemoError
from lockstep_client.demo.models import DemoModels, demo_models
from lockstep_client.demo.output import emit
from lockstep_client.demo.server import ready, server
from lockstep_client.progress import ProgressDisplay

if TYPE_CHECKING:
    import argparse

    from lockstep_client import AsyncClient
    from lockstep_client.server_process import ServerProcess


async def show(options: argparse.Namespace) -> None:
    """Run the whole demo."""
    from lockstep_client import AsyncClient

    requested = demo_models(Path(options.models))
    address = f"127.0.0.1:{options.port}"
    with server(options, requested.names) as running:
        async with AsyncClient(address) as client:
            emit(f"Starting a server on {options.models}/ (gRPC {address}, metrics {options.metrics_port})")
            await _run_acts(client, await _wait_for_models(client, running, requested), options.metrics_port)
        emit("\nStopping the server")
    emit(
        f"Done. `lockstep-serve --models {options.models}` keeps one running; `lockstep --help` lists calls."
    )
    emit("To see it move: `lockstep ui` in another terminal, then http://localhost:8003")
    emit("In a checkout: `make serve` and `make ui`; `source .venv/bin/activate` finds the commands.")


async def _wait_for_models(client: AsyncClient, running: ServerProcess, requested: DemoModels) -> DemoModels:
    """Wait until each model is ready or has failed. Returns the models that are ready."""
    absent = set()
    last_s = 0.0
    with ProgressDisplay("  models", quiet=not sys.stderr.isatty()) as display:
        for number, name in enumerate(requested.names):
            display.update(number, len(requested.names), name)
            found = await ready(running, client, name)
            if isinstance(found, str):
                absent.add(name)
                emit(f"  {name} is not served: {found}")
            else:
                last_s = max(last_s, found)
                if name == requested.names[0]:
                    emit(f"  {name} is ready after {found:.1f} s")
    served = requested.without(absent)
    emit(f"  {len(served.names)} models are ready after {last_s:.1f} s")
    if not served.classifiers:
        raise DemoError(f"no text classifier is ready{running.log_tail()}")
    return served


async def _run_acts(client: AsyncClient, served: DemoModels, metrics_port: int) -> None:
    from lockstep_client.demo import bursts, classify, follow, generate, race, translate

    await classify.show(client, served.classifiers)
    await bursts.show(client, served.featured, metrics_port)
    if _has_model(served.writers[0] if served.writers else "", "continues a text"):
        await generate.show(client, served.writers)
    if _has_model(served.translator, "translates"):
        await translate.show(client, served.translator)
    if _has_model(served.stepper, "classifies texts step by step"):
        await follow.show(client, served.stepper)
    if _has_model(
        served.transformer and served.stepper, "returns its attention, or none has a step-wise form"
    ):
        await race.show(client, served.stepper, served.transformer)


def _has_model(name: str, capability: str) -> bool:
    """Whether there is a model for a part. Prints a message if not."""
    if not name:
        emit(f"\nNo model here {capability}: skipping this part.")
    return bool(name)

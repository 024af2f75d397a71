"""Throughput and added latency of one replica behind Serve's ingress, beside the same server alone.

The two are measured in turns within the same minute, so that other work on the machine meets both.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve

from lockstep_client import Client

from .cluster import APPLICATION
from .load import Outcomes, keep_calling
from .parts import CLASSIFIER, WRITER, _classify

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockstep_client import AsyncClient

    from .cluster import LocalCluster

_ROUNDS = 3
_ROUND_S = 2.0
_TOKENS = 256
_ROWS = (2, 512)
_CALLS = 30


def measured(cluster: LocalCluster, lone: str) -> dict[str, Any]:
    """Median of the rounds, in ms or per second."""
    figures: dict[str, Any] = {}
    for callers in (1, 32):
        found: dict[str, list[Outcomes]] = {"alone": [], "ray": []}
        for _ in range(_ROUNDS):
            for name, address in (("alone", lone), ("ray", cluster.address)):
                found[name].append(asyncio.run(_round(address, callers, _classify)))
        for name, rounds in found.items():
            figures[f"classify, {callers} in flight, {name}"] = {
                "calls_per_s": round(statistics.median(one.total / _ROUND_S for one in rounds)),
                "p50_ms": round(statistics.median(one.percentile_ms(0.5) for one in rounds), 2),
                "p99_ms": round(statistics.median(one.percentile_ms(0.99) for one in rounds), 2),
                "failed": sum(one.failed.total() for one in rounds),
            }
    for streams in (1, 16):
        rates: dict[str, list[float]] = {"alone": [], "ray": []}
        for _ in range(_ROUNDS):
            for name, address in (("alone", lone), ("ray", cluster.address)):
                outcomes = asyncio.run(_round(address, streams, _generate))
                rates[name].append(
                    outcomes.answered * _TOKENS / max(_ROUND_S, sum(outcomes.seconds) / streams)
                )
        for name, values in rates.items():
            figures[f"generate, {streams} streams, {name}"] = {
                "tokens_per_s": round(statistics.median(values))
            }
    figures |= _tensors(cluster, lone)
    return figures


async def _round(address: str, callers: int, call: Callable[[AsyncClient, int], Any]) -> Outcomes:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(_ROUND_S, stop.set)
    return await keep_calling(address, callers, call, stop)


async def _generate(client: AsyncClient, number: int) -> bool:
    stream = client.generate(WRITER, "ROMEO:", seed=number, max_tokens=_TOKENS, timeout_s=120)
    return len([one async for one in stream]) > 0


def _tensors(cluster: LocalCluster, lone: str) -> dict[str, Any]:
    """One call with tokens of `rows` x 64, by gRPC and, inside the cluster, by a deployment handle."""
    handle = serve.get_app_handle(APPLICATION)
    figures: dict[str, Any] = {}
    with Client(lone) as alone, Client(cluster.address) as through:
        ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            "alone": lambda inputs: alone.infer(CLASSIFIER, inputs),
            "ray": lambda inputs: through.infer(CLASSIFIER, inputs),
            "handle": lambda inputs: handle.infer.remote(CLASSIFIER, inputs).result(),
        }
        for rows in _ROWS:
            inputs = {"tokens": np.full((rows, 64), 7, np.int64)}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(_CALLS):
                for name, way in ways.items():
                    begun = time.perf_counter()
                    way(inputs)
                    times[name].append(1000 * (time.perf_counter() - begun))
            figures |= {
                f"infer, {rows * 64 * 8 // 1024 or 1} KiB, {name}": {
                    "p50_ms": round(statistics.median(values), 2)
                }
                for name, values in times.items()
            }
    return figures

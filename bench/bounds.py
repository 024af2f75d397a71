"""What a call costs at least, on this machine and at this time, beside the 60 lines of `bench/peers`.

`python -m bench.bounds` prints JSON: CPU per call of a bare echo and of the 60 lines by calls in flight, CPU
per row of a bare session by the rows that so many calls allow, and the time of hand-overs between threads and
between processes. Everything is measured in turns, several times; the figures are medians in microseconds.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import uvloop

from . import bare, lengths
from .peers import load, server
from .peers.catalogue import BY_NAME, REFERENCE
from .peers.measure import MODELS, make_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS, SECONDS = 3, 0.5
INFLIGHT = (1, 4, 16, 64)
MOST_ROWS = 8
"""Sorted runs of as many rows are the best for these models."""

_DRAWN = 192

_ECHO = "import uvloop; from bench.echo import main; uvloop.run(main())"
_TURNS = 2000
_MESSAGE = bytes(300)


def main() -> None:
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = make_repository(Path(folder) / "models")
        sessions = {name: bare.session(str(repository / name / "1" / "model.onnx")) for name in MODELS}
        sixty = server.running(BY_NAME[REFERENCE], Path(sys.executable), repository, MODELS)
        with _echo() as (echo, pid), sixty as running:
            for _ in range(ROUNDS):
                for name, value in _round(sessions, echo, pid, running):
                    found.setdefault(name, []).append(value)
    print(json.dumps({name: round(median(values)) for name, values in found.items()}, indent=1))


def _round(
    sessions: dict[str, Any], echo: str, pid: int, sixty: server.Running
) -> Iterator[tuple[str, float]]:
    for inflight in INFLIGHT:
        yield f"echo, {inflight} in flight", _loaded(echo, [pid], MODELS[1], inflight)["server_us"]
        for model, session in sessions.items():
            of_sixty = _loaded(sixty.address, sixty.pids(), model, inflight)
            yield f"{model}, {inflight} in flight: 60 lines", of_sixty["server_us"]
            yield f"{model}, {inflight} in flight: 60 lines, median", of_sixty["p50_ms"] * 1000
            yield f"{model}, {inflight} in flight: session", _session_us(session, inflight)
    yield "hand-over to a thread and back", uvloop.run(_to_a_thread())
    cores = sorted(os.sched_getaffinity(0))
    yield "hand-over to a process and back", uvloop.run(_to_a_process(cores, cores))
    yield "hand-over to a process and back, one core", uvloop.run(_to_a_process(cores[:1], cores[:1]))
    yield "hand-over to a process and back, a core each", uvloop.run(_to_a_process(cores[:1], cores[-1:]))


def _loaded(address: str, pids: list[int], model: str, inflight: int) -> dict[str, float]:
    return load.run(
        {
            "address": address, "kind": "open-inference", "models": [model], "inflight": inflight,
            "seconds": SECONDS, "lead_s": 0.1, "pids": pids,
        }
    )  # fmt: skip


def _session_us(session: Any, inflight: int) -> float:
    """The least CPU per row, if all that is in flight at a time is sorted and divided into equal runs: two at
    least, as there are two cores, of at most `MOST_ROWS` rows."""
    drawn, most = lengths.sst2(_DRAWN), min(MOST_ROWS, max(inflight // 2, 1))
    orders = [sorted(drawn[at : at + inflight]) for at in range(0, _DRAWN, inflight)]
    return min(_runs_us(session, orders, 1 << power) for power in range(most.bit_length()))


def _runs_us(session: Any, orders: list[list[int]], rows: int) -> float:
    outputs = {one.name for one in session.get_outputs()}
    wanted = ["logits" if "logits" in outputs else "vector"]
    runs = [order[at : at + rows] for order in orders for at in range(0, len(order), rows)]
    made = [bare.feeds(session, run, seed) for seed, run in enumerate(runs)]
    begun = time.process_time()
    for feeds in made:
        session.run(wanted, feeds)
    return (time.process_time() - begun) / _DRAWN * 1e6


# --- hand-overs -------------------------------------------------------------------------------------


async def _to_a_thread() -> float:
    """As the 60 lines hand a call to their executor."""
    loop, taken = asyncio.get_running_loop(), list[float]()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(_TURNS):
            begun = time.perf_counter()
            await loop.run_in_executor(pool, len, _MESSAGE)
            taken.append(time.perf_counter() - begun)
    return median(taken) * 1e6


async def _to_a_process(cores: list[int], theirs: list[int]) -> float:
    """A message over a socket pair to a process that waits for it, which sends it back."""
    ours, other = socket.socketpair()
    process = multiprocessing.get_context("fork").Process(target=_send_back, args=(ours, other, theirs))
    process.start()
    other.close()
    kept = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    ours.setblocking(False)
    loop, taken, back = asyncio.get_running_loop(), list[float](), asyncio.Event()

    def read() -> None:
        ours.recv(4096)
        back.set()

    loop.add_reader(ours.fileno(), read)
    for _ in range(_TURNS):
        begun = time.perf_counter()
        ours.send(_MESSAGE)
        await back.wait()
        back.clear()
        taken.append(time.perf_counter() - begun)
    loop.remove_reader(ours.fileno())
    ours.close()
    process.join()
    os.sched_setaffinity(0, kept)
    return median(taken) * 1e6


def _send_back(ours: socket.socket, connection: socket.socket, cores: list[int]) -> None:
    ours.close()  # or it would never end
    os.sched_setaffinity(0, cores)
    while message := connection.recv(4096):
        connection.sendall(message)
    os._exit(0)


@contextmanager
def _echo() -> Iterator[tuple[str, int]]:
    process = subprocess.Popen([sys.executable, "-c", _ECHO], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()

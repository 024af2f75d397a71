"""`python -m fuzz`: fuzz every target for some seconds. Exits with 1 if an outcome is not allowed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import grpc.aio
from chaos.asks import write_models

from bench.levels import engine_pid
from lockstep_client import protocol
from lockstep_client.server_process import ServerProcess
from lockstep_proto import open_inference_pb2 as ipb

from . import corpus, files, rpcs
from .mutate import mutate
from .outcomes import ANSWERS, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_AT_ONCE = 16
_SERVED = (
    "identity", "lm", "adder", "spelling", "swapped", "tagger", "translator", "fragile",
    "sentiment-attention",
)  # fmt: skip


class Fuzz:
    """Counts outcomes, keeps inputs with new ones, and notes those that are not allowed."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self.outcomes: dict[str, Counter[str]] = {}
        self.found: list[dict[str, str]] = []
        self._seen: set[tuple[str, str]] = set()

    def note(self, target: str, data: bytes, outcome: Outcome, allowed: frozenset[str]) -> None:
        self.outcomes.setdefault(target, Counter())[outcome.kind] += 1
        new = (target, outcome.signature) not in self._seen
        self._seen.add((target, outcome.signature))
        if outcome.kind not in allowed and new:
            self.find(target, outcome, data)
        elif new and self._keep and outcome.kind not in ("crash", "hang"):
            corpus.keep(target, data)

    def find(self, target: str, outcome: Outcome, data: bytes) -> None:
        print(f"  {target}: {outcome.kind}: {outcome.reason[:300]}: {data[:200]!r}", flush=True)
        self.found.append(
            {"target": target, "kind": outcome.kind, "reason": outcome.reason, "input": data.hex()}
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Mutated bytes to RPCs, ports and files.")
    parser.add_argument("--seconds", type=float, default=300.0, help="in all, shared by the targets")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--only", default="", help="fuzz the targets whose name has this in it")
    parser.add_argument("--keep", action="store_true", help="add inputs with new outcomes to the corpus")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rng, fuzz, begun = random.Random(options.seed), Fuzz(keep=options.keep), time.monotonic()
    print(f"seed {options.seed}", flush=True)
    calls = [name for name in [*rpcs.methods(), *rpcs.PORT_SEEDS] if options.only in name]
    loads = [name for name in files.TARGETS if options.only in name]
    each_s = options.seconds / max(1, len(calls) + len(loads))
    for name in loads:
        fuzz_file(fuzz, rng, name, each_s)
    if calls:
        with tempfile.TemporaryDirectory(prefix="lockstep-fuzz-") as folder:
            asyncio.run(fuzz_server(fuzz, rng, Path(folder), calls, each_s))
    total = sum(sum(one.values()) for one in fuzz.outcomes.values())
    figures = {
        "machine": f"{os.cpu_count()} shared cores",
        "seed": options.seed, "inputs": total, "seconds": round(time.monotonic() - begun, 1),
        "outcomes": {name: dict(one.most_common()) for name, one in fuzz.outcomes.items()},
        "findings": fuzz.found,
    }  # fmt: skip
    print(f"{total} inputs, {len(fuzz.found)} findings")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return bool(fuzz.found)


def fuzz_file(fuzz: Fuzz, rng: random.Random, name: str, seconds: float) -> None:
    target, end = files.FileTarget(name), time.monotonic() + seconds
    seeds = [target.seed, *corpus.inputs(name).values()]
    allowed = files.ALLOWED | files.FROM_OUTSIDE.get(name, frozenset())
    try:
        for data in seeds:
            fuzz.note(name, data, target.run(data), allowed)
        while time.monotonic() < end:
            data = mutate(rng, seeds)
            fuzz.note(name, data, target.run(data), allowed)
    finally:
        target.close()
    print(f"{name}: {dict(fuzz.outcomes[name])}", flush=True)


async def fuzz_server(
    fuzz: Fuzz, rng: random.Random, folder: Path, names: Sequence[str], each_s: float
) -> None:
    """Fuzz RPCs and ports of one server; after each, it must be the same process and answer rightly."""
    models = folder / "models"
    write_models(models)
    fakes.write_model(models, "canary", fakes.identity())  # no input names it
    flags = ["--models", str(models), "--cache", str(folder / "cache"), "--model-control", "explicit"]
    flags += ["--shared-memory-keys", rpcs.MEMORY_KEY]
    with rpcs.memory(), ServerProcess(*flags, stop_timeout_s=30.0) as server:
        server.wait_ready()
        engine = engine_pid(server.process.pid)
        rpcs.start_sequence(server.address)
        async with grpc.aio.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel:
            ports = {"http2": server.port, "http": server.metrics_port}
            for name in names:
                if name in ports:
                    target: Any = rpcs.PortTarget(ports[name])
                    seeds = list(rpcs.PORT_SEEDS[name])
                else:
                    target = rpcs.RpcTarget(channel, rpcs.methods()[name])
                    seeds = [corpus.pack(one) for one in rpcs.seeds()[name]]
                seeds += corpus.inputs(name).values()
                await _fuzz_target(fuzz, rng, name, target.run, seeds, each_s)
                if (problem := await _problem(channel)) or engine_pid(server.process.pid) != engine:
                    fuzz.find(name, Outcome("server", problem or "the engine process was replaced"), b"")
                    engine = engine_pid(server.process.pid)
                print(f"{name}: {dict(fuzz.outcomes[name])}", flush=True)
        log = server.log_text()
        for line in [one for one in log.splitlines() if " ERROR " in one][:5]:
            fuzz.find("log", Outcome("error", line), b"")


async def _fuzz_target(
    fuzz: Fuzz, rng: random.Random, name: str, run: Callable[[bytes], Any], seeds: list[bytes], seconds: float
) -> None:
    end = time.monotonic() + seconds
    pending = list(seeds)

    async def work() -> None:
        while pending or time.monotonic() < end:
            data = pending.pop() if pending else mutate(rng, seeds)
            fuzz.note(name, data, await run(data), ANSWERS)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


async def _problem(channel: grpc.aio.Channel) -> str:
    """Why the server does not serve as before; empty if it does. Models that inputs have unloaded return."""
    load: Any = channel.unary_unary(protocol.LOAD.path, response_deserializer=protocol.LOAD.reply.FromString)
    infer: Any = channel.unary_unary(
        protocol.INFER.path, response_deserializer=protocol.INFER.reply.FromString
    )
    ready: Any = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelReady", response_deserializer=ipb.ModelReadyResponse.FromString
    )
    try:
        for model in _SERVED:
            if not (await ready(ipb.ModelReadyRequest(name=model).SerializeToString(), timeout=30.0)).ready:
                request = ipb.RepositoryModelLoadRequest(model_name=model)
                await load(request.SerializeToString(), timeout=60.0)
        reply: Any = await infer(fakes.floats("canary", [[1, 2]]).SerializeToString(), timeout=30.0)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "" if fakes.values(reply, "y").tolist() == [[1, 2]] else "the canary was answered wrongly"


if __name__ == "__main__":
    sys.exit(main())

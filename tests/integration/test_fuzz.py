"""Whatever bytes an RPC or a port gets, each call ends with a status of its own: `make fuzz` in short."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import TYPE_CHECKING

import fakes
import grpc.aio
import pytest
from chaos.asks import write_models
from fuzz import corpus, rpcs
from fuzz.mutate import mutate
from fuzz.outcomes import ANSWERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.harness import Served, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fuzz.outcomes import Outcome

METHODS, SEEDS = rpcs.methods(), rpcs.seeds()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    fakes.write_model(root, "canary", fakes.identity())
    keys = rpcs.MEMORY_KEY
    with rpcs.memory(), serve(root, model_control="explicit", shared_memory_keys=keys) as started:
        rpcs.start_sequence(started.address)
        yield started


def outcomes(server: Served, inputs: dict[str, list[bytes]]) -> list[tuple[str, bytes, Outcome]]:
    """Send inputs to RPCs and ports."""

    async def run() -> list[tuple[str, bytes, Outcome]]:
        ports = {"http2": server.app.port, "http": server.app.metrics_port}
        async with grpc.aio.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel:

            async def one(name: str, data: bytes) -> tuple[str, bytes, Outcome]:
                target = (
                    rpcs.PortTarget(ports[name]) if name in ports else rpcs.RpcTarget(channel, METHODS[name])
                )
                return name, data, await target.run(data)

            return await asyncio.gather(*(one(name, data) for name, all_ in inputs.items() for data in all_))

    return asyncio.run(run())


def check(server: Served, inputs: dict[str, list[bytes]]) -> None:
    wrong = [one for one in outcomes(server, inputs) if one[2].kind not in ANSWERS]
    assert not wrong
    assert fakes.values(server.infer(fakes.floats("canary", [[1, 2]])), "y").tolist() == [[1, 2]]


def test_every_method_has_a_valid_seed(server: Served) -> None:
    inputs = {name: [corpus.pack(all_[0])] for name, all_ in SEEDS.items()}
    kinds = {name: outcome.kind for name, _, outcome in outcomes(server, inputs)}
    assert {name: kind for name, kind in kinds.items() if kind != "OK"} == {}


@pytest.mark.parametrize("name", [*METHODS, *rpcs.PORT_SEEDS])
def test_the_committed_inputs_end_with_a_status(server: Served, name: str) -> None:
    assert corpus.inputs(name), "no committed inputs; run make fuzz ARGS=--keep"
    check(server, {name: list(corpus.inputs(name).values())})


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 1 << 48))
def test_mutated_messages_end_with_a_status(server: Served, number: int) -> None:
    rng, inputs = random.Random(number), defaultdict(list)
    for name in (*METHODS, *rpcs.PORT_SEEDS):
        seeds = rpcs.PORT_SEEDS.get(name) or [corpus.pack(one) for one in SEEDS[name]]
        inputs[name] = [mutate(rng, [*seeds, *corpus.inputs(name).values()])]
    check(server, inputs)

"""Pending chunks are joined into one message, and the tokens of each message are counted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from unit.server import sample_models

from lockstep_server.api.generate_stream import TokenStream, join
from lockstep_server.frontend.admission import AdmissionController
from lockstep_server.frontend.flush_control import FlushController
from lockstep_server.frontend.inference_request import InferenceRequest
from lockstep_server.frontend.requests import InFlightRequests
from lockstep_server.frontend.served_model import ServedModel
from lockstep_server.messages import Chunk, Events, Generate
from lockstep_server.metrics.families import Metrics, ModelMeters
from lockstep_server.model.cost_model import CostModel

chunks_ = st.lists(
    st.lists(st.tuples(st.integers(0, 99), st.text("ab é", min_size=1, max_size=2)), min_size=1, max_size=5),
    min_size=1,
    max_size=6,
)


def chunk(tokens: list[tuple[int, str]], key: int = 7) -> Chunk:
    return Chunk(
        key=key,
        ids=[token for token, _ in tokens],
        text="".join(text for _, text in tokens),
        log_probabilities=[-float(token) for token, _ in tokens],
        attention=[np.full(3, token) for token, _ in tokens],
        token_texts=[text for _, text in tokens],
    )


def test_joining_no_chunks_returns_none() -> None:
    assert join([]) is None


@given(chunks_)
def test_joined_chunks_equal_one_chunk_of_all_tokens(parts: list[list[tuple[int, str]]]) -> None:
    joined = join([chunk(part) for part in parts])
    whole = chunk([token for part in parts for token in part])
    assert joined is not None
    assert replace(joined, attention=[]) == replace(whole, attention=[])
    np.testing.assert_array_equal(joined.attention, whole.attention)


class _CancellingContext:
    """A client that takes a message and cancels, so that the write never returns."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()

    async def write(self, message: Any) -> None:
        self.taken.set()
        await asyncio.Event().wait()


async def test_tokens_are_counted_if_the_client_cancels_during_the_write() -> None:
    metrics = Metrics()
    meters = ModelMeters(metrics, "m", 1, "cpu", "stepwise", ("Generate",))
    spec = sample_models.plain()
    served = ServedModel(spec, AdmissionController(spec, CostModel().to_dict()), meters)

    class Registry:
        tokenizers = None

        def get(self, model: str, version: int) -> ServedModel:
            return served

    sent = list[Any]()
    requests = InFlightRequests(lambda message, when=None: sent.append(message), Registry())  # type: ignore[arg-type]
    stream = TokenStream(
        requests,
        FlushController(lambda message: None, 0.02),
        InferenceRequest(served, "Generate", Generate(key=0, model="m", version=1, prompt=(1,))),
    )
    context = _CancellingContext()
    writing = asyncio.ensure_future(stream.write_all(context, lambda chunk, event: chunk))
    await asyncio.sleep(0)
    requests.deliver(Events(model="m", version=1, chunks=[chunk([(1, "a"), (2, "b")], key=sent[0].key)]))
    await context.taken.wait()
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    assert metrics.registry.get_sample_value("lockstep_tokens_total", {"model": "m"}) == 2
    assert len(requests) == 0

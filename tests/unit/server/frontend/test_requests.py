"""Each accepted request ends exactly once, independent of the other requests in its batch."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.errors import unavailable
from lockstep_server.frontend.admission import AdmissionController
from lockstep_server.frontend.registry import ServedModel
from lockstep_server.frontend.requests import InferenceRequest, InFlightRequests
from lockstep_server.metrics.families import Metrics, ModelMeters
from lockstep_server.model.cost_model import CostModel


class _EmptyRegistry:
    """A registry without models."""

    def get(self, model: str, version: int) -> None:
        return None


def _served() -> ServedModel:
    spec = sample_models.plain()
    return ServedModel(
        spec, AdmissionController(spec, CostModel().to_dict()), ModelMeters(Metrics(), "m", 1, "cpu")
    )


async def test_an_error_in_one_callback_does_not_affect_other_requests() -> None:
    served = _served()
    requests = InFlightRequests(lambda message, when=None: None, _EmptyRegistry())  # type: ignore[arg-type]
    received: list[messages.Event] = []

    def broken(event: messages.Event) -> None:
        raise ValueError("broken callback")

    def start(on_event: Any) -> int:
        return requests.start(
            InferenceRequest(served, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}), on_event
        )

    keys = [start(broken), start(received.append)]
    requests.deliver(messages.Events("m", 1, [messages.Event(key, {}) for key in keys]))
    assert [event.key for event in received] == keys[1:]
    assert len(requests) == 0
    assert served.admission.requests == 0


async def test_fail_all_keeps_a_tokenization_that_has_already_finished() -> None:
    served = _served()
    sent: list[Any] = []
    requests = InFlightRequests(lambda message, when=None: sent.append(message), _EmptyRegistry())  # type: ignore[arg-type]
    ended: list[messages.Event] = []
    tokenized = asyncio.ensure_future(requests.tokenize(served, "a text", (), "text"))
    cancelled = asyncio.ensure_future(requests.tokenize(served, "another", (), "text"))
    await asyncio.sleep(0)
    requests.start(InferenceRequest(served, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}), ended.append)
    requests.deliver(messages.Events("m", 1, [messages.Event(sent[0].key, {})]))
    cancelled.cancel()
    requests.fail_all(unavailable("the engine process ended"))
    assert [event.error.code.value for event in ended if event.error] == ["unavailable"]
    assert (await tokenized).error is None


@pytest.mark.parametrize(
    ("how", "when_idle", "when_busy"),
    [
        (None, messages.SendPolicy.NOW, messages.SendPolicy.COALESCE),
        (messages.Decode(), messages.SendPolicy.NOW, messages.SendPolicy.NOW),
        (messages.Feed("s"), messages.SendPolicy.NOW, messages.SendPolicy.TURN),
    ],
)
async def test_only_one_shot_requests_for_a_busy_model_are_coalesced(
    how: Any, when_idle: messages.SendPolicy, when_busy: messages.SendPolicy
) -> None:
    """Only requests for the same model count: those for another model delay nothing."""
    served, another = _served(), _served()
    sent: list[tuple[Any, messages.SendPolicy]] = []

    def send(message: Any, when: messages.SendPolicy = messages.SendPolicy.TURN) -> None:
        sent.append((message, when))

    requests = InFlightRequests(send, _EmptyRegistry())  # type: ignore[arg-type]

    def start(model: ServedModel = served) -> int:
        inference = InferenceRequest(model, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}, how=how)
        return requests.start(inference, lambda event: None)

    first, second = start(), start()
    start(another)
    requests.cancel(first)
    requests.cancel(second)
    start()
    assert [when for message, when in sent if isinstance(message, messages.Submit)] == [
        when_idle,
        when_busy,
        when_idle,
        when_idle,
    ]
    assert {when for message, when in sent if isinstance(message, messages.Cancel)} == {
        messages.SendPolicy.TURN
    }

"""Each accepted request is resolved once, whatever becomes of the others in its batch."""

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


class _Nobody:
    """A directory that serves nothing any more."""

    def get(self, model: str, version: int) -> None:
        return None


def _served() -> ServedModel:
    spec = sample_models.plain()
    return ServedModel(
        spec, AdmissionController(spec, CostModel().to_dict()), ModelMeters(Metrics(), "m", 1, "cpu")
    )


async def test_a_caller_that_cannot_take_its_answer_does_not_cost_the_others_theirs() -> None:
    served = _served()
    calls = InFlightRequests(lambda message, when=None: None, _Nobody())  # type: ignore[arg-type]
    answered: list[messages.Event] = []

    def broken(event: messages.Event) -> None:
        raise ValueError("this one's answer cannot be built")

    def ask(resolve: Any) -> int:
        return calls.start(
            InferenceRequest(served, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}), resolve
        )

    keys = [ask(broken), ask(answered.append)]
    calls.deliver(messages.Events("m", 1, [messages.Event(key, {}) for key in keys]))
    assert [event.key for event in answered] == keys[1:]
    assert len(calls) == 0
    assert served.admission.requests == 0


async def test_all_that_is_in_flight_ends_while_a_text_that_was_read_awaits_its_turn() -> None:
    served = _served()
    sent: list[Any] = []
    calls = InFlightRequests(lambda message, when=None: sent.append(message), _Nobody())  # type: ignore[arg-type]
    ended: list[messages.Event] = []
    reading = asyncio.ensure_future(calls.read(served, "a text", (), "text"))
    left = asyncio.ensure_future(calls.read(served, "another", (), "text"))
    await asyncio.sleep(0)
    calls.start(InferenceRequest(served, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}), ended.append)
    calls.deliver(messages.Events("m", 1, [messages.Event(sent[0].key, {})]))
    left.cancel()
    calls.fail_all(unavailable("the engine process ended"))
    assert [event.error.code.value for event in ended if event.error] == ["unavailable"]
    assert (await reading).error is None


@pytest.mark.parametrize(
    ("how", "alone", "in_company"),
    [
        (None, messages.SendPolicy.NOW, messages.SendPolicy.COALESCE),
        (messages.Decode(), messages.SendPolicy.NOW, messages.SendPolicy.NOW),
        (messages.Feed("s"), messages.SendPolicy.NOW, messages.SendPolicy.TURN),
    ],
)
async def test_only_one_shot_requests_in_company_wait_for_the_loop_to_be_quiet(
    how: Any, alone: messages.SendPolicy, in_company: messages.SendPolicy
) -> None:
    """Company is another request for the same model: streams of another one hold nobody up."""
    served, another = _served(), _served()
    crossed: list[tuple[Any, messages.SendPolicy]] = []

    def send(message: Any, when: messages.SendPolicy = messages.SendPolicy.TURN) -> None:
        crossed.append((message, when))

    calls = InFlightRequests(send, _Nobody())  # type: ignore[arg-type]

    def start(model: ServedModel = served) -> int:
        ask = InferenceRequest(model, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}, how=how)
        return calls.start(ask, lambda event: None)

    first, second = start(), start()
    start(another)
    calls.cancel(first)
    calls.cancel(second)
    start()
    assert [when for message, when in crossed if isinstance(message, messages.Submit)] == [
        alone,
        in_company,
        alone,
        alone,
    ]
    assert {when for message, when in crossed if isinstance(message, messages.Cancel)} == {
        messages.SendPolicy.TURN
    }

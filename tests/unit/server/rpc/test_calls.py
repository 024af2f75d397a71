"""Each accepted request is resolved once, whatever becomes of the others in its batch."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from unit.server import made

from lockstep_server import port
from lockstep_server.errors import unavailable
from lockstep_server.metrics import Metrics, ModelMeters
from lockstep_server.models.costs import CostModel
from lockstep_server.rpc.admission import Backlog
from lockstep_server.rpc.calls import Ask, Calls
from lockstep_server.rpc.served import Served


class _Nobody:
    """A directory that serves nothing any more."""

    def get(self, model: str, version: int) -> None:
        return None


def _served() -> Served:
    card = made.plain()
    return Served(card, Backlog(card, CostModel().to_dict()), ModelMeters(Metrics(), "m", 1, "cpu"))


async def test_a_caller_that_cannot_take_its_answer_does_not_cost_the_others_theirs() -> None:
    served = _served()
    calls = Calls(lambda message, when=None: None, _Nobody())  # type: ignore[arg-type]
    answered: list[port.Event] = []

    def broken(event: port.Event) -> None:
        raise ValueError("this one's answer cannot be built")

    def ask(resolve: Any) -> int:
        return calls.start(Ask(served, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}), resolve)

    keys = [ask(broken), ask(answered.append)]
    calls.deliver(port.Events("m", 1, [port.Event(key, {}) for key in keys]))
    assert [event.key for event in answered] == keys[1:]
    assert len(calls) == 0
    assert served.backlog.requests == 0


async def test_all_that_is_in_flight_ends_while_a_text_that_was_read_awaits_its_turn() -> None:
    served = _served()
    sent: list[Any] = []
    calls = Calls(lambda message, when=None: sent.append(message), _Nobody())  # type: ignore[arg-type]
    ended: list[port.Event] = []
    reading = asyncio.ensure_future(calls.read(served, "a text", (), "text"))
    left = asyncio.ensure_future(calls.read(served, "another", (), "text"))
    await asyncio.sleep(0)
    calls.start(Ask(served, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}), ended.append)
    calls.deliver(port.Events("m", 1, [port.Event(sent[0].key, {})]))
    left.cancel()
    calls.fail_all(unavailable("the engine process ended"))
    assert [event.error.meaning.value for event in ended if event.error] == ["unavailable"]
    assert (await reading).error is None


@pytest.mark.parametrize(
    ("how", "alone", "in_company"),
    [
        (None, port.When.NOW, port.When.QUIET),
        (port.Decode(), port.When.NOW, port.When.NOW),
        (port.Feed("s"), port.When.NOW, port.When.TURN),
    ],
)
async def test_only_one_shot_requests_in_company_wait_for_the_loop_to_be_quiet(
    how: Any, alone: port.When, in_company: port.When
) -> None:
    """Company is another request for the same model: streams of another one hold nobody up."""
    served, another = _served(), _served()
    crossed: list[tuple[Any, port.When]] = []

    def send(message: Any, when: port.When = port.When.TURN) -> None:
        crossed.append((message, when))

    calls = Calls(send, _Nobody())  # type: ignore[arg-type]

    def start(model: Served = served) -> int:
        ask = Ask(model, "ModelInfer", {"x": np.zeros((1, 3), np.float32)}, how=how)
        return calls.start(ask, lambda event: None)

    first, second = start(), start()
    start(another)
    calls.cancel(first)
    calls.cancel(second)
    start()
    assert [when for message, when in crossed if isinstance(message, port.Submit)] == [
        alone,
        in_company,
        alone,
        alone,
    ]
    assert {when for message, when in crossed if isinstance(message, port.Cancel)} == {port.When.TURN}

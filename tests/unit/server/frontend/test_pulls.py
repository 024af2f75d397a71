"""Requests that wait for a sequence which a peer has."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.frontend.peers import PullAnswer, PullResult
from lockstep_server.frontend.pulls import Pulls

LOST = ServingError(ErrorCode.SEQUENCE_LOST, "unknown sequence")


class Holder:
    """A peer that answers a pull when the test lets it."""

    incarnation = "holder"

    def __init__(self, result: PullResult) -> None:
        self.link, self.may_answer = self, asyncio.Event()
        self._result = result

    async def pull(self, *_: Any) -> PullAnswer:
        await self.may_answer.wait()
        return PullAnswer(self.incarnation, self._result)


def step(key: int) -> messages.Step:
    return messages.Step(
        key=key, model="m", version=1, sequence=7, start=False, end=False, inputs={}, accepted=0.0
    )


@pytest.mark.parametrize(
    ("result", "here"), [(PullResult.MOVED, False), (PullResult.ABSENT, False), (PullResult.LEFT, True)]
)
async def test_requests_go_on_in_the_order_in_which_they_came(result: PullResult, here: bool) -> None:
    """The engine had the second one already when the first one failed, and says so after the third came.
    `here`: the sequence has come without this search."""
    holder = Holder(result)

    async def current() -> list[Holder]:
        return [holder]

    async def has(*_: Any) -> bool:
        return here

    peers = SimpleNamespace(current=current, unreachable=list, own="taker")
    mover: Any = SimpleNamespace(draining=False, peers=peers, has=has)
    pulls, ended, all_ended = Pulls(mover), list[int](), asyncio.Event()

    errors = list[Any]()

    def end(request: messages.Request, *error: Any) -> None:
        ended.append(request.key)
        errors.extend(error)
        if len(ended) == 4:
            all_ended.set()

    pulls.send = pulls.fail = end
    assert pulls.missed(step(1), LOST, "alice")
    assert pulls.defers(step(3))
    assert pulls.missed(step(2), LOST, "alice")
    assert pulls.defers(step(4))
    holder.may_answer.set()
    await all_ended.wait()
    assert ended == [1, 2, 3, 4]
    assert errors == ([LOST] * 4 if result is PullResult.ABSENT else [])
    assert not pulls.defers(step(5)), "nothing waits any more"

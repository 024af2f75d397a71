"""When messages cross: in order, each once, and together where the loop is busy reading more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from lockstep_server import messages
from lockstep_server.ipc.coalescing import LONGEST_S, MOST, QUIET_TURNS, MessageCoalescer
from lockstep_server.messages import SendPolicy

if TYPE_CHECKING:
    from collections.abc import Callable


class Crossings:
    """An outbox, its clock, and the keys of what crossed each time."""

    def __init__(self) -> None:
        self.now, self.keys = 0.0, list[list[int]]()
        self._coalescer = MessageCoalescer(self._cross, lambda: self.now)

    def _cross(self, batch: list[messages.Message]) -> None:
        self.keys.append([message.key for message in batch if isinstance(message, messages.Cancel)])

    def put(self, key: int, when: SendPolicy) -> None:
        self._coalescer.put(messages.Cancel(key), when)

    def flush(self) -> None:
        self._coalescer.flush()

    def all(self) -> list[int]:
        return [key for keys in self.keys for key in keys]


async def turns(count: int, each: Callable[[int], None] = lambda _: None) -> None:
    for turn in range(count):
        each(turn)
        await asyncio.sleep(0)


async def test_now_takes_what_waits_along() -> None:
    box = Crossings()
    box.put(1, SendPolicy.COALESCE)
    box.put(2, SendPolicy.TURN)
    box.put(3, SendPolicy.NOW)
    assert box.keys == [[1, 2, 3]]
    await turns(QUIET_TURNS + 3)
    assert box.keys == [[1, 2, 3]]


async def test_messages_of_one_turn_cross_at_its_end() -> None:
    box = Crossings()
    box.put(1, SendPolicy.TURN)
    box.put(2, SendPolicy.TURN)
    assert box.keys == []
    await turns(2)
    assert box.keys == [[1, 2]]


async def test_one_that_may_wait_crosses_once_the_loop_brings_no_more() -> None:
    box = Crossings()
    box.put(1, SendPolicy.COALESCE)
    await turns(QUIET_TURNS)
    assert box.keys == []
    await turns(2)
    assert box.keys == [[1]]


async def test_a_turn_that_brings_another_begins_the_quiet_anew() -> None:
    box = Crossings()

    def now_and_then(turn: int) -> None:
        if turn % (QUIET_TURNS - 1) == 0:
            box.put(turn, SendPolicy.COALESCE)

    await turns(3 * QUIET_TURNS, now_and_then)
    assert box.keys == []
    await turns(QUIET_TURNS + 2)
    assert box.keys == [[0, QUIET_TURNS - 1, 2 * (QUIET_TURNS - 1), 3 * (QUIET_TURNS - 1)]]


async def test_one_that_is_due_at_the_end_of_the_turn_takes_those_along_that_may_wait() -> None:
    box = Crossings()
    box.put(1, SendPolicy.COALESCE)
    await turns(2)
    box.put(2, SendPolicy.TURN)
    box.put(3, SendPolicy.COALESCE)
    await turns(2)
    assert box.keys == [[1, 2, 3]]
    box.put(4, SendPolicy.COALESCE)
    await turns(3)
    assert box.keys == [[1, 2, 3]], "the haste of one crossing is not the next one's"


async def test_a_loop_that_is_never_quiet_holds_nobody_for_longer_than_the_bound() -> None:
    box = Crossings()

    def busy(turn: int) -> None:
        box.now += 0.001
        if turn < MOST - 1:
            box.put(turn, SendPolicy.COALESCE)

    await turns(3 * MOST, busy)
    first = box.keys[0]
    assert 1 < len(first) <= LONGEST_S / 0.001 + 2
    assert box.all() == list(range(MOST - 1))


async def test_as_many_as_make_a_crossing_worth_it_wait_for_the_end_of_the_turn_only() -> None:
    box = Crossings()
    for key in range(3 * MOST):
        box.put(key, SendPolicy.COALESCE)
    assert box.keys == []
    await turns(2)
    assert box.keys == [list(range(3 * MOST))]


async def test_what_waits_crosses_when_it_is_told_to() -> None:
    box = Crossings()
    box.put(1, SendPolicy.COALESCE)
    box.flush()
    box.flush()
    assert box.keys == [[1]]


@given(st.lists(st.one_of(st.sampled_from(SendPolicy), st.integers(1, QUIET_TURNS + 2)), max_size=60))
def test_each_crosses_once_and_in_order(doings: list[SendPolicy | int]) -> None:
    async def play() -> None:
        box, key = Crossings(), 0
        for doing in doings:
            if isinstance(doing, SendPolicy):
                box.put(key, doing)
                key += 1
            else:
                await turns(doing)
        await turns(QUIET_TURNS + 3)
        assert all(box.keys)
        assert box.all() == list(range(key))

    asyncio.run(play())

"""Messages are sent in order, each exactly once, and in batches while the event loop reads more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from lockstep_server import messages
from lockstep_server.ipc.coalescing import IDLE_TURNS, MAX_DELAY_S, MAX_MESSAGES, MessageCoalescer
from lockstep_server.messages import SendPolicy

if TYPE_CHECKING:
    from collections.abc import Callable


class CoalescerDriver:
    """A coalescer with a manual clock, and the keys of each batch that it sent."""

    def __init__(self) -> None:
        self.now, self.batches = 0.0, list[list[int]]()
        self._coalescer = MessageCoalescer(self._send, lambda: self.now)

    def _send(self, batch: list[messages.Message]) -> None:
        self.batches.append([message.key for message in batch if isinstance(message, messages.Cancel)])

    def put(self, key: int, when: SendPolicy) -> None:
        self._coalescer.put(messages.Cancel(key), when)

    def flush(self) -> None:
        self._coalescer.flush()

    def all(self) -> list[int]:
        return [key for batch in self.batches for key in batch]


async def turns(count: int, each: Callable[[int], None] = lambda _: None) -> None:
    for turn in range(count):
        each(turn)
        await asyncio.sleep(0)


async def test_now_sends_the_queued_messages_too() -> None:
    driver = CoalescerDriver()
    driver.put(1, SendPolicy.COALESCE)
    driver.put(2, SendPolicy.TURN)
    driver.put(3, SendPolicy.NOW)
    assert driver.batches == [[1, 2, 3]]
    await turns(IDLE_TURNS + 3)
    assert driver.batches == [[1, 2, 3]]


async def test_messages_of_one_turn_are_sent_at_its_end() -> None:
    driver = CoalescerDriver()
    driver.put(1, SendPolicy.TURN)
    driver.put(2, SendPolicy.TURN)
    assert driver.batches == []
    await turns(2)
    assert driver.batches == [[1, 2]]


async def test_a_coalesced_message_is_sent_once_the_loop_is_idle() -> None:
    driver = CoalescerDriver()
    driver.put(1, SendPolicy.COALESCE)
    await turns(IDLE_TURNS)
    assert driver.batches == []
    await turns(2)
    assert driver.batches == [[1]]


async def test_a_new_message_restarts_the_idle_count() -> None:
    driver = CoalescerDriver()

    def every_few_turns(turn: int) -> None:
        if turn % (IDLE_TURNS - 1) == 0:
            driver.put(turn, SendPolicy.COALESCE)

    await turns(3 * IDLE_TURNS, every_few_turns)
    assert driver.batches == []
    await turns(IDLE_TURNS + 2)
    assert driver.batches == [[0, IDLE_TURNS - 1, 2 * (IDLE_TURNS - 1), 3 * (IDLE_TURNS - 1)]]


async def test_a_message_due_at_the_end_of_the_turn_takes_coalesced_ones_along() -> None:
    driver = CoalescerDriver()
    driver.put(1, SendPolicy.COALESCE)
    await turns(2)
    driver.put(2, SendPolicy.TURN)
    driver.put(3, SendPolicy.COALESCE)
    await turns(2)
    assert driver.batches == [[1, 2, 3]]
    driver.put(4, SendPolicy.COALESCE)
    await turns(3)
    assert driver.batches == [[1, 2, 3]], "the next batch waits again"


async def test_a_busy_loop_delays_no_message_beyond_the_bound() -> None:
    driver = CoalescerDriver()

    def busy(turn: int) -> None:
        driver.now += 0.001
        if turn < MAX_MESSAGES - 1:
            driver.put(turn, SendPolicy.COALESCE)

    await turns(3 * MAX_MESSAGES, busy)
    first = driver.batches[0]
    assert 1 < len(first) <= MAX_DELAY_S / 0.001 + 2
    assert driver.all() == list(range(MAX_MESSAGES - 1))


async def test_a_full_batch_is_sent_at_the_end_of_the_turn() -> None:
    driver = CoalescerDriver()
    for key in range(3 * MAX_MESSAGES):
        driver.put(key, SendPolicy.COALESCE)
    assert driver.batches == []
    await turns(2)
    assert driver.batches == [list(range(3 * MAX_MESSAGES))]


async def test_flush_sends_the_queued_messages_once() -> None:
    driver = CoalescerDriver()
    driver.put(1, SendPolicy.COALESCE)
    driver.flush()
    driver.flush()
    assert driver.batches == [[1]]


@given(st.lists(st.one_of(st.sampled_from(SendPolicy), st.integers(1, IDLE_TURNS + 2)), max_size=60))
def test_each_message_is_sent_once_and_in_order(actions: list[SendPolicy | int]) -> None:
    async def run_all() -> None:
        driver, key = CoalescerDriver(), 0
        for action in actions:
            if isinstance(action, SendPolicy):
                driver.put(key, action)
                key += 1
            else:
                await turns(action)
        await turns(IDLE_TURNS + 3)
        assert all(driver.batches)
        assert driver.all() == list(range(key))

    asyncio.run(run_all())

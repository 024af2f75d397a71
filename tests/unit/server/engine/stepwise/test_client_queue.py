"""The queue of client-driven sequences: their steps, starts, ends and evictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from unit.server.engine.stepwise.step_models import generation_sequence, step_request

from lockstep_server.engine.stepwise.queues import UNKNOWN_SEQUENCE, ClientQueue
from lockstep_server.engine.stepwise.sequence import ClientSequence
from lockstep_server.engine.stepwise.slot_pool import SlotPool
from lockstep_server.errors import ErrorCode

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import StepRequest
    from lockstep_server.errors import ServingError


class ClientQueueDriver:
    """A queue, with the part of the scheduler that gives slots to its sequences."""

    def __init__(self, slots: int = 2) -> None:
        self.pool = SlotPool(slots, 2, 10.0)
        self.queue = ClientQueue(self.pool, idle_timeout_s=60.0)

    @classmethod
    def without_free_slot(cls) -> ClientQueueDriver:
        driver = cls(slots=1)
        driver.pool.add(generation_sequence(), None, 0.0)
        driver.pool.admit(0.0)
        return driver

    def add(
        self, key: int, sequence: Any = "s", *, start: bool = False, end: bool = False, now: float = 0.0
    ) -> StepRequest:
        step = step_request(key, accepted=now, sequence=sequence)
        assert self.queue.add(step, start=start, end=end, now=now) is None
        return step

    def rejection(self, sequence: Any, *, start: bool = False, deadline: float | None = None) -> ServingError:
        request = step_request(sequence=sequence, deadline=deadline)
        error = self.queue.add(request, start=start, end=False, now=0.0)
        assert error is not None
        return error

    def next_steps(self, now: float = 0.0) -> tuple[StepRequest, ...]:
        self.queue.evict(now)
        for sequence in self.pool.admit(now):
            if isinstance(sequence, ClientSequence):
                self.queue.start(sequence)
        return self.queue.next_steps()

    def run(self, now: float = 0.0) -> tuple[StepRequest, ...]:
        """Run one step of each ready sequence, and finish it."""
        steps = self.next_steps(now)
        for step in steps:
            self.queue.finish(step, now)
        return steps

    def make_idle(self, sequence: Any, now: float) -> None:
        step = self.add(0, sequence, start=True, now=now)
        assert self.run(now) == (step,)

    def state(self) -> tuple[int, int, int, int]:
        """The numbers of ready and idle sequences, used slots and waiting sequences."""
        return self.queue.ready, self.queue.idle, self.pool.used, len(self.pool.waiting)


# --- steps ------------------------------------------------------------------------------------------


def test_an_empty_queue_has_no_steps() -> None:
    driver = ClientQueueDriver()
    assert (driver.queue.next_steps(), driver.queue.due()) == ((), float("inf"))


def test_steps_of_one_sequence_run_one_at_a_time_in_order() -> None:
    driver = ClientQueueDriver()
    steps = [driver.add(1, start=True), driver.add(2), driver.add(3)]
    assert [driver.run() for _ in steps] == [(step,) for step in steps]
    assert driver.run() == ()


def test_steps_of_several_sequences_run_together() -> None:
    driver = ClientQueueDriver()
    first, second = driver.add(1, "a", start=True), driver.add(2, "b", start=True)
    assert set(driver.run()) == {first, second}


def test_steps_wait_until_their_sequence_has_a_slot() -> None:
    driver = ClientQueueDriver(slots=1)
    first, second = driver.add(1, "a", start=True), driver.add(2, "b", start=True)
    assert driver.run() == (first,)
    assert driver.run() == ()
    driver.queue.end("a")
    assert driver.run() == (second,)


def test_the_steps_of_one_id_belong_to_one_client_sequence() -> None:
    driver = ClientQueueDriver()
    assert driver.add(1, start=True).sequence is driver.add(2).sequence
    assert driver.add(3, "other", start=True).sequence is not driver.add(4).sequence


def test_a_sequence_whose_next_step_was_dropped_before_it_had_a_slot_is_idle_after_its_first() -> None:
    driver = ClientQueueDriver()
    started, second = driver.add(1, start=True), driver.add(2)
    driver.queue.drop(second)
    assert driver.run(1.0) == (started,)
    assert driver.state() == (0, 1, 1, 0)
    assert driver.queue.due() == 61.0


def test_a_dropped_step_is_skipped_and_the_next_one_runs() -> None:
    driver = ClientQueueDriver()
    started, second, third = driver.add(1, start=True), driver.add(2), driver.add(3)
    assert driver.next_steps() == (started,)
    driver.queue.drop(second)
    driver.queue.finish(started, 0.0)
    assert second.dropped
    assert driver.run() == (third,)


def test_a_ready_sequence_whose_only_step_is_dropped_becomes_idle() -> None:
    driver = ClientQueueDriver()
    driver.make_idle("s", 0.0)
    driver.queue.drop(driver.add(2, now=5.0))
    assert (driver.run(5.0), driver.state()) == ((), (0, 1, 1, 0))


def test_dropping_all_steps_of_a_waiting_sequence_ends_it() -> None:
    driver = ClientQueueDriver.without_free_slot()
    first, second = driver.add(1, start=True), driver.add(2)
    driver.queue.drop(first)
    assert driver.state() == (0, 0, 1, 1)
    driver.queue.drop(second)
    assert driver.state() == (0, 0, 1, 0)
    assert driver.rejection("s").code is ErrorCode.SEQUENCE_LOST


# --- start and end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [17, "seventeen", ("follow", 17)])
def test_an_unknown_id_is_rejected_with_a_hint_to_start_it(sequence: Any) -> None:
    error = ClientQueueDriver().rejection(sequence)
    assert error.code is ErrorCode.SEQUENCE_LOST
    assert "sequence_start" in error.message
    assert "17" not in error.message  # it is logged
    assert "seventeen" not in error.message


def test_ids_of_different_types_are_different() -> None:
    driver = ClientQueueDriver()
    driver.add(1, 1, start=True)
    assert driver.rejection("1").message == UNKNOWN_SEQUENCE


def test_a_start_that_the_pool_rejects_changes_nothing() -> None:
    driver = ClientQueueDriver(slots=1)
    driver.add(1, start=True)
    driver.next_steps()
    driver.pool.slot_time_s = 4.0
    assert driver.rejection("other", start=True, deadline=3.0).code is ErrorCode.OVERLOADED
    assert driver.rejection("other").message == UNKNOWN_SEQUENCE
    assert driver.rejection("s", start=True, deadline=3.0).code is ErrorCode.OVERLOADED
    driver.add(2)  # the old sequence is still live


def test_a_start_on_a_live_id_ends_the_old_sequence_and_starts_a_new_one() -> None:
    driver = ClientQueueDriver()
    old = driver.add(1, start=True)
    driver.run()
    new = driver.add(2, start=True)
    assert new.sequence is not old.sequence
    assert not old.sequence.has_slot
    assert driver.run() == (new,)
    assert driver.add(3).sequence is new.sequence
    assert driver.state() == (1, 0, 1, 0)


def test_waiting_steps_of_the_replaced_sequence_are_answered() -> None:
    driver = ClientQueueDriver()
    old, owed, new = driver.add(1, start=True), driver.add(2), driver.add(3, start=True)
    assert set(driver.run()) == {old, new}
    assert driver.run() == (owed,)
    assert driver.state() == (0, 1, 1, 0)


def test_an_end_frees_the_slot_after_its_step() -> None:
    driver = ClientQueueDriver(slots=1)
    started, last = driver.add(1, start=True), driver.add(2, end=True)
    assert driver.run() == (started,)
    assert driver.state() == (1, 0, 1, 0)
    assert driver.run() == (last,)
    assert driver.state() == (0, 0, 0, 0)


def test_a_step_with_start_and_end_keeps_nothing() -> None:
    driver = ClientQueueDriver()
    only = driver.add(1, start=True, end=True)
    only.sequence.states = {}
    assert driver.run() == (only,)
    assert driver.state() == (0, 0, 0, 0)
    assert only.sequence.states is None


def test_an_end_while_waiting_for_a_slot_still_runs_every_step() -> None:
    driver = ClientQueueDriver(slots=1)
    driver.make_idle("other", 0.0)
    started, last = driver.add(1, start=True), driver.add(2, end=True)
    assert driver.run() == ()
    driver.queue.end("other")
    assert (driver.run(), driver.run()) == ((started,), (last,))


@pytest.mark.parametrize("state", ["waiting for a slot", "in a step", "idle", "stepping again"])
def test_ending_a_sequence_frees_its_slot_and_drops_its_steps_in_every_state(state: str) -> None:
    waiting = state == "waiting for a slot"
    driver = ClientQueueDriver.without_free_slot() if waiting else ClientQueueDriver()
    started = driver.add(7, start=True)
    driver.next_steps()
    if state in ("idle", "stepping again"):
        driver.queue.finish(started, 0.0)
    again = [driver.add(8)] if state == "stepping again" else []
    dropped = driver.queue.end("s")
    if state == "in a step":
        driver.queue.finish(started, 0.0)
    assert dropped == ([started] if waiting else again)
    assert all(step.dropped for step in dropped)
    assert driver.run() == ()
    assert driver.state() == (0, 0, int(waiting), 0)
    assert driver.rejection("s").code is ErrorCode.SEQUENCE_LOST


def test_ending_an_unknown_sequence_is_ignored() -> None:
    driver = ClientQueueDriver()
    driver.make_idle("s", 0.0)
    assert driver.queue.end("unknown") == []
    assert driver.state() == (0, 1, 1, 0)


# --- evictions --------------------------------------------------------------------------------------


def test_an_idle_sequence_is_evicted_and_its_next_step_gets_an_error() -> None:
    driver = ClientQueueDriver()
    driver.make_idle("s", 0.0)
    driver.queue.evict(59.9)
    assert (driver.state(), driver.queue.due()) == ((0, 1, 1, 0), 60.0)
    driver.queue.evict(60.0)
    assert driver.state() == (0, 0, 0, 0)
    error = driver.rejection("s")
    assert error.code is ErrorCode.SEQUENCE_LOST
    assert "start it again" in error.message


def test_a_step_that_arrives_before_the_plan_prevents_the_eviction() -> None:
    driver = ClientQueueDriver()
    driver.make_idle("s", 0.0)
    late = driver.add(2, now=61.0)
    assert driver.run(61.0) == (late,)
    driver.queue.evict(62.0)
    driver.add(3, now=62.0)


def test_an_evicted_id_can_start_again() -> None:
    driver = ClientQueueDriver()
    driver.make_idle("s", 0.0)
    driver.queue.evict(60.0)
    started = driver.add(2, start=True, now=61.0)
    assert driver.run(61.0) == (started,)
    driver.add(3, end=True, now=62.0)
    assert "has ended" in driver.rejection("s").message  # not evicted


def test_each_step_restarts_the_idle_timeout() -> None:
    driver = ClientQueueDriver()
    driver.make_idle("a", 0.0)
    driver.make_idle("b", 1.0)
    again = driver.add(3, "a", now=50.0)
    assert driver.run(50.0) == (again,)
    assert driver.queue.due() == 61.0
    driver.queue.evict(61.0)
    assert driver.rejection("b").code is ErrorCode.SEQUENCE_LOST
    driver.add(4, "a", now=61.0)


def test_a_sequence_waiting_for_a_slot_is_not_evicted() -> None:
    driver = ClientQueueDriver.without_free_slot()
    driver.add(1, start=True)
    driver.queue.evict(1000.0)
    assert driver.state() == (0, 0, 1, 1)


def test_evicted_ids_are_remembered_up_to_a_bound() -> None:
    driver = ClientQueueDriver(slots=1)
    for i in range(6000):
        driver.make_idle(i, float(i * 100))
        driver.queue.evict(float(i * 100 + 60))
    assert "evicted" in driver.rejection(5999).message
    assert driver.rejection(0).message == UNKNOWN_SEQUENCE


def test_a_step_after_the_end_says_so_and_an_unknown_id_is_unknown() -> None:
    driver = ClientQueueDriver()
    driver.add(1, "s", start=True, end=True)
    driver.run()
    error = driver.rejection("s")
    assert error.code is ErrorCode.SEQUENCE_LOST
    assert "has ended" in error.message
    assert driver.rejection("never started").message == UNKNOWN_SEQUENCE
    driver.add(2, "s", start=True)  # the id can be used again
    assert len(driver.run()) == 1

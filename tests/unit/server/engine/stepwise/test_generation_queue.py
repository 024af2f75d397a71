"""The queue of generation sequences: pauses, credit, cancels and stalled streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from unit.server.engine.stepwise.step_models import generation_sequence

from lockstep_server.engine.stepwise.queues import GenerationQueue
from lockstep_server.engine.stepwise.slot_pool import SlotPool
from lockstep_server.errors import ErrorCode

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import GenerationSequence


def make_queue(slots: int = 2) -> tuple[GenerationQueue, SlotPool]:
    pool = SlotPool(slots, 2, 10.0)
    return GenerationQueue(pool, stalled_s=30.0), pool


def add(queue: GenerationQueue, pool: SlotPool, now: float = 0.0, **more: Any) -> GenerationSequence:
    """A sequence that runs."""
    sequence = generation_sequence(**more)
    assert queue.add(sequence, now) is None
    assert pool.admit(now) == [sequence]
    queue.start([sequence])
    return sequence


def pause(queue: GenerationQueue, sequence: GenerationSequence, now: float = 0.0) -> None:
    sequence.credits = 0
    queue.pause(sequence, now)


def test_an_empty_queue_has_no_work() -> None:
    queue, _ = make_queue()
    assert (queue.running, queue.paused, queue.has_work(), queue.due()) == (0, 0, False, float("inf"))


def test_a_sequence_runs_only_after_it_got_a_slot() -> None:
    queue, pool = make_queue()
    assert queue.add(generation_sequence(), 0.0) is None
    assert (queue.running, queue.has_work(), pool.can_admit()) == (0, False, True)


def test_a_sequence_that_the_pool_rejects_is_not_queued() -> None:
    queue, pool = make_queue(slots=1)
    pool.slot_time_s = 4.0
    add(queue, pool)
    error = queue.add(generation_sequence(deadline=3.0), 0.0)
    assert error is not None
    assert error.code is ErrorCode.OVERLOADED
    assert pool.waiting == []


def test_a_paused_sequence_keeps_its_slot_and_resumes_with_credit() -> None:
    queue, pool = make_queue()
    slow = add(queue, pool)
    pause(queue, slow, 1.0)
    assert (queue.running, queue.paused, queue.has_work(), pool.used) == (0, 1, False, 1)
    queue.credit(slow, 1)
    assert (queue.running, queue.paused, queue.has_work()) == (1, 0, True)
    assert queue.resume() == (slow,)
    assert queue.resume() == ()
    assert queue.running == 1


def test_credit_that_stays_below_one_does_not_resume() -> None:
    queue, pool = make_queue()
    slow = add(queue, pool)
    pause(queue, slow)
    slow.credits = -1
    queue.credit(slow, 1)
    assert queue.resume() == ()
    queue.credit(slow, 1)
    assert queue.resume() == (slow,)


def test_credit_of_a_running_sequence_adds_up() -> None:
    queue, pool = make_queue()
    fast = add(queue, pool)
    fast.credits = 3
    queue.credit(fast, 2)
    assert (fast.credits, queue.resume()) == (5, ())


def test_a_stream_that_is_not_read_for_stalled_s_is_ended() -> None:
    queue, pool = make_queue()
    slow, slower = add(queue, pool), add(queue, pool)
    pause(queue, slow, 1.0)
    pause(queue, slower, 2.0)
    assert queue.due() == 31.0
    assert queue.end_stalled(30.9) == []
    ((request, error),) = queue.end_stalled(31.0)
    assert (request, error.code) == (slow, ErrorCode.SEQUENCE_LOST)
    assert "30 s" in error.message
    assert (queue.paused, queue.due(), pool.used) == (1, 32.0, 1)


def test_resuming_restarts_the_stalled_timeout() -> None:
    queue, pool = make_queue()
    slow = add(queue, pool)
    pause(queue, slow, 0.0)
    queue.credit(slow, 1)
    queue.resume()
    pause(queue, slow, 29.0)
    assert queue.end_stalled(31.0) == []
    assert queue.due() == 59.0


@pytest.mark.parametrize("state", ["running", "paused", "resuming"])
def test_a_cancelled_sequence_frees_its_slot_and_is_returned_once(state: str) -> None:
    queue, pool = make_queue()
    gone = add(queue, pool)
    if state != "running":
        pause(queue, gone)
    if state == "resuming":
        queue.credit(gone, 5)
    queue.cancel(gone)
    assert (queue.running, queue.paused, pool.used, queue.has_work()) == (0, 0, 0, True)
    assert (queue.resume(), queue.take_cancelled(), queue.take_cancelled()) == ((), (gone,), ())
    assert not queue.has_work()
    assert queue.end_stalled(100.0) == []


def test_a_sequence_cancelled_while_waiting_is_in_no_batch() -> None:
    queue, pool = make_queue()
    gone = generation_sequence()
    queue.add(gone, 0.0)
    queue.cancel(gone)
    assert (queue.take_cancelled(), pool.waiting, queue.has_work()) == ((), [], False)


def test_an_ended_sequence_is_not_paused() -> None:
    queue, pool = make_queue()
    done = add(queue, pool)
    queue.finish(done, 0.0)
    queue.pause(done, 0.0)
    assert (queue.running, queue.paused, pool.used) == (0, 0, 0)


def test_the_slot_time_is_learned_from_sequences_that_end() -> None:
    queue, pool = make_queue()
    first, second, gone = add(queue, pool), add(queue, pool), generation_sequence()
    queue.finish(first, 4.0)
    assert pool.slot_time_s == 4.0
    queue.finish(second, 14.0)
    assert pool.slot_time_s == 5.0
    gone = add(queue, pool)
    queue.cancel(gone)
    assert pool.slot_time_s == 5.0


def test_the_slot_time_includes_pauses() -> None:
    queue, pool = make_queue()
    slow = add(queue, pool)
    pause(queue, slow, 9.0)
    queue.credit(slow, 1)
    queue.resume()
    queue.finish(slow, 10.0)
    assert pool.slot_time_s == 10.0

"""Requests are split and joined in order; callers share the queue fairly."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server import sample_models

from lockstep_server.engine.oneshot.request import RequestPart, WaitingQueue, join

if TYPE_CHECKING:
    from collections.abc import Iterator


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 40), st.integers(1, 60))
def test_a_request_is_split_within_the_limits_and_joined_as_it_was(
    rows: int, width: int, most: int, budget: int
) -> None:
    spec = sample_models.plain(max_rows=most, max_padded_elements=budget)
    sent = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    parts = sample_models.parts(spec, {"x": sent})
    request = parts[0].request
    assert request.parts == len(parts)
    for part in parts:
        assert part.rows <= most
        assert part.rows == 1 or part.rows * width <= budget
        request.answers[part.index] = {"y": part.inputs["x"]}
    assert np.array_equal(join(spec, request)["y"], sent)


def test_a_model_that_does_not_batch_is_never_split() -> None:
    from dataclasses import replace

    spec = replace(sample_models.plain(max_rows=2), batched=False)
    assert len(sample_models.parts(spec, {"x": np.ones((9, 1))})) == 1


def test_what_differs_on_a_free_axis_does_not_share_a_run() -> None:
    spec = sample_models.plain()
    groups = [sample_models.parts(spec, {"x": np.ones(shape)})[0].group for shape in ((1, 2), (3, 2), (1, 3))]
    assert groups[0] == groups[1] != groups[2]


def test_what_differs_in_a_named_length_shares_a_run() -> None:
    spec = sample_models.ragged()
    one, other = (sample_models.parts(spec, {"x": np.ones((1, n))})[0].group for n in (2, 5))
    assert one == other


def test_who_sends_other_inputs_does_not_share_a_run() -> None:
    spec = sample_models.ragged()
    without = sample_models.parts(spec, {"x": np.ones((1, 2))})[0].group
    assert (
        without != sample_models.parts(spec, {"x": np.ones((1, 2)), "mask": np.ones((1, 2), bool)})[0].group
    )


def served(queue: WaitingQueue) -> list[str]:
    """The callers in the order of their turns."""
    order: list[str] = []
    while len(queue):

        def first(waiting: list[Any]) -> list[Any]:
            chosen = min(waiting, key=lambda part: part.turn)
            order.append(chosen.request.submit.caller)
            return [chosen]

        queue.take(first)
    return order


def test_one_of_a_thousand_does_not_hold_up_another_callers_only_one() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part(10, caller="many") for _ in range(1000)])
    queue.put([sample_models.part(10, caller="single")])
    assert served(queue).index("single") <= 1


def test_two_callers_take_turns_by_what_they_ask_for() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part(10, caller="small") for _ in range(100)])
    queue.put([sample_models.part(100, caller="large") for _ in range(100)])
    order = served(queue)[:55]
    assert 3 <= order.count("large") <= 7


def test_a_caller_that_was_away_gets_no_credit_for_it() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part(1, caller="steady") for _ in range(50)])
    for _ in range(40):
        queue.take(lambda waiting: [min(waiting, key=lambda part: part.turn)])
    queue.put([sample_models.part(1, caller="back") for _ in range(10)])
    order = served(queue)
    assert order[:10].count("steady") >= 4


def test_what_is_not_chosen_stays() -> None:
    queue, kept, taken = WaitingQueue(), sample_models.part(), sample_models.part()
    queue.put([kept, taken])
    queue.take(lambda waiting: [taken])
    seen: list[Any] = []
    queue.take(lambda waiting: seen.extend(waiting) or [])
    assert seen == [kept]
    assert len(queue) == 1


def test_a_planner_that_fails_loses_nothing() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part()])
    with pytest.raises(ZeroDivisionError):
        queue.take(lambda waiting: 1 / 0)  # type: ignore[arg-type]
    assert len(queue) == 1


def test_a_sleeper_is_woken_by_work_and_by_the_end() -> None:
    queue, seen = WaitingQueue(), []
    taken = threading.Event()

    def work() -> None:
        while queue.wait():
            queue.take(lambda waiting: list(waiting))
            taken.set()
        seen.append("end")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    queue.put([sample_models.part()])
    assert taken.wait(30)
    queue.close()
    thread.join(30)
    assert seen == ["end"]


def test_a_closed_queue_is_emptied_first() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part()])
    queue.close()
    assert queue.wait()
    queue.take(lambda waiting: list(waiting))
    assert not queue.wait()


def test_the_deadline_of_the_oldest_is_the_gates() -> None:
    queue = WaitingQueue()
    assert queue.deadline() == float("inf")
    queue.put([sample_models.part(accepted=5.0)])
    assert queue.deadline() == 6.0
    queue.take(lambda waiting: list(waiting))
    queue.put([sample_models.part(accepted=5.0, deadline=5.5)])
    assert queue.deadline() == 5.5


class _Changing(deque[RequestPart]):
    """A deque that another thread always changes while it is walked."""

    def __iter__(self) -> Iterator[RequestPart]:
        raise RuntimeError("deque mutated during iteration")


def test_the_queue_may_be_asked_while_others_put_into_it() -> None:
    queue = WaitingQueue()
    queue._inbox = _Changing()
    assert queue.deadline() == math.inf
    queue.put([sample_models.part(deadline=7.0)])
    assert queue.deadline() == 7.0
    queue.take(lambda waiting: ())
    assert queue.deadline() == 7.0

"""Splitting and joining requests; the queue and its fairness between callers."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S
from unit.server import sample_models

from lockstep_server.engine.oneshot.request import RequestPart, WaitingQueue, join

if TYPE_CHECKING:
    from collections.abc import Iterator


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 40), st.integers(1, 60), st.booleans())
def test_a_request_is_split_within_the_limits_and_joined_in_order(
    rows: int, width: int, max_rows: int, max_elements: int, padded: bool
) -> None:
    """Without named lengths nothing is padded, and only rows are limited."""
    make_spec = sample_models.ragged if padded else sample_models.plain
    spec = make_spec(max_rows=max_rows, max_padded_elements=max_elements)
    sent = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    parts = sample_models.parts(spec, {"x": sent})
    request = parts[0].request
    assert request.parts == len(parts)
    for part in parts:
        assert part.rows <= max_rows
        assert not padded or part.rows == 1 or part.rows * width <= max_elements
        request.answers[part.index] = {"y": part.inputs["x"]}
    assert padded or len(parts) == math.ceil(rows / max_rows)
    assert np.array_equal(join(spec, request)["y"], sent)


def test_a_request_of_an_unbatched_model_is_not_split() -> None:
    from dataclasses import replace

    spec = replace(sample_models.plain(max_rows=2), batched=False)
    assert len(sample_models.parts(spec, {"x": np.ones((9, 1))})) == 1


def test_requests_with_different_sizes_on_an_unnamed_axis_share_no_run() -> None:
    spec = sample_models.plain()
    groups = [sample_models.parts(spec, {"x": np.ones(shape)})[0].group for shape in ((1, 2), (3, 2), (1, 3))]
    assert groups[0] == groups[1] != groups[2]


def test_requests_with_different_named_lengths_share_a_run() -> None:
    spec = sample_models.ragged()
    one, other = (sample_models.parts(spec, {"x": np.ones((1, n))})[0].group for n in (2, 5))
    assert one == other


def test_requests_with_different_inputs_share_no_run() -> None:
    spec = sample_models.ragged()
    without = sample_models.parts(spec, {"x": np.ones((1, 2))})[0].group
    assert (
        without != sample_models.parts(spec, {"x": np.ones((1, 2)), "mask": np.ones((1, 2), bool)})[0].group
    )


def served(queue: WaitingQueue) -> list[str]:
    """The callers of the queued parts, in the order of the start tags."""
    order: list[str] = []
    while len(queue):

        def first(waiting: list[Any]) -> list[Any]:
            chosen = min(waiting, key=lambda part: part.start_tag)
            order.append(chosen.request.infer.caller)
            return [chosen]

        queue.take(first)
    return order


def test_a_thousand_requests_of_one_caller_do_not_delay_another_caller() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part(10, caller="many") for _ in range(1000)])
    queue.put([sample_models.part(10, caller="single")])
    assert served(queue).index("single") <= 1


def test_callers_alternate_in_proportion_to_their_elements() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part(10, caller="small") for _ in range(100)])
    queue.put([sample_models.part(100, caller="large") for _ in range(100)])
    order = served(queue)[:55]
    assert 3 <= order.count("large") <= 7


def test_an_idle_caller_gains_no_credit() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part(1, caller="steady") for _ in range(50)])
    for _ in range(40):
        queue.take(lambda waiting: [min(waiting, key=lambda part: part.start_tag)])
    queue.put([sample_models.part(1, caller="back") for _ in range(10)])
    order = served(queue)
    assert order[:10].count("steady") >= 4


def test_parts_that_are_not_chosen_stay_queued() -> None:
    queue, kept, taken = WaitingQueue(), sample_models.part(), sample_models.part()
    queue.put([kept, taken])
    queue.take(lambda waiting: [taken])
    left: list[RequestPart] = []

    def choose_none(waiting: list[RequestPart]) -> list[RequestPart]:
        left.extend(waiting)
        return []

    queue.take(choose_none)
    assert left == [kept]
    assert len(queue) == 1


def test_a_failing_planner_loses_no_part() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part()])

    def fail(waiting: list[RequestPart]) -> NoReturn:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        queue.take(fail)
    assert len(queue) == 1


def test_waiting_ends_when_parts_arrive_or_the_queue_closes() -> None:
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
    assert taken.wait(PATIENCE_S)
    queue.close()
    thread.join(PATIENCE_S)
    assert seen == ["end"]


def test_a_closed_queue_is_emptied_before_waiting_ends() -> None:
    queue = WaitingQueue()
    queue.put([sample_models.part()])
    queue.close()
    assert queue.wait()
    queue.take(lambda waiting: list(waiting))
    assert not queue.wait()


def test_the_deadline_is_that_of_the_oldest_part() -> None:
    queue = WaitingQueue()
    assert queue.deadline() == float("inf")
    queue.put([sample_models.part(accepted=5.0)])
    assert queue.deadline() == 6.0
    queue.take(lambda waiting: list(waiting))
    queue.put([sample_models.part(accepted=5.0, deadline=5.5)])
    assert queue.deadline() == 5.5


class _ChangingDeque(deque[RequestPart]):
    """A deque that another thread changes during every iteration."""

    def __iter__(self) -> Iterator[RequestPart]:
        raise RuntimeError("deque mutated during iteration")


def test_the_deadline_can_be_read_while_other_threads_put() -> None:
    queue = WaitingQueue()
    queue._inbox = _ChangingDeque()
    assert queue.deadline() == math.inf
    queue.put([sample_models.part(deadline=7.0)])
    assert queue.deadline() == 7.0
    queue.take(lambda waiting: ())
    assert queue.deadline() == 7.0


def test_what_waits_is_claimed_if_it_is_of_one_caller_and_priority() -> None:
    queue = WaitingQueue()
    assert queue.claim() is None
    queue.put([sample_models.part(caller="a", accepted=3.0)])
    queue.take(lambda _: [])  # planned, and left waiting
    queue.put([sample_models.part(caller="a", accepted=4.0)])
    assert queue.claim() == ("a", 0, 3.0)
    queue.put([sample_models.part(caller="a", accepted=5.0, priority=1)])
    assert queue.claim() is None
    queue.take(lambda waiting: waiting)
    queue.put([sample_models.part(caller="a"), sample_models.part(caller="b")])
    assert queue.claim() is None

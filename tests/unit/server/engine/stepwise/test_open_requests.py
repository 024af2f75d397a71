"""The table of open requests: keys and timers."""

from __future__ import annotations

import gc

from unit.server.engine.stepwise.step_models import generation_sequence, step_request

from lockstep_server.engine.stepwise.scheduler import OpenRequests
from lockstep_server.engine.stepwise.sequence import GenerationSequence


def test_an_empty_table_is_never_due() -> None:
    requests = OpenRequests()
    assert (requests.keys(), requests.get(1), requests.pop(1), requests.due()) == (
        [],
        None,
        None,
        float("inf"),
    )


def test_requests_of_both_kinds_are_found_by_key() -> None:
    requests, generation, step = OpenRequests(), generation_sequence(3), step_request(4)
    requests.add(generation, ())
    requests.add(step, ())
    assert (requests.keys(), requests.get(3), requests.pop(4)) == ([3, 4], generation, step)
    assert requests.keys() == [3]


def test_timers_fire_in_order_and_once() -> None:
    requests, late, soon = OpenRequests(), generation_sequence(), generation_sequence()
    requests.add(late, [5.0])
    requests.add(soon, [9.0, 2.0])
    assert requests.due() == 2.0
    assert list(requests.pop_due(1.9)) == []
    assert list(requests.pop_due(5.0)) == [soon, late]
    assert requests.due() == 9.0
    assert list(requests.pop_due(9.0)) == [soon]
    assert requests.due() == float("inf")


def test_a_request_that_ends_meanwhile_is_not_due_again() -> None:
    requests, request = OpenRequests(), generation_sequence()
    requests.add(request, [1.0, 2.0])
    for due in requests.pop_due(3.0):
        assert requests.pop(due.key) is request


def test_a_reused_key_is_not_due_at_its_predecessors_times() -> None:
    requests, first, second = OpenRequests(), generation_sequence(7), generation_sequence(7)
    requests.add(first, [5.0])
    requests.pop(7)
    requests.add(second, [8.0])
    assert list(requests.pop_due(6.0)) == []
    assert list(requests.pop_due(8.0)) == [second]


def test_memory_for_timers_of_ended_requests_is_bounded() -> None:
    requests = OpenRequests()
    before = sum(type(thing) is GenerationSequence for thing in gc.get_objects())
    for key in range(3000):
        requests.add(generation_sequence(key + 1), [1e9])
        requests.pop(key + 1)
    gc.collect()
    assert sum(type(thing) is GenerationSequence for thing in gc.get_objects()) - before < 200
    stays = generation_sequence()
    requests.add(stays, [50.0])
    assert list(requests.pop_due(50.0)) == [stays]  # timers of open requests are kept

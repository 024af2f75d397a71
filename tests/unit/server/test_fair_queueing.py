"""The order of urgency as a table, and the fairness of start tags."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lockstep_server.fair_queueing import FairQueueing, QueuedWork, by_urgency

NOW, PATIENCE_S = 100.0, 5.0


@dataclass
class Item:
    """Something that waits."""

    name: str = ""
    accepted: float = NOW
    priority: int = 0
    start_tag: float = 0.0


# --- urgency ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Item(start_tag=1), Item(start_tag=2)),
        (Item(accepted=NOW - 2), Item(accepted=NOW - 1)),
        (Item(start_tag=1, accepted=NOW - 1), Item(start_tag=2, accepted=NOW - 2)),
        (Item(priority=1, start_tag=9), Item(priority=0, start_tag=1)),
        (Item(priority=0), Item(priority=-1)),
        (Item(accepted=NOW - 5.1), Item(priority=9)),
        (Item(priority=9), Item(accepted=NOW - 5.0)),  # exactly at the patience
        (Item(accepted=NOW - 7, start_tag=9), Item(accepted=NOW - 6, priority=9, start_tag=1)),
        (Item(start_tag=1), Item(accepted=NOW - 7, start_tag=2)),  # age alone is no claim on others' turns
    ],
)
def test_order_of_urgency(first: Item, second: Item) -> None:
    key = by_urgency(NOW, PATIENCE_S, [first, second])
    assert sorted([second, first], key=key) == [first, second]


# --- fairness ---------------------------------------------------------------------------------------


def served(fair: FairQueueing, waiting: list[Item], count: int) -> list[str]:
    """Serve the smallest start tags, and return the names of their callers."""
    order = []
    for _ in range(count):
        item = min(waiting, key=by_urgency(NOW, PATIENCE_S, waiting))
        waiting.remove(item)
        fair.serve(item.start_tag)
        order.append(item.name)
    return order


def queue(fair: FairQueueing, caller: str, count: int, cost: float = 1.0) -> list[Item]:
    return [Item(caller, start_tag=fair.start_tag(caller, cost)) for _ in range(count)]


def test_requests_of_one_caller_keep_their_order() -> None:
    tags = [item.start_tag for item in queue(FairQueueing(), "a", 5, cost=2.5)]
    assert tags == [0.0, 2.5, 5.0, 7.5, 10.0]


def test_a_thousand_requests_of_one_caller_do_not_delay_another_caller() -> None:
    fair = FairQueueing()
    waiting = queue(fair, "many", 1000) + queue(fair, "single", 1)
    assert "single" in served(fair, waiting, 2)


def test_callers_are_served_in_proportion_to_their_costs() -> None:
    fair = FairQueueing()
    waiting = queue(fair, "small", 100, cost=10) + queue(fair, "large", 100, cost=100)
    assert 3 <= served(fair, waiting, 55).count("large") <= 7


def test_an_idle_caller_gains_no_credit() -> None:
    fair = FairQueueing()
    waiting = queue(fair, "steady", 50)
    served(fair, waiting, 40)
    waiting += queue(fair, "back", 10)
    assert served(fair, waiting, 10).count("steady") >= 4


def test_serving_an_earlier_tag_does_not_turn_time_back() -> None:
    fair = FairQueueing()
    fair.serve(9.0)
    fair.serve(3.0)
    assert fair.start_tag("new", 1) == 9.0


def test_forgotten_callers_start_at_the_virtual_time() -> None:
    fair = FairQueueing()
    waiting = queue(fair, "a", 3, cost=10)
    served(fair, waiting, 3)
    fair.forget_callers()
    assert fair.start_tag("a", 1) == fair.start_tag("b", 1) == 20.0


# --- backlog ----------------------------------------------------------------------------------------


def test_alone_a_caller_waits_for_all_that_it_has() -> None:
    backlog = QueuedWork()
    for _ in range(3):
        backlog.add("a", 2.0)
    assert backlog.ahead("a", 1.0) == 6.0
    assert backlog.ahead("a", 1.0, apart=4.0) == 2.0


def test_another_caller_waits_for_as_much_as_it_brings() -> None:
    backlog = QueuedWork()
    for _ in range(1000):
        backlog.add("many", 2.0)
    assert backlog.ahead("b", 1.0) == 1.0
    backlog.add("b", 1.0)
    assert backlog.ahead("b", 1.0) == 1.0 + 2.0


def test_what_is_removed_is_forgotten() -> None:
    backlog = QueuedWork()
    backlog.add("a", 0.1)
    backlog.add("a", 0.2)
    backlog.remove("a", 0.1)
    backlog.remove("a", 0.2)
    assert backlog.ahead("b", 1.0) == backlog.ahead("a", 1.0) == 0.0

"""How load becomes a number of replicas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_client.metrics_text import Scrape, samples
from lockstep_ray.scaling import LOAD, Policy, load_of


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ("", 0.0),
        ('lockstep_queue_depth{model="a"} 4\nlockstep_queue_depth{model="b"} 12\n', 2.0),
        (
            'lockstep_slots{model="a"} 10\nlockstep_sequences{model="a",state="running"} 8\n'
            'lockstep_sequences{model="a",state="waiting"} 4\n',
            1.5,
        ),
        (
            'lockstep_slots{model="a"} 100\nlockstep_slots{model="b"} 10\n'
            'lockstep_sequences{model="b",state="running"} 4\nlockstep_queue_depth{model="b"} 4\n',
            0.5,
        ),
        ('lockstep_slots{model="a"} 0\n', 0.0),
    ],
)
def test_load_of_a_server(text: str, load: float) -> None:
    assert load_of(Scrape(samples(text)), open_calls=0, target_queue=8, target_slots=0.8) == pytest.approx(
        load
    )


def test_calls_that_wait_in_the_replica_count() -> None:
    empty = Scrape(samples('lockstep_queue_depth{model="a"} 2\n'))
    assert load_of(empty, open_calls=24, target_queue=8, target_slots=0.8) == pytest.approx(3)


def replicas(loads: list[float], current: int, queued: float = 0.0) -> float:
    context = SimpleNamespace(
        aggregated_metrics={LOAD: dict(enumerate(loads))},
        current_num_replicas=current,
        target_num_replicas=current,
        total_queued_requests=queued,
    )
    wanted, _ = Policy(target_queue=8)(context)
    return wanted


def test_replicas_without_reports_stay() -> None:
    assert replicas([], current=3, queued=99) == 3


def test_calls_that_wait_in_the_proxy_count() -> None:
    assert replicas([1.0, 1.0], current=2, queued=16) == pytest.approx(4)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=20))
def test_the_wanted_replicas_have_a_mean_load_of_one(loads: list[float]) -> None:
    assert replicas(loads, current=len(loads)) == pytest.approx(sum(loads))

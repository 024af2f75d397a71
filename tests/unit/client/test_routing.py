"""Which server a call goes to: pure functions, with a clock and random numbers that the test chooses."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_client import inference
from lockstep_client.attempts import KeptSteps
from lockstep_client.protocol import SequenceUse
from lockstep_client.routing import Router, least_loaded, rendezvous

ADDRESSES = st.sets(st.from_regex(r"[a-d]{1,3}:[1-9]", fullmatch=True), min_size=1, max_size=6)


@given(ADDRESSES, st.from_regex(r"new:[1-9]", fullmatch=True), st.lists(st.text(), max_size=30))
def test_only_the_keys_of_a_server_that_comes_or_goes_move(addresses: set[str], more: str, keys: list[str]):
    for key in keys:
        before, after = rendezvous(key, addresses), rendezvous(key, addresses | {more})
        assert [address for address in after if address != more] == before
        assert after[0] in (before[0], more)


@given(ADDRESSES, st.text())
def test_the_order_of_the_addresses_does_not_matter(addresses: set[str], key: str):
    listed = sorted(addresses)
    assert rendezvous(key, listed) == rendezvous(key, reversed(listed))
    assert sorted(rendezvous(key, listed)) == listed


def test_keys_are_spread_evenly():
    counts = Counter(rendezvous(str(key), "abc")[0] for key in range(3000))
    assert min(counts.values()) > 900


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers())
def test_the_chosen_server_is_among_the_less_loaded(loads: list[int], seed: int):
    load, _ = least_loaded([(load, (load, place)) for place, load in enumerate(loads)], random.Random(seed))
    assert load == min(loads) if len(loads) <= 8 else load <= sorted(loads)[-2]


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def router(clock: Time) -> Router:
    return Router(["a:1", "b:1", "c:1"], clock, random.Random(1))


def chosen(router: Router, times: int = 60) -> set[str]:
    return {router.choose() for _ in range(times)}


def test_a_call_goes_to_a_server_with_the_fewest_calls_in_flight(router: Router):
    for address in ("a:1", "a:1", "b:1", "c:1"):
        router.begin(address)
    assert chosen(router) == {"b:1", "c:1"}
    router.end("b:1")
    assert chosen(router) == {"b:1"}


def test_a_server_that_failed_is_left_out_for_a_growing_time_and_tried_by_one_call(
    router: Router, clock: Time
):
    lengths = []
    for _ in range(8):
        router.failed("b:1")
        begun = clock.now
        assert chosen(router) == {"a:1", "c:1"}
        while "b:1" not in (tried := [router.choose() for _ in range(60)]):
            clock.now += 0.05
        assert tried.count("b:1") == 1, "one call tries it"
        lengths.append(clock.now - begun)
        clock.now += 10
    assert lengths[0] < 0.3 < lengths[2] < max(lengths) < 6.1
    router.answered("b:1")
    assert chosen(router) == {"a:1", "b:1", "c:1"}


def test_if_all_servers_failed_they_are_tried_all_the_same(router: Router):
    for address in router.addresses:
        router.failed(address)
    assert chosen(router) <= {"a:1", "b:1", "c:1"}


def test_deadlines_that_pass_one_after_another_are_a_failure(router: Router):
    for _ in range(2):
        router.late("a:1")
    router.answered("a:1")
    for _ in range(2):
        router.late("a:1")
    assert "a:1" in chosen(router)
    router.late("a:1")
    assert "a:1" not in chosen(router)


def test_a_sequence_stays_where_it_was_seen(router: Router):
    first = router.choose("7", ("adder", 7))
    assert first == rendezvous("7", router.addresses)[0]
    router.failed(first)
    second = router.choose("7", ("adder", 7))
    assert second == rendezvous("7", router.addresses)[1]
    router.place(("adder", 7), second)
    router.answered(first)
    assert router.choose("7", ("adder", 7)) == second
    assert router.choose("7", ("adder", 7), avoid=[second]) != second
    router.forget(("adder", 7))
    assert router.choose("7", ("adder", 7)) == first


def test_a_server_that_left_keeps_its_calls_and_its_sequences(router: Router):
    router.begin("a:1")
    router.place("s", "a:1")
    router.replace(["b:1", "d:1"])
    assert chosen(router) == {"b:1", "d:1"}
    assert router.choose("key", "s") == "a:1"
    assert router.unused({"a:1", "b:1"}) == set()
    assert router.end("a:1"), "its connection is of no more use"
    assert router.unused({"a:1"}) == {"a:1"}


@pytest.mark.parametrize(
    ("sequence_id", "key"),
    [(7, "7"), ("session 1", "session 1"), ("ü", None), (" a", None), ("a\n", None), ("a" * 300, None)],
)
def test_an_id_that_metadata_cannot_hold_is_hashed(sequence_id: Any, key: str | None):
    found = SequenceUse.key_of(sequence_id)
    assert found == key if key else (len(found) == 64 and found.isalnum())


def step(size: int = 1) -> Any:
    return inference.ModelInferRequest(raw_input_contents=[np.zeros(size, np.uint8).tobytes()])


def use(sequence_id: int = 1, *, starts: bool = False, ends: bool = False) -> SequenceUse:
    return SequenceUse.of("adder", sequence_id, steps=True, starts=starts, ends=ends)


def test_steps_are_kept_from_start_to_end():
    kept = KeptSteps()
    for starts, ends, size in ((True, False, 1), (False, False, 2)):
        kept.begin(use(starts=starts))
        kept.answered(use(starts=starts, ends=ends), step(size))
    kept.begin(use())
    kept.not_taken(use())
    assert kept.steps(use()) == [step(1), step(2)]
    kept.begin(use(ends=True))
    kept.answered(use(ends=True), step())
    assert kept.steps(use()) is None


def test_a_sequence_whose_state_is_not_known_is_not_kept():
    kept = KeptSteps()
    kept.begin(use())
    kept.answered(use(), step())
    assert kept.steps(use()) is None, "its start was not seen"
    kept.begin(use(starts=True))
    kept.begin(use())
    assert kept.steps(use()) is None, "two steps at once have no order"


def test_what_is_kept_is_bounded():
    kept = KeptSteps(limit=1000)
    for number in (1, 2, 3):
        kept.begin(use(number, starts=True))
        kept.answered(use(number, starts=True), step(400))
    assert kept.steps(use(1)) is None
    assert kept.steps(use(3)) == [step(400)]

"""Mutations are drawn from the seed alone, and inputs survive being packed."""

from __future__ import annotations

import random

from fuzz import corpus
from fuzz.mutate import mutate
from fuzz.outcomes import Outcome
from hypothesis import given
from hypothesis import strategies as st

SEEDS = [b"", b"a fine film", bytes(range(256))]


@given(number=st.integers(0, 1 << 32))
def test_one_seed_gives_one_input(number: int) -> None:
    one, other = (mutate(random.Random(number), SEEDS) for _ in range(2))
    assert one == other


def test_nearly_all_mutations_change_something() -> None:
    rng = random.Random(1)
    assert sum(mutate(rng, SEEDS[1:2]) != SEEDS[1] for _ in range(1000)) > 900


@given(parts=st.lists(st.binary(max_size=40), max_size=8))
def test_messages_survive_being_packed(parts: list[bytes]) -> None:
    assert corpus.unpack(corpus.pack(parts)) == parts


@given(data=st.binary())
def test_every_input_has_messages(data: bytes) -> None:
    assert b"".join(corpus.unpack(data)) in data or len(corpus.unpack(data)) > 1


def test_outcomes_that_differ_in_names_only_are_one() -> None:
    one, other = (
        Outcome("NOT_FOUND", f"no model {name!r} in version {n}") for name, n in (("a", 1), ("b", 22))
    )
    assert one.signature == other.signature != Outcome("OK").signature

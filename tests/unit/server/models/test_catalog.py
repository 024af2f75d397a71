"""Catalog states move forward only; names and versions resolve to one entry or to an error."""

from __future__ import annotations

import pytest

from lockstep_server.errors import Meaning, ServingError
from lockstep_server.models.card import Card
from lockstep_server.models.catalog import Catalog, Entry, State
from lockstep_server.models.manifest import Manifest


def card(version: int = 1, default_version: int | None = None) -> Card:
    return Card("m", version, Manifest(default_version=default_version), (), ())


def catalog(*states: State, default_version: int | None = None) -> Catalog:
    made = Catalog()
    for version, state in enumerate(states, 1):
        entry = made.begin("m", version)
        if state is not State.LOADING:
            entry.advance(state, card=card(version, default_version) if state is State.READY else None)
    return made


def refused(made: Catalog, name: str = "m", version: str = "") -> ServingError:
    with pytest.raises(ServingError) as caught:
        made.resolve(name, version)
    return caught.value


@pytest.mark.parametrize("after", State)
@pytest.mark.parametrize("before", State)
def test_states_move_forward_only(before: State, after: State) -> None:
    entry = Entry("m", 1, before)
    if after < before:
        with pytest.raises(ValueError, match="does not go back"):
            entry.advance(after, card=card())
        assert entry.state is before
    else:
        entry.advance(after, card=card())
        assert entry.state is after


def test_ready_needs_a_card() -> None:
    with pytest.raises(ValueError, match="without a card"):
        Entry("m", 1).advance(State.READY)


def test_the_highest_that_is_ready_answers() -> None:
    assert catalog(State.READY, State.READY, State.LOADING).resolve("m").version == 2


def test_default_version_answers() -> None:
    assert catalog(State.READY, State.READY, default_version=1).resolve("m").version == 1


def test_another_version_never_stands_in_for_the_default() -> None:
    made = catalog(State.UNAVAILABLE, State.READY, default_version=1)
    assert refused(made).meaning is Meaning.NOT_FOUND


def test_a_pinned_version_answers() -> None:
    assert catalog(State.READY, State.READY).resolve("m", "1").version == 1


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        (State.LOADING, Meaning.UNAVAILABLE),
        (State.UNLOADING, Meaning.UNAVAILABLE),
        (State.UNAVAILABLE, Meaning.NOT_FOUND),
    ],
)
@pytest.mark.parametrize("version", ["", "1"])
def test_what_is_not_ready_says_why(state: State, meaning: Meaning, version: str) -> None:
    error = refused(catalog(state), version=version)
    assert error.meaning is meaning
    assert (error.retry_after_s is not None) == (meaning is Meaning.UNAVAILABLE)


def test_what_is_not_there_is_not_found() -> None:
    assert refused(catalog(State.READY), "nobody").resource == "nobody"
    assert refused(Catalog(), "nobody").meaning is Meaning.NOT_FOUND
    assert refused(catalog(State.READY), version="2").resource == "m/2"


@pytest.mark.parametrize("version", ["one", "-1", "1.0", "²", " "])
def test_a_version_that_is_no_number_is_bad_input(version: str) -> None:
    error = refused(catalog(State.READY), version=version)
    assert (error.meaning, error.field) == (Meaning.BAD_INPUT, "version")


def test_a_version_of_many_digits_is_the_callers_mistake() -> None:
    assert refused(catalog(State.READY), version="9" * 5000).meaning in (Meaning.BAD_INPUT, Meaning.NOT_FOUND)


def test_settled_once_nothing_loads() -> None:
    assert not catalog(State.READY, State.LOADING).settled()
    assert catalog(State.READY, State.UNAVAILABLE).settled()


def test_loading_again_makes_a_new_entry_and_leaves_the_old_to_its_holders() -> None:
    made = catalog(State.READY)
    old = made.resolve("m")
    made.begin("m", 1)
    assert old.state is State.READY
    assert made.versions("m") == []

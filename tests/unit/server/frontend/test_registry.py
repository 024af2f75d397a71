"""Catalog states move forward only; names and versions resolve to one entry or to an error."""

from __future__ import annotations

import pytest

from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.frontend.catalog import ModelVersion, VersionState, VersionTable
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import ModelSpec


def spec(version: int = 1, default_version: int | None = None) -> ModelSpec:
    return ModelSpec("m", version, Manifest(default_version=default_version), (), ())


def catalog(*states: VersionState, default_version: int | None = None) -> VersionTable:
    made = VersionTable()
    for version, state in enumerate(states, 1):
        entry = made.begin("m", version)
        if state is not VersionState.LOADING:
            entry.advance(state, spec=spec(version, default_version) if state is VersionState.READY else None)
    return made


def refused(made: VersionTable, name: str = "m", version: str = "") -> ServingError:
    with pytest.raises(ServingError) as caught:
        made.resolve(name, version)
    return caught.value


@pytest.mark.parametrize("after", VersionState)
@pytest.mark.parametrize("before", VersionState)
def test_states_move_forward_only(before: VersionState, after: VersionState) -> None:
    entry = ModelVersion("m", 1, before)
    if after < before:
        with pytest.raises(ValueError, match="does not go back"):
            entry.advance(after, spec=spec())
        assert entry.state is before
    else:
        entry.advance(after, spec=spec())
        assert entry.state is after


def test_ready_needs_a_card() -> None:
    with pytest.raises(ValueError, match="without a card"):
        ModelVersion("m", 1).advance(VersionState.READY)


def test_the_highest_that_is_ready_answers() -> None:
    assert catalog(VersionState.READY, VersionState.READY, VersionState.LOADING).resolve("m").version == 2


def test_default_version_answers() -> None:
    assert catalog(VersionState.READY, VersionState.READY, default_version=1).resolve("m").version == 1


def test_another_version_never_stands_in_for_the_default() -> None:
    made = catalog(VersionState.UNAVAILABLE, VersionState.READY, default_version=1)
    assert refused(made).code is ErrorCode.NOT_FOUND


def test_a_pinned_version_answers() -> None:
    assert catalog(VersionState.READY, VersionState.READY).resolve("m", "1").version == 1


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (VersionState.LOADING, ErrorCode.UNAVAILABLE),
        (VersionState.UNLOADING, ErrorCode.UNAVAILABLE),
        (VersionState.UNAVAILABLE, ErrorCode.NOT_FOUND),
    ],
)
@pytest.mark.parametrize("version", ["", "1"])
def test_what_is_not_ready_says_why(state: VersionState, code: ErrorCode, version: str) -> None:
    error = refused(catalog(state), version=version)
    assert error.code is code
    assert (error.retry_after_s is not None) == (code is ErrorCode.UNAVAILABLE)


def test_what_is_not_there_is_not_found() -> None:
    assert refused(catalog(VersionState.READY), "nobody").resource == "nobody"
    assert refused(VersionTable(), "nobody").code is ErrorCode.NOT_FOUND
    assert refused(catalog(VersionState.READY), version="2").resource == "m/2"


@pytest.mark.parametrize("version", ["one", "-1", "1.0", "²", " "])
def test_a_version_that_is_no_number_is_bad_input(version: str) -> None:
    error = refused(catalog(VersionState.READY), version=version)
    assert (error.code, error.field) == (ErrorCode.BAD_INPUT, "version")


def test_a_version_of_many_digits_is_the_callers_mistake() -> None:
    assert refused(catalog(VersionState.READY), version="9" * 5000).code in (
        ErrorCode.BAD_INPUT,
        ErrorCode.NOT_FOUND,
    )


def test_settled_once_nothing_loads() -> None:
    assert not catalog(VersionState.READY, VersionState.LOADING).settled()
    assert catalog(VersionState.READY, VersionState.UNAVAILABLE).settled()


def test_loading_again_makes_a_new_entry_and_leaves_the_old_to_its_holders() -> None:
    made = catalog(VersionState.READY)
    old = made.resolve("m")
    made.begin("m", 1)
    assert old.state is VersionState.READY
    assert made.versions("m") == []

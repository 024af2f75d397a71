"""States move forward only; a name and a version resolve to one READY version or to an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.frontend.registry import ModelRegistry
from lockstep_server.frontend.versions import ModelVersion, VersionState, VersionTable
from lockstep_server.metrics.families import Metrics
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import ModelSpec


def spec(version: int = 1, default_version: int | None = None) -> ModelSpec:
    return ModelSpec("m", version, Manifest(default_version=default_version), (), ())


def table(*states: VersionState, default_version: int | None = None) -> VersionTable:
    versions = VersionTable()
    for version, state in enumerate(states, 1):
        entry = versions.begin("m", version)
        if state is not VersionState.LOADING:
            entry.advance(state, spec=spec(version, default_version) if state is VersionState.READY else None)
    return versions


def refused(versions: VersionTable, name: str = "m", version: str = "") -> ServingError:
    with pytest.raises(ServingError) as caught:
        versions.resolve(name, version)
    return caught.value


@pytest.mark.parametrize("after", VersionState)
@pytest.mark.parametrize("before", VersionState)
def test_states_move_forward_only(before: VersionState, after: VersionState) -> None:
    entry = ModelVersion("m", 1, before)
    if after < before:
        with pytest.raises(ValueError, match="cannot go back"):
            entry.advance(after, spec=spec())
        assert entry.state is before
    else:
        entry.advance(after, spec=spec())
        assert entry.state is after


def test_ready_needs_a_spec() -> None:
    with pytest.raises(ValueError, match="READY needs a spec"):
        ModelVersion("m", 1).advance(VersionState.READY)


def test_the_highest_ready_version_is_the_default() -> None:
    assert table(VersionState.READY, VersionState.READY, VersionState.LOADING).resolve("m").version == 2


def test_default_version_overrides_the_highest() -> None:
    assert table(VersionState.READY, VersionState.READY, default_version=1).resolve("m").version == 1


def test_no_other_version_replaces_an_unavailable_default() -> None:
    versions = table(VersionState.UNAVAILABLE, VersionState.READY, default_version=1)
    assert refused(versions).code is ErrorCode.NOT_FOUND


def test_a_pinned_version_is_used() -> None:
    assert table(VersionState.READY, VersionState.READY).resolve("m", "1").version == 1


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (VersionState.LOADING, ErrorCode.UNAVAILABLE),
        (VersionState.UNLOADING, ErrorCode.UNAVAILABLE),
        (VersionState.UNAVAILABLE, ErrorCode.NOT_FOUND),
    ],
)
@pytest.mark.parametrize("version", ["", "1"])
def test_a_version_that_is_not_ready_is_refused_by_its_state(
    state: VersionState, code: ErrorCode, version: str
) -> None:
    error = refused(table(state), version=version)
    assert error.code is code
    assert (error.retry_after_s is not None) == (code is ErrorCode.UNAVAILABLE)


def test_unknown_models_and_versions_are_not_found() -> None:
    assert refused(table(VersionState.READY), "unknown").resource == "unknown"
    assert refused(VersionTable(), "unknown").code is ErrorCode.NOT_FOUND
    assert refused(table(VersionState.READY), version="2").resource == "m/2"


@pytest.mark.parametrize("version", ["one", "-1", "1.0", "²", " "])
def test_a_version_that_is_not_a_number_is_bad_input(version: str) -> None:
    error = refused(table(VersionState.READY), version=version)
    assert (error.code, error.field) == (ErrorCode.BAD_INPUT, "version")


def test_a_version_of_many_digits_is_refused() -> None:
    assert refused(table(VersionState.READY), version="9" * 5000).code in (
        ErrorCode.BAD_INPUT,
        ErrorCode.NOT_FOUND,
    )


def test_settled_when_no_version_is_loading() -> None:
    assert not table(VersionState.READY, VersionState.LOADING).settled()
    assert table(VersionState.READY, VersionState.UNAVAILABLE).settled()


def test_loading_again_makes_a_new_version_object_and_keeps_the_old_one() -> None:
    versions = table(VersionState.READY)
    old = versions.resolve("m")
    versions.begin("m", 1)
    assert old.state is VersionState.READY
    assert versions.ready("m") == []


async def test_a_version_is_not_ready_before_requests_find_it() -> None:
    """Other threads ask: those that answer /readyz."""
    seen: list[bool] = []

    def open_(_: bytes) -> None:
        seen.append(registry.ready())

    async def changed(_: ModelRegistry) -> None: ...

    tokenizers: Any = SimpleNamespace(open=open_)
    registry = ModelRegistry(Metrics(), changed, tokenizers=tokenizers)
    for _ in range(2):  # and when it is loaded again
        registry.update(messages.ModelUpdate(model="m", version=1, state="LOADING"))
        await registry.mark_listed()
        registry.update(
            messages.ModelUpdate(model="m", version=1, state="READY", spec=spec(), tokenizer=b"{}")
        )
        assert registry.ready()
    assert seen == [False, False]
    assert registry.resolve("m").spec == spec()

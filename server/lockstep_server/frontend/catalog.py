"""Which models are served, in which state. States only move forward; "ready" is said once it is true.

A model that is loaded again gets a new entry, so whoever holds an entry holds one version for life.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ..errors import ServingError, bad_input, not_found, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..model.spec import ModelSpec


_MOST_DIGITS = 18
"""Of a version: larger numbers fit no folder's version and no int64."""


class VersionState(IntEnum):
    """In the order in which a model passes through them; it may skip some, never go back."""

    LOADING = 0
    READY = 1
    UNLOADING = 2
    UNAVAILABLE = 3


@dataclass(eq=False)
class ModelVersion:
    """One version of a model, from its loading to its end."""

    name: str
    version: int
    state: VersionState = VersionState.LOADING
    reason: str = ""
    spec: ModelSpec | None = None

    def advance(self, state: VersionState, reason: str = "", spec: ModelSpec | None = None) -> None:
        """
        Raises:
            ValueError: `state` lies behind, or READY comes without a card.
        """
        if state < self.state:
            raise ValueError(
                f"{self.name}/{self.version}: {self.state.name} does not go back to {state.name}"
            )
        if state is VersionState.READY and spec is None:
            raise ValueError(f"{self.name}/{self.version}: ready without a card")
        self.state, self.reason = state, reason
        self.spec = spec or self.spec


class VersionTable:
    """The entries by name and version. One thread's."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, ModelVersion]] = {}

    def begin(self, name: str, version: int) -> ModelVersion:
        """A new entry in LOADING, in place of one that may have been there."""
        entry = ModelVersion(name, version)
        self._entries.setdefault(name, {})[version] = entry
        return entry

    def forget(self, entry: ModelVersion) -> None:
        """Know nothing more of it."""
        self._entries[entry.name].pop(entry.version, None)
        if not self._entries[entry.name]:
            del self._entries[entry.name]

    def entry(self, name: str, version: int) -> ModelVersion | None:
        return self._entries.get(name, {}).get(version)

    def __iter__(self) -> Iterator[ModelVersion]:
        for name in sorted(self._entries):
            versions = self._entries[name]
            yield from (versions[version] for version in sorted(versions))

    def snapshot(self) -> list[ModelVersion]:
        """All entries there are, for another thread than the catalog's own."""
        return [entry for versions in list(self._entries.values()) for entry in list(versions.values())]

    def names(self) -> list[str]:
        return sorted(self._entries)

    def versions(self, name: str) -> list[int]:
        """The versions that answer now."""
        return sorted(
            v for v, entry in self._entries.get(name, {}).items() if entry.state is VersionState.READY
        )

    def settled(self) -> bool:
        """Every model has ended its loading."""
        return all(entry.state is not VersionState.LOADING for entry in self)

    def resolve(self, name: str, version: str = "") -> ModelVersion:
        """The entry that answers for a name and a version as callers write them ("": the default).

        Raises:
            ServingError: NOT_FOUND, UNAVAILABLE while loading or unloading, BAD_INPUT for a version
                that is no number.
        """
        versions = self._entries.get(name)
        if not versions:
            known = ", ".join(self.names()) or "none"
            raise not_found(
                name, f"there is no model {name!r}; there are: {known}" if name else "model: name one"
            )
        entry = self._default(versions) if not version else self._pinned(name, versions, version)
        if entry.state is not VersionState.READY:
            raise _not_served(entry)
        return entry

    @staticmethod
    def _default(versions: dict[int, ModelVersion]) -> ModelVersion:
        """`default_version`, else the highest that is ready, else the one nearest to being so."""
        ready = [entry for entry in versions.values() if entry.state is VersionState.READY]
        for entry in ready:
            wanted = entry.spec.manifest.default_version if entry.spec else None
            if wanted in versions:
                return versions[wanted]
        return max(ready or versions.values(), key=lambda entry: (-entry.state, entry.version))

    @staticmethod
    def _pinned(name: str, versions: dict[int, ModelVersion], version: str) -> ModelVersion:
        if not (version.isascii() and version.isdigit()):
            raise bad_input(
                "version", f"{version!r} is no version; write a whole number, or nothing for the default"
            )
        entry = versions.get(int(version)) if len(version) <= _MOST_DIGITS else None
        if entry is None:
            known = ", ".join(str(v) for v in sorted(versions))
            raise not_found(f"{name}/{version}", f"model {name!r} has no version {version}; it has: {known}")
        return entry


def _not_served(entry: ModelVersion) -> ServingError:
    what = f"model {entry.name!r} version {entry.version}"
    if entry.state is VersionState.LOADING:
        return unavailable(f"{what} is loading")
    if entry.state is VersionState.UNLOADING:
        return unavailable(f"{what} is being unloaded")
    return not_found(
        f"{entry.name}/{entry.version}", f"{what} is not served: {entry.reason or 'it was unloaded'}"
    )

"""The state of each model version. States only move forward, and READY is set only after it is true.

Loading a model again makes a new `ModelVersion`, so a reference always means the same loaded version.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ..errors import ServingError, bad_input, not_found, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..model.spec import ModelSpec


_MAX_NAME_CHARACTERS = 256
_MAX_VERSION_DIGITS = 18
"""A longer version number does not fit an int64."""


class VersionState(IntEnum):
    """In the order of a version's life. A version may skip states, but never goes back."""

    LOADING = 0
    READY = 1
    UNLOADING = 2
    UNAVAILABLE = 3


@dataclass(eq=False)
class ModelVersion:
    """One version of a model, from loading to unloading."""

    name: str
    version: int
    state: VersionState = VersionState.LOADING
    reason: str = ""  # for operators; of one that is LOADING, what its load does now
    public_reason: str = ""  # for callers
    withdrawn: bool = False  # UNAVAILABLE on purpose: unloaded, or not in the repository any more
    spec: ModelSpec | None = None
    paused: str = ""  # why it takes no requests for now, although it is READY

    @property
    def serves(self) -> bool:
        return self.state is VersionState.READY and not self.paused

    def advance(
        self,
        state: VersionState,
        reason: str = "",
        spec: ModelSpec | None = None,
        *,
        public_reason: str = "",
        withdrawn: bool = False,
    ) -> None:
        """
        Raises:
            ValueError: `state` precedes the current state, or READY has no spec.
        """
        if state < self.state:
            raise ValueError(
                f"{self.name}/{self.version}: cannot go back from {self.state.name} to {state.name}"
            )
        if state is VersionState.READY and spec is None:
            raise ValueError(f"{self.name}/{self.version}: READY needs a spec")
        self.state, self.reason = state, reason
        self.public_reason, self.withdrawn = public_reason, withdrawn
        self.spec = spec or self.spec


class VersionTable:
    """Model versions by name and number. Event loop only, except `snapshot`."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, ModelVersion]] = {}

    def begin(self, name: str, version: int) -> ModelVersion:
        """Add a version in LOADING; it replaces any earlier one with the same name and number."""
        entry = ModelVersion(name, version)
        self._entries.setdefault(name, {})[version] = entry
        return entry

    def load_step(self, name: str, version: int, step: str) -> None:
        """Note what the load of a version does now, for operators."""
        entry = self.get(name, version)
        if entry is not None and entry.state is VersionState.LOADING:
            entry.reason = step

    def remove(self, entry: ModelVersion) -> None:
        self._entries[entry.name].pop(entry.version, None)
        if not self._entries[entry.name]:
            del self._entries[entry.name]

    def get(self, name: str, version: int) -> ModelVersion | None:
        return self._entries.get(name, {}).get(version)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[ModelVersion]:
        for name in sorted(self._entries):
            versions = self._entries[name]
            yield from (versions[version] for version in sorted(versions))

    def snapshot(self) -> list[ModelVersion]:
        """A copy of all versions. Safe to call from any thread."""
        return [entry for versions in list(self._entries.values()) for entry in list(versions.values())]

    def names(self) -> list[str]:
        return sorted(self._entries)

    def ready(self, name: str) -> list[int]:
        """The version numbers that are READY, in ascending order."""
        return sorted(v for v, entry in self._entries.get(name, {}).items() if entry.serves)

    def settled(self, name: str = "") -> bool:
        """Whether no version, of this model or of any, is LOADING."""
        entries = self._entries.get(name, {}).values() if name else self
        return all(entry.state is not VersionState.LOADING for entry in entries)

    def share_ready(self) -> float:
        """READY versions as a share of those that should be; 0 if there are none. A version that was
        unloaded is not one of them."""
        wanted = [entry for entry in self if not (entry.withdrawn or entry.state is VersionState.UNLOADING)]
        return sum(entry.state is VersionState.READY for entry in wanted) / len(wanted) if wanted else 0.0

    def resolve(
        self, name: str, version: str = "", shown: Callable[[str], bool] = lambda _: True
    ) -> ModelVersion:
        """The READY version for a request's model name and version ("": the default version). The error for
        an unknown name lists the names that may be `shown`.

        Raises:
            ServingError: NOT_FOUND; UNAVAILABLE while loading or unloading; BAD_INPUT if the version is
                not a number.
        """
        versions = self._entries.get(name)
        if not versions:
            if len(name) > _MAX_NAME_CHARACTERS:
                raise not_found("", f"unknown model: the name has {len(name)} characters")
            if not name:
                raise not_found(name, "model: the name is empty; send the name of a model")
            names = ", ".join(filter(shown, self.names())) or "none"
            raise not_found(name, f"unknown model {name!r}; available: {names}")
        entry = self._default(versions) if not version else self._pinned(name, versions, version)
        if not entry.serves:
            raise _not_served(entry)
        return entry

    @staticmethod
    def _default(versions: dict[int, ModelVersion]) -> ModelVersion:
        """`default_version` of a READY version; else the highest READY one; else the one closest to READY."""
        if len(versions) == 1:
            return next(iter(versions.values()))
        ready = [entry for entry in versions.values() if entry.serves]
        for entry in ready:
            default = entry.spec.manifest.default_version if entry.spec else None
            if default in versions:
                return versions[default]
        return max(ready or versions.values(), key=lambda entry: (-entry.state, entry.version))

    @staticmethod
    def _pinned(name: str, versions: dict[int, ModelVersion], version: str) -> ModelVersion:
        if not (version.isascii() and version.isdigit()):
            version = version[:_MAX_NAME_CHARACTERS]
            raise bad_input(
                "version",
                f"{version!r} is not a version number; send an integer, or leave it empty for the default",
            )
        entry = versions.get(int(version)) if len(version) <= _MAX_VERSION_DIGITS else None
        if entry is None:
            known = ", ".join(str(v) for v in sorted(versions))
            version = version[:_MAX_NAME_CHARACTERS]
            raise not_found(
                f"{name}/{version}", f"model {name!r} has no version {version}; available: {known}"
            )
        return entry


def _not_served(entry: ModelVersion) -> ServingError:
    subject = f"model {entry.name!r} version {entry.version}"
    if entry.state is VersionState.READY:
        return unavailable(f"{subject} takes no requests for now: {entry.paused}; retry")
    if entry.state is VersionState.LOADING:
        return unavailable(f"{subject} is loading; retry when it is ready")
    if entry.state is VersionState.UNLOADING:
        return unavailable(f"{subject} is being unloaded; use another version or model")
    why = entry.public_reason or "it failed to load; see the server's log"
    return not_found(f"{entry.name}/{entry.version}", f"{subject} is not served: {why}")

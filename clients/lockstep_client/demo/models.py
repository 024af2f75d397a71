"""Who plays: the models of a repository, by what they can do, read from their manifests."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep_client.demo import DemoError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

FEATURED = ("sentiment-bow", "sentiment-lstm", "sentiment-bilstm", "sentiment-transformer")
"""The classifiers that show most of batching, simplest first; others play where one of these is not there."""


@dataclass(frozen=True)
class DemoModels:
    """The models of the acts. An empty name: there is none for the part."""

    classifiers: tuple[str, ...]
    """Simplest first."""
    writers: tuple[str, ...]
    """Language models; the first goes on from a prompt by itself, and in company."""
    translator: str
    stepper: str
    """A classifier that can be asked step by step."""
    transformer: str
    """A classifier that cannot, and returns its attention."""

    @property
    def names(self) -> list[str]:
        """Everybody, once."""
        parts = (*self.classifiers, self.stepper, self.transformer, *self.writers, self.translator)
        return list(dict.fromkeys(filter(None, parts)))

    @property
    def featured(self) -> tuple[str, ...]:
        """The classifiers that a burst is sent to."""
        found = tuple(name for name in FEATURED if name in self.classifiers)
        return found or self.classifiers[: len(FEATURED)]

    def without(self, absent: Container[str]) -> DemoModels:
        """The cast when some do not come."""

        def there(name: str) -> str:
            return "" if name in absent else name

        return DemoModels(
            tuple(filter(there, self.classifiers)),
            tuple(filter(there, self.writers)),
            *(there(name) for name in (self.translator, self.stepper, self.transformer)),
        )


def demo_models(folder: Path) -> DemoModels:
    """The models there that have a part.

    Raises:
        DemoError: none labels texts.
    """
    manifests = {file.parent: _read(file) for file in sorted(folder.glob("*/model.toml"))}
    texts = {place: one for place, one in manifests.items() if "text" in one}
    classifiers = [place for place, one in texts.items() if one.get("task") == "classify"]
    if not classifiers:
        raise DemoError(f"{folder}/ holds no model that labels texts: give --models the folder that does")
    return DemoModels(
        classifiers=tuple(place.name for place in sorted(classifiers, key=_size_on_disk)),
        writers=_preferred_first(
            (p.name for p, one in texts.items() if one.get("task") == "generate"), "shakespeare-char-lstm"
        ),
        translator=_first(place for place, one in texts.items() if one.get("task") == "translate"),
        stepper=_first((p for p in classifiers if "stepwise" in texts[p]), "sentiment-lstm"),
        transformer=_first(
            (p for p in classifiers if "attention" in texts[p].get("roles", {})), "sentiment-transformer"
        ),
    )


def _read(manifest: Path) -> dict[str, Any]:
    """What it says; nothing where it cannot be read, which the server tells of."""
    try:
        return tomllib.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _first(places: Iterable[Path], preferred: str = "") -> str:
    return next(iter(_preferred_first((place.name for place in places), preferred)), "")


def _preferred_first(names: Iterable[str], preferred: str) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: name != preferred))


def _size_on_disk(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*/*") if file.suffix in (".onnx", ".bin"))

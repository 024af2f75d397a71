"""Selects the models for the demo: reads the manifests of a repository and picks models by capability."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep_client.demo import DemoError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

FEATURED = ("sentiment-bow", "sentiment-lstm", "sentiment-bilstm", "sentiment-transformer")
"""The classifiers for the bursts, simplest first. Other classifiers are used if all of these are missing."""


@dataclass(frozen=True)
class DemoModels:
    """The models of the parts. An empty name means that no model fits."""

    classifiers: tuple[str, ...]
    """Simplest first."""
    writers: tuple[str, ...]
    """Language models; the first one is also run with several streams at once."""
    translator: str
    stepper: str
    """A classifier with a step-wise form."""
    transformer: str
    """A classifier that returns its attention."""

    @property
    def names(self) -> list[str]:
        """All models, without duplicates."""
        parts = (*self.classifiers, self.stepper, self.transformer, *self.writers, self.translator)
        return list(dict.fromkeys(filter(None, parts)))

    @property
    def featured(self) -> tuple[str, ...]:
        """The classifiers for the bursts."""
        found = tuple(name for name in FEATURED if name in self.classifiers)
        return found or self.classifiers[: len(FEATURED)]

    def without(self, absent: Container[str]) -> DemoModels:
        """A copy without the models in `absent`."""

        def keep(name: str) -> str:
            return "" if name in absent else name

        return DemoModels(
            tuple(filter(keep, self.classifiers)),
            tuple(filter(keep, self.writers)),
            *(keep(name) for name in (self.translator, self.stepper, self.transformer)),
        )


def demo_models(folder: Path) -> DemoModels:
    """Select models from the repository in `folder`.

    Raises:
        DemoError: there is no text classifier.
    """
    manifests = {file.parent: _read(file) for file in sorted(folder.glob("*/model.toml"))}
    text_models = {place: manifest for place, manifest in manifests.items() if "text" in manifest}
    classifiers = [place for place, manifest in text_models.items() if manifest.get("task") == "classify"]
    if not classifiers:
        raise DemoError(f"{folder}/ has no text classifier: set --models to a repository that has one")
    return DemoModels(
        classifiers=tuple(place.name for place in sorted(classifiers, key=_size_on_disk)),
        writers=_preferred_first(
            (p.name for p, manifest in text_models.items() if manifest.get("task") == "generate"),
            "shakespeare-char-lstm",
        ),
        translator=_first(
            place for place, manifest in text_models.items() if manifest.get("task") == "translate"
        ),
        stepper=_first((p for p in classifiers if "stepwise" in text_models[p]), "sentiment-lstm"),
        transformer=_first(
            (p for p in classifiers if "attention" in text_models[p].get("roles", {})),
            "sentiment-transformer",
        ),
    )


def _read(manifest: Path) -> dict[str, Any]:
    """The parsed manifest; empty if it cannot be read, which the server reports."""
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

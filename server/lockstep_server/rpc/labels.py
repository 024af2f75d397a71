"""Scores to labels: the activation that the manifest names, and the top k. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ..models.manifest import Manifest

    Array = np.ndarray[Any, Any]


class Ranked(NamedTuple):
    label: int
    name: str
    probability: float
    score: float


def rank(scores: Array, manifest: Manifest, top_k: int = 0) -> list[Ranked]:
    """The labels of one row of `scores` [labels], most probable first; all where `top_k` is 0.

    A sigmoid's single score is that of the second of two labels.
    """
    scores, labels = scores.astype(np.float64).ravel(), manifest.labels
    if manifest.roles.activation == "sigmoid":
        scores = np.array([-scores[0], scores[0]]) if scores.size == 1 else scores
        probabilities = (1 + np.tanh(scores / 2)) / 2  # no overflow, however large
    elif manifest.roles.activation == "softmax":
        powers = np.exp(scores - scores.max())
        probabilities = powers / powers.sum()
    else:
        probabilities = scores
    best = np.argsort(-probabilities, kind="stable")[: top_k or None]
    return [Ranked(int(i), _name(labels, i), float(probabilities[i]), float(scores[i])) for i in best]


def _name(labels: tuple[str, ...], index: int) -> str:
    """A graph whose number of scores is dynamic may give more of them than the manifest names."""
    return labels[index] if index < len(labels) else str(index)

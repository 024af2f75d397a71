"""Labels and timings in the replies of the Sequences API. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from ..messages import Event
    from ..model.manifest import Manifest

    Array = np.ndarray[Any, Any]


def timings(event: Event) -> pb.Timings:
    queue_s, compute_s, steps, rows, prefill_s, first_token_s = event.timings
    return pb.Timings(
        queue_seconds=queue_s,
        compute_seconds=compute_s,
        steps=steps,
        batch_rows=rows,
        prefill_seconds=prefill_s,
        first_token_seconds=first_token_s,
    )


def labels(scores: Array, manifest: Manifest, top_k: int) -> list[pb.Label]:
    """The reply's labels for one row of scores, most probable first. `top_k` 0: all."""
    return [
        pb.Label(name=r.name, index=r.label, probability=r.probability, score=r.score)
        for r in rank(scores, manifest, top_k)
    ]


class Ranked(NamedTuple):
    label: int
    name: str
    probability: float
    score: float


def rank(scores: Array, manifest: Manifest, top_k: int = 0) -> list[Ranked]:
    """Rank the labels of one row of `scores` [labels], most probable first. `top_k` 0: all.

    With a sigmoid and a single score, the score is that of the second of two labels.
    """
    scores, labels = scores.astype(np.float64).ravel(), manifest.labels
    if manifest.roles.activation == "sigmoid":
        scores = np.array([-scores[0], scores[0]]) if scores.size == 1 else scores
        probabilities = (1 + np.tanh(scores / 2)) / 2  # does not overflow
    elif manifest.roles.activation == "softmax":
        powers = np.exp(scores - scores.max())
        probabilities = powers / powers.sum()
    else:
        probabilities = scores
    best = np.argsort(-probabilities, kind="stable")[: top_k or None]
    return [Ranked(int(i), _name(labels, i), float(probabilities[i]), float(scores[i])) for i in best]


def _name(labels: tuple[str, ...], index: int) -> str:
    """The label, or the index if the graph returns more scores than the manifest has labels."""
    return labels[index] if index < len(labels) else str(index)

"""Labels and timings in the replies of the Sequences API. Pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from ..frontend.recorder import request_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..messages import Event, RequestTimings
    from ..model.manifest import Manifest

    Array = np.ndarray[Any, Any]

FEW_LABELS = 8
"""A row of up to so many labels is ranked faster without NumPy."""


_SORTED_IN_A_STEP = 32
_MUCH_LESS = 16
"""The best of so many times more are found without sorting all."""


def timings(event: Event) -> pb.Timings:
    return timings_of(event.key, event.timings)


def timings_of(key: int, timings: RequestTimings) -> pb.Timings:
    queue_s, compute_s, steps, rows, prefill_s, first_token_s = timings
    return pb.Timings(
        queue_seconds=queue_s,
        compute_seconds=compute_s,
        steps=steps,
        batch_rows=rows,
        prefill_seconds=prefill_s,
        first_token_seconds=first_token_s,
        request_id=request_id(key),
    )


def labels(scores: Array, manifest: Manifest, top_k: int) -> list[pb.Label]:
    """The reply's labels for one row of scores, most probable first. `top_k` 0: all."""
    return messages_of(rank(scores, manifest, top_k))


def messages_of(ranked_labels: Iterable[Ranked]) -> list[pb.Label]:
    return [
        pb.Label(name=r.name, index=r.label, probability=r.probability, score=r.score) for r in ranked_labels
    ]


class Ranked(NamedTuple):
    label: int
    name: str
    probability: float
    score: float


def rank(scores: Array, manifest: Manifest, top_k: int = 0) -> list[Ranked]:
    """Rank the labels of one row of `scores` [labels], most probable first. `top_k` 0: all.

    With a sigmoid and a single score, the score is that of the second of two labels. A language model has no
    labels: their names are empty.
    """
    if scores.size <= FEW_LABELS:
        return _rank_few(scores.ravel().tolist(), manifest, top_k)
    (row,) = ranked(*with_probabilities(scores.reshape(1, -1), manifest), manifest.labels, top_k)
    return row


def _rank_few(scores: list[float], manifest: Manifest, top_k: int) -> list[Ranked]:
    labels, activation = manifest.labels, manifest.roles.activation
    probabilities = scores
    if activation == "sigmoid":
        if len(scores) == 1 and len(labels) == 2:
            scores = [-scores[0], scores[0]]
        probabilities = [(1 + math.tanh(score / 2)) / 2 for score in scores]
    elif activation == "softmax":
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        total = sum(powers)
        probabilities = [power / total for power in powers]
    best = sorted(range(len(scores)), key=probabilities.__getitem__, reverse=True)[: top_k or None]
    return [Ranked(i, labels[i] if i < len(labels) else "", probabilities[i], scores[i]) for i in best]


def with_probabilities(scores: Array, manifest: Manifest) -> tuple[Array, Array]:
    """Scores and probabilities of each label, float64 [rows, labels]."""
    scores = scores.astype(np.float64)
    if manifest.roles.activation == "sigmoid":
        if scores.shape[1] == 1 and len(manifest.labels) == 2:
            scores = np.concatenate([-scores, scores], axis=1)
        return scores, (1 + np.tanh(scores / 2)) / 2  # does not overflow
    if manifest.roles.activation == "softmax":
        powers = np.exp(scores - np.maximum.reduce(scores, axis=1, keepdims=True))
        return scores, powers / np.add.reduce(powers, axis=1, keepdims=True)
    return scores, scores


def ranking_steps(scores: Array, rows: int, top_k: int) -> int:
    """About how many microseconds it takes to rank `rows` rows of scores, as labels of messages."""
    labels = scores.size // max(rows, 1)
    return rows * min(top_k or labels, labels) + scores.size // _SORTED_IN_A_STEP


def _best(values: Array, count: int) -> Array:
    """The indices of the `count` largest of each row, in order; of equal ones, the first. 0: all."""
    if not 0 < count * _MUCH_LESS < values.shape[1]:
        return (-values).argsort(axis=1, kind="stable")[:, : count or None]
    least = np.partition(values, -count, axis=1)[:, -count]
    found = np.empty((len(values), count), np.intp)
    for row, threshold in enumerate(least):
        (candidates,) = np.nonzero(values[row] >= threshold)
        order = (-values[row, candidates]).argsort(kind="stable")[:count]
        found[row] = candidates[order]
    return found


def ranked(scores: Array, probabilities: Array, labels: tuple[str, ...], top_k: int) -> list[list[Ranked]]:
    """The labels of each row, by probability: [rows, labels]. `top_k` 0: all."""
    best = _best(probabilities, top_k)
    rows = np.arange(len(best))[:, None]
    return [
        [
            Ranked(i, labels[i] if i < len(labels) else "", probability, score)
            for i, probability, score in zip(*row, strict=True)
        ]
        for row in zip(
            best.tolist(), probabilities[rows, best].tolist(), scores[rows, best].tolist(), strict=True
        )
    ]

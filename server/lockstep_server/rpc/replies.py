"""Parts that the sequence API's replies share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep.v1 import sequences_pb2 as pb

from .labels import rank

if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from ..models.manifest import Manifest
    from ..port import Event


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


def labels(scores: np.ndarray[Any, Any], manifest: Manifest, top_k: int) -> list[pb.Label]:
    """The labels of one row of scores, most probable first."""
    return [
        pb.Label(name=r.name, index=r.label, probability=r.probability, score=r.score)
        for r in rank(scores, manifest, top_k)
    ]

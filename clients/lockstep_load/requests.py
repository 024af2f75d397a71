"""Draws and serialises requests before a run starts, so that this work is not measured.

Lengths → texts, ids or tensors → request messages of the client library → bytes. Each worker process draws a
pool of requests from the run's seed and sends them in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import calls, stream_calls
from lockstep_load import tensors
from lockstep_load.lengths_file import TextFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockstep_load.plan import WorkerJob, Workload

POOL_SIZE = 512
"""Distinct requests per worker process."""


@dataclass(frozen=True)
class PreparedRequest:
    """A serialised request."""

    body: bytes
    length: int
    """Elements in all rows: words or ids."""
    later_bodies: tuple[bytes, ...] = ()
    """Messages after the first, for calls that stream requests."""
    arrays: tuple[dict[str, Any], ...] = ()
    """For `steps`: the input tensors of each step. They are serialised on sending, with a new sequence_id."""


def request_pool(job: WorkerJob, count: int = POOL_SIZE) -> list[PreparedRequest]:
    """The requests of a worker process; equal for equal seed and index."""
    rng = np.random.default_rng([job.load.seed, job.index, 0])
    make = _MAKERS[job.workload.call]
    return [make(job, drawn) for drawn in _draw_requests(job.workload, rng, count)]


@dataclass(frozen=True)
class DrawnRequest:
    """The random part of one request: the length of each row, and its text if texts come from a file."""

    rng: np.random.Generator
    lengths: tuple[int, ...]
    texts: tuple[str, ...]
    tokens: int | None

    @property
    def length(self) -> int:
        return sum(self.lengths)


def _draw_requests(workload: Workload, rng: np.random.Generator, count: int) -> list[DrawnRequest]:
    rows = workload.rows
    limits = workload.tokens.draw(rng, count).tolist() if workload.tokens else [None] * count
    texts: list[str] = []
    if isinstance(workload.lengths, TextFile) and not workload.ids:
        texts = workload.lengths.pick(rng, count * rows)
        lengths = [len(text.split()) for text in texts]
    else:
        lengths = workload.lengths.draw(rng, count * rows).tolist()
    return [
        DrawnRequest(
            rng,
            tuple(lengths[at * rows : (at + 1) * rows]),
            tuple(texts[at * rows : (at + 1) * rows]),
            limits[at],
        )
        for at in range(count)
    ]


def _rows(job: WorkerJob, drawn: DrawnRequest) -> dict[str, Any]:
    """The rows of a request as keyword arguments: ids if the workload has a range of ids, otherwise texts."""
    if job.workload.ids:
        return {"ids": [drawn.rng.integers(*job.workload.ids, n).tolist() for n in drawn.lengths]}
    return {"texts": list(drawn.texts) or [tensors.sample_text(n, drawn.rng) for n in drawn.lengths]}


def _single_row(job: WorkerJob, drawn: DrawnRequest) -> dict[str, Any]:
    """The same for calls that take a single row."""
    [(key, rows)] = _rows(job, drawn).items()
    return {"ids": rows[0]} if key == "ids" else {"text": rows[0]}


def _classify(job: WorkerJob, drawn: DrawnRequest) -> PreparedRequest:
    call = calls.classify(job.target.model, **_rows(job, drawn), version=job.target.version)
    return PreparedRequest(call.request.SerializeToString(), drawn.length)


def _encode(job: WorkerJob, drawn: DrawnRequest) -> PreparedRequest:
    call = calls.encode(job.target.model, **_rows(job, drawn), version=job.target.version)
    return PreparedRequest(call.request.SerializeToString(), drawn.length)


def _generate(job: WorkerJob, drawn: DrawnRequest) -> PreparedRequest:
    row = _single_row(job, drawn)
    call = stream_calls.generate(
        job.target.model,
        row.get("text", ""),
        ids=row.get("ids", ()),
        max_tokens=drawn.tokens,
        seed=int(drawn.rng.integers(1 << 32)),
        version=job.target.version,
    )
    return PreparedRequest(call.request.SerializeToString(), drawn.length)


def _translate(job: WorkerJob, drawn: DrawnRequest) -> PreparedRequest:
    call = stream_calls.translate(
        job.target.model, **_single_row(job, drawn), max_tokens=drawn.tokens, version=job.target.version
    )
    return PreparedRequest(call.request.SerializeToString(), drawn.length)


def _follow(job: WorkerJob, drawn: DrawnRequest) -> PreparedRequest:
    [row] = _single_row(job, drawn).values()
    call = stream_calls.follow(job.target.model, [row], top_k=1, version=job.target.version)
    assert call.pieces is not None
    pieces = [[one] for one in row] if job.workload.one_by_one else [row]
    later_bodies = tuple(call.pieces.write(one).SerializeToString() for one in pieces)
    return PreparedRequest(call.request.SerializeToString(), drawn.length, later_bodies)


def _infer(job: WorkerJob, drawn: DrawnRequest) -> PreparedRequest:
    """All rows of a tensor have the same length: the first one drawn."""
    workload, length = job.workload, drawn.lengths[0]
    made = tensors.arrays(workload.inputs, workload.rows, length, workload.ids, drawn.rng)
    call = calls.infer(job.target.model, made, version=job.target.version)
    return PreparedRequest(call.request.SerializeToString(), length * workload.rows)


def _steps(job: WorkerJob, drawn: DrawnRequest) -> PreparedRequest:
    workload = job.workload
    made = tuple(tensors.arrays(workload.inputs, 1, 1, workload.ids, drawn.rng) for _ in range(drawn.length))
    return PreparedRequest(b"", drawn.length, arrays=made)


_MAKERS: dict[str, Callable[[WorkerJob, DrawnRequest], PreparedRequest]] = {
    "classify": _classify, "encode": _encode, "generate": _generate, "translate": _translate,
    "follow": _follow, "infer": _infer, "steps": _steps,
}  # fmt: skip

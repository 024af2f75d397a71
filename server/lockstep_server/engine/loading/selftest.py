"""The self-test of a one-shot model: batched, padded answers must equal unbatched ones, row by row.

random requests → one run each, unpadded → one run together, padded by the engine → compare the answers

It tries rows of very different values, then requests of different lengths, up to nearly the longest. A model
that fails with equal lengths is served unbatched; one that fails only with different lengths is batched by
length. Either has a notice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...model.spec import batchable, measure_request, row_of_ids
from ..runtime import padding
from ..runtime.batching import Comparison, RowMismatch, compare, is_rounding
from ..runtime.graph_errors import logged_fault
from .drawing import SIZE, Drawing, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_BUDGET_S = 2.0
"""Seconds after which no longer requests are tried. What is tried before that takes as long as it takes."""

_GROWTH = 4
"""How much longer the requests of each trial of long requests are than those of the one before."""

_USUAL = 7
"""A length that most graphs take."""

_LARGE = 16 * SIZE
"""A second size of free axes."""

_ORDINARY, _LOUD, _QUIET, _ZEROS, _ENDS = Kind

_EQUAL_LENGTHS: tuple[tuple[tuple[int, int, Kind], ...], ...] = (
    ((1, 7, _ORDINARY), (1, 7, _ORDINARY)),
    ((1, 7, _QUIET), (2, 7, _ORDINARY), (1, 7, _LOUD), (1, 7, _ZEROS), (1, 7, _QUIET)),
    ((1, 5, _ORDINARY), (1, 5, _ENDS), (3, 5, _ORDINARY)),
    tuple((1, 1, _ORDINARY) for _ in range(8)),
    ((4, 40, _ORDINARY), (1, 40, _QUIET), (1, 40, _LOUD), (7, 40, _ORDINARY)),
)
"""Batches of (rows, length, kind of values): a request each."""

_LENGTHS: tuple[tuple[tuple[int, int, Kind], ...], ...] = (
    ((1, 3, _ORDINARY), (1, 11, _ORDINARY), (1, 5, _ORDINARY)),
    ((1, 1, _ORDINARY), (2, 17, _ORDINARY), (1, 6, _ORDINARY), (3, 2, _ORDINARY), (1, 29, _ORDINARY)),
    tuple((1, 1 + (5 * i) % 23, _ORDINARY) for i in range(8)),
    ((1, 11, _LOUD), (1, 5, _QUIET), (1, 7, _ZEROS), (1, 9, _ORDINARY), (1, 12, _ENDS)),
)
"""The same with different lengths."""


@dataclass(frozen=True)
class SelfTestResult:
    """The result of the self-test of a one-shot model."""

    batched: bool  # batched and unbatched answers are equal within the tolerance
    padded: bool = False  # also those of requests of different lengths
    deterministic: bool = False  # they are bit-identical
    max_difference: float = 0.0  # relative to max(1, |value|)
    reason: str = ""  # why not batched, or not padded; empty if both


class Request(NamedTuple):
    """A random request; a `padding.RowGroup`."""

    inputs: Arrays
    rows: int
    lengths: tuple[int, ...]
    kind: Kind = Kind.ORDINARY


def check(session: OnnxSession, spec: ModelSpec, seed: int = 0) -> SelfTestResult:
    """Run the self-test. Never raises because of the model."""
    if not batchable(spec):
        return SelfTestResult(batched=False, reason=_why_not_batchable(spec))
    try:
        return _SelfTest(session, spec, np.random.default_rng(seed)).result()
    except Exception as error:  # the graph may fail on random input
        return SelfTestResult(batched=False, reason=f"the self-test could not run: {logged_fault(error)}")


class _SelfTest:
    def __init__(self, session: OnnxSession, spec: ModelSpec, rng: np.random.Generator) -> None:
        self._session, self._spec = session, replace(spec, batched=True)
        self._drawing = settled(session, spec, rng)
        self._refused: set[Kind] = set()  # kinds of values with which the graph fails
        self._max_difference, self._identical = 0.0, True

    def result(self) -> SelfTestResult:
        reason = self._try(_EQUAL_LENGTHS, equal=True)
        if not reason and self._drawing.grow(_LARGE, self._run_one):
            reason = self._try(_EQUAL_LENGTHS[:2], equal=True)
        if reason:
            return SelfTestResult(batched=False, max_difference=self._max_difference, reason=reason)
        equal = self._identical
        if self._spec.manifest.lengths:
            reason = self._try(_LENGTHS, equal=False) or self._try_long_requests()
        manifest = self._spec.manifest
        if reason and (
            manifest.fixed_shape or manifest.batching.max_rows == 1
        ):  # each run is padded, or none
            return SelfTestResult(batched=False, max_difference=self._max_difference, reason=reason)
        return SelfTestResult(
            batched=True,
            padded=not reason,
            deterministic=equal if reason else self._identical,
            max_difference=self._max_difference,
            reason=reason,
        )

    def _try(self, batches: Sequence[Sequence[tuple[int, int, Kind]]], *, equal: bool) -> str:
        """How the first batch fails that does; empty if none does."""
        for batch in batches:
            requests = [
                self._draw_spread(rows, (length,) if equal else (length, length + 1 + index), kind)
                for index, (rows, length, kind) in enumerate(batch)
                if kind not in self._refused
            ]
            if reason := self._failure(requests):
                return reason
        return ""

    def _try_long_requests(self) -> str:
        """Batches of ever longer requests beside shorter ones, as long as there is time."""
        begun = time.monotonic()
        for longest in _ladder(self._spec):
            several = ((longest, longest - 1), (longest // 3, longest), (longest - 1, 7), (2, longest // 2))
            started = time.monotonic()
            if reason := self._failure([self._draw(1, lengths) for lengths in several]):
                return reason
            now = time.monotonic()
            if now - begun + _GROWTH * (now - started) > _BUDGET_S:  # the next would take at least so long
                break
        return ""

    def _failure(self, requests: Sequence[Request]) -> str:
        """How the answers of a batch are wrong; empty if they are not."""
        known: list[tuple[Request, Arrays]] = []
        for request in requests:
            try:
                known.append((request, self._alone(request)))
            except RowMismatch as mismatch:
                return mismatch.message
            except Exception:
                if request.kind is Kind.ORDINARY:
                    raise
                self._refused.add(request.kind)
        rows = sum(request.rows for request, _ in known)
        try:
            answers = _run(self._session, self._spec, [request for request, _ in known])
        except Exception as error:
            return f"a batch of {rows} rows fails: {logged_fault(error)}"
        for (request, expected), answer in zip(known, answers, strict=True):
            if request.kind is Kind.ENDS:
                continue  # only its neighbours are of interest: it overflows, or not, by rounding
            found = compare(self._spec, expected, answer)
            self._identical = self._identical and found.identical
            if not found.within and not self._is_rounding(request, found, expected, rows):
                self._max_difference = max(self._max_difference, found.apart)
                return self._why_different(found, request, [one for one, _ in known])
            if found.within:
                self._max_difference = max(self._max_difference, found.apart)
        return ""

    def _why_different(self, found: Comparison, request: Request, requests: Sequence[Request]) -> str:
        padded = self._spec.manifest.fixed_shape or len({other.lengths for other in requests}) > 1
        cause = "padding changes the answer" if padded else "the rows of a batch are not independent"
        extreme = {other.kind for other in requests} - {Kind.ORDINARY}
        values = " whose values are of very different size" if extreme and not padded else ""
        return (
            f"{cause}: output {found.output!r} of a request with {_count(request.rows, 'row')} differs"
            f" {found.amount()} in a batch of {_count(sum(other.rows for other in requests), 'row')}{values}"
        )

    def _is_rounding(self, request: Request, found: Comparison, expected: Arrays, rows: int) -> bool:
        if request.kind is Kind.ORDINARY:
            return False
        copies = [request] * max(rows // request.rows, 2)
        return is_rounding(found, expected, lambda: _run(self._session, self._spec, copies))

    def _run_one(self) -> None:
        run_alone(self._session, self._spec, self._draw(1, (7,)))

    def _draw(self, rows: int, wanted: tuple[int, ...], kind: Kind = Kind.ORDINARY) -> Request:
        return draw_request(self._drawing, rows, wanted, kind)

    def _draw_spread(self, rows: int, wanted: tuple[int, ...], kind: Kind) -> Request:
        lengths = self._drawing.spread_lengths(*wanted)
        return Request(self._drawing.inputs(rows, lengths, kind), rows, lengths, kind)

    def _alone(self, request: Request) -> Arrays:
        return _run(self._session, self._spec, [request])[0]


def settled(session: OnnxSession, spec: ModelSpec, rng: np.random.Generator) -> Drawing:
    """A drawing of requests that the graph accepts.

    Raises:
        Exception: it accepts none of many sizes.
    """
    drawing = Drawing(spec, rng)

    def run(length: int = _USUAL) -> None:
        run_alone(session, spec, draw_request(drawing, 1, (length,)))

    drawing.settle(run)
    while spec.manifest.lengths and drawing.shortest < _USUAL:
        try:
            run(drawing.shortest)
            break
        except Exception:  # a convolution takes no less than its kernel, for one
            drawing.shortest += 1
    return drawing


def draw_request(drawing: Drawing, rows: int, wanted: tuple[int, ...], kind: Kind = Kind.ORDINARY) -> Request:
    lengths = drawing.lengths(*wanted)
    return Request(drawing.inputs(rows, lengths, kind), rows, lengths, kind)


def run_alone(session: OnnxSession, spec: ModelSpec, request: Request) -> Arrays:
    """The outputs of one request's own run, whether or not they have a batch axis."""
    outputs = session.run(padding.stack(spec, [request], request.rows, request.lengths))
    return dict(zip(session.output_names, outputs, strict=True))


def run_ids(spec: ModelSpec, session: OnnxSession, ids: Sequence[int]) -> Arrays:
    """The outputs of a graph for one row of token ids."""
    name = spec.text_input
    tensor = spec.input(name)
    assert tensor is not None
    inputs = {name: row_of_ids(tensor, ids)}
    lengths = measure_request(spec, inputs).lengths
    return _run(session, replace(spec, batched=True), [Request(inputs, 1, lengths)])[0]


def _run(session: OnnxSession, spec: ModelSpec, requests: Sequence[Request]) -> list[Arrays]:
    """The answer of each request, from one run of all.

    Raises:
        RowMismatch: an output does not have the rows of the requests.
    """
    rows = sum(request.rows for request in requests)
    lengths = tuple(max(column) for column in zip(*(r.lengths for r in requests), strict=True))
    if spec.manifest.fixed_shape and len(requests) > 1:
        rows = max(rows, spec.manifest.batching.max_rows)
        lengths = tuple(section.max for section in spec.manifest.lengths.values())
    outputs = session.run(padding.stack(spec, requests, rows, lengths))
    by_name = dict(zip(session.output_names, outputs, strict=True))
    return padding.cut(spec, by_name, requests, lengths, rows)


def _ladder(spec: ModelSpec) -> Iterator[int]:
    """Lengths beyond those of `_LENGTHS`, up to nearly the longest of which a batch may have two."""
    sections = spec.manifest.lengths.values()
    most = min(max(section.max for section in sections), spec.manifest.batching.max_padded_elements // 4)
    length = 64
    while length < most:
        yield length + length // 5  # no power of two, and no multiple of a usual stride
        length *= _GROWTH
    if most > 40:
        yield most


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _why_not_batchable(spec: ModelSpec) -> str:
    if not spec.manifest.from_file:
        axes = ", ".join(f"{t.name}: {_axis_0(t)}" for t in (*spec.inputs, *spec.outputs))
        return (
            f"axis 0 does not have the same symbol on every tensor ({axes});"
            " add a model.toml that sets batch_axis for each tensor"
        )
    without = [t.name for t in spec.outputs if t.spec.batch_axis is None]
    if without:
        return f"the manifest sets no batch_axis for {', '.join(without)}"
    return "the manifest sets no batch_axis for any input"


def _axis_0(tensor: ModelTensor) -> str:
    """What the graph calls the tensor's first axis."""
    if not tensor.shape:
        return "no axis"
    return "unnamed" if tensor.shape[0] is None else repr(tensor.shape[0])

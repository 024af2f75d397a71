"""Random requests for the self-tests: of every kind of value, and of sizes that the graph accepts.

`Drawing.settle` finds the sizes → `Drawing.inputs` → the tensors of one request
"""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import datatypes
from ...model.lengths import next_change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...model.datatypes import Arrays
    from ...model.spec import Axis, ModelSpec, ModelTensor

    Array = np.ndarray[Any, Any]

SIZE = 3
"""The size of an axis that is neither fixed nor named in the manifest, if the graph accepts it."""

_SIZES = (
    1, 2, 4, 8, 16, 32, 64, 80, 128, 160, 256, 320, 400, 512, 576, 640, 768, 1024, 1536, 1600, 2048, 3000,
    4096, 8000, 16000,
)  # fmt: skip
"""Sizes to try if the graph refuses `SIZE`: powers of two, and frames of sound at common sampling rates."""

_CONSTANTS = (1, 16000, 8000, 2, 0)
"""Values to try for an integer input without a batch axis, such as a sampling rate."""

MOST_ELEMENTS = 1 << 24
"""Of a tensor whose sizes are the server's choice: several free axes of one size multiply."""

_SMALL_INTEGERS = 1000
"""Bound of 32- and 64-bit integers without a range: a graph may allocate as many elements."""


class Kind(Enum):
    """What the values of a request are like."""

    ORDINARY = auto()  # around 0, or any id
    LOUD = auto()  # a thousand times larger
    QUIET = auto()  # a thousand times smaller
    ZEROS = auto()
    ENDS = auto()  # the ends of the datatype, infinite values and NaN among them


class Drawing:
    """Draws requests for one graph.

    Attributes:
        shortest: the least value of a named length that the graph accepts, as far as it was tried.
    """

    def __init__(self, spec: ModelSpec, rng: np.random.Generator) -> None:
        self.spec, self.rng = spec, rng
        self.shortest = 1
        self._sizes: dict[Axis, int] = {}  # of free axes, by their symbol; None: without one
        self._constant = _CONSTANTS[0]
        self._drawn = [t for t in spec.inputs if not t.spec.filled and not t.optional]
        self._free: set[Axis] = {axis for t in self._drawn for axis in _free_axes(t)}

    @property
    def has_free_axes(self) -> bool:
        return bool(self._free)

    def lengths(self, *wanted: int) -> tuple[int, ...]:
        """One value per named length of the manifest: `wanted` in turn, within what is allowed."""
        sections = self.spec.manifest.lengths.values()
        return tuple(
            min(max(length, self.shortest), section.max)
            for length, section in zip(itertools.cycle(wanted), sections, strict=False)
        )

    def spread_lengths(self, *wanted: int) -> tuple[int, ...]:
        """As `lengths`, but of a model that makes fewer elements of its inputs, such as frames of samples,
        `wanted` counts those, so that short requests differ in them too."""
        sections = self.spec.manifest.lengths
        spread: list[int] = []
        for name, length in zip(sections, self.lengths(*wanted), strict=True):
            stride, want = self._stride(name), wanted[len(spread) % len(wanted)]
            if stride > 1:
                uneven = self.shortest + (want - 1) * stride + want * 37 % stride
                length = min(uneven, sections[name].max)
            spread.append(length)
        return tuple(spread)

    def _stride(self, name: str) -> int:
        """How many more elements of a length change a length that is computed from it."""
        manifest, most = self.spec.manifest, 1
        for computed in manifest.computed:
            start = dict.fromkeys(manifest.lengths, self.shortest)

            def size_of(n: int, computed: str = computed, start: dict[str, int] = start) -> int:
                return manifest.length(computed, {**start, name: n})

            if name in manifest.sources(computed):
                with suppress(ValueError):  # it has no value for some lengths
                    one = next_change(size_of, self.shortest, manifest.lengths[name].max)
                    two = one and next_change(size_of, one, manifest.lengths[name].max)
                    most = max(most, two - one if one and two else 1)
        return most

    def inputs(self, rows: int, lengths: tuple[int, ...], kind: Kind = Kind.ORDINARY) -> Arrays:
        """The tensors of a request. Those without a batch axis are the same for every request."""
        return {tensor.name: self._draw(tensor, rows, lengths, kind) for tensor in self._drawn}

    def settle(self, run: Callable[[], None]) -> None:
        """Find sizes of free axes, constants and lengths with which `run`, which draws a request, succeeds.

        Raises:
            Exception: what the first `run` raised, if none succeeds.
        """
        first: Exception | None = None
        for sizes, shortest, constant in self._candidates():
            self._sizes, self.shortest, self._constant = sizes, shortest, constant
            if first is not None and not self.fits(1, self.lengths(shortest)):
                continue
            try:
                run()
            except Exception as error:
                first = first or error
            else:
                return
        assert first is not None
        self._sizes, self.shortest, self._constant = {}, 1, _CONSTANTS[0]
        raise first

    def grow(self, size: int, run: Callable[[], None]) -> bool:
        """Set all free axes to `size` if `run` succeeds then, and not for too many elements. Returns
        whether it did."""
        before, self._sizes = self._sizes, dict.fromkeys(self._free, size)
        try:
            if not self.fits(1, self.lengths(1)):
                raise ValueError
            run()
        except Exception:
            self._sizes = before
            return False
        return True

    def _candidates(self) -> Iterator[tuple[dict[Axis, int], int, int]]:
        has_constants = any(
            t.spec.batch_axis is None and t.datatype in datatypes.INTEGERS for t in self._drawn
        )
        for constant in _CONSTANTS if has_constants else _CONSTANTS[:1]:
            yield {}, 1, constant
            if self._free:
                for size in _SIZES:
                    yield dict.fromkeys(self._free, size), 1, constant
            if self.spec.manifest.lengths:
                for length in _SIZES:
                    yield {}, length, constant
                    if self._free:
                        yield dict.fromkeys(self._free, length), length, constant
            if len(self._free) > 1:
                for axis, size in itertools.product(self._free, _SIZES):
                    yield {axis: size}, 1, constant

    def fits(self, rows: int, lengths: tuple[int, ...]) -> bool:
        """Whether each tensor of such a request has at most `MOST_ELEMENTS`."""
        return all(math.prod(self._shape(one, rows, lengths)) <= MOST_ELEMENTS for one in self._drawn)

    def _shape(self, tensor: ModelTensor, rows: int, lengths: tuple[int, ...]) -> list[int]:
        named = dict(zip(self.spec.length_names, lengths, strict=True))
        shape = []
        for axis, size in enumerate(tensor.shape):
            if axis == tensor.spec.batch_axis:
                shape.append(rows)
            elif axis in tensor.spec.lengths:
                shape.append(named[tensor.spec.lengths[axis]])
            else:
                shape.append(size if isinstance(size, int) else self._sizes.get(size, SIZE))
        return shape

    def _draw(self, tensor: ModelTensor, rows: int, lengths: tuple[int, ...], kind: Kind) -> Array:
        shape = self._shape(tensor, rows, lengths)
        if tensor.spec.batch_axis is None:
            return self._fixed(tensor, shape)
        return _draw(tensor, shape, kind, self.rng)

    def _fixed(self, tensor: ModelTensor, shape: list[int]) -> Array:
        """An input without a batch axis: requests share a run only if it is equal, so one value will do."""
        if tensor.datatype in datatypes.INTEGERS:
            first, end = tensor.spec.range or (self._constant, self._constant + 1)
            return np.full(shape, min(max(self._constant, first), end - 1), datatypes.NUMPY[tensor.datatype])
        return _draw(tensor, shape, Kind.ORDINARY, np.random.default_rng(0))


def _free_axes(tensor: ModelTensor) -> Iterator[Axis]:
    for axis, size in enumerate(tensor.shape):
        named = axis == tensor.spec.batch_axis or axis in tensor.spec.lengths
        if not named and not isinstance(size, int):
            yield size


def _draw(tensor: ModelTensor, shape: list[int], kind: Kind, rng: np.random.Generator) -> Array:
    dtype = datatypes.NUMPY[tensor.datatype]
    if tensor.datatype == "BYTES":
        words = {Kind.LOUD: ["a" * 1000, "é" * 999], Kind.ZEROS: [""]}.get(kind, ["a", "b c", "d"])
        return rng.choice(np.array(words, dtype=object), shape)
    if tensor.datatype == "BOOL":
        likely = {Kind.LOUD: 1.0, Kind.ZEROS: 0.0}.get(kind, 0.5)
        return rng.random(shape) < likely
    if tensor.datatype in datatypes.INTEGERS:
        return _integers(tensor, shape, kind, rng).astype(dtype)
    if kind is Kind.ENDS:
        with np.errstate(over="ignore"):
            return rng.choice(np.array([3e38, -3e38, np.inf, -np.inf, np.nan]).astype(dtype), shape)
    scale = {Kind.LOUD: 1e3, Kind.QUIET: 1e-3, Kind.ZEROS: 0.0}.get(kind, 1.0)
    return (rng.standard_normal(shape) * scale).astype(dtype)


def _integers(tensor: ModelTensor, shape: list[int], kind: Kind, rng: np.random.Generator) -> Array:
    if tensor.spec.range is not None:
        first, end = tensor.spec.range
        ends = (first, end - 1)
    else:
        first, end = 0, 2
        info = np.iinfo(datatypes.NUMPY[tensor.datatype])
        bound = info.max if info.bits <= 16 else _SMALL_INTEGERS
        ends = (max(int(info.min), -bound - 1), bound)
        if kind is Kind.LOUD:
            end = ends[1] + 1
    if kind is Kind.ENDS:
        return rng.choice(np.array(ends), shape)
    if kind is Kind.ZEROS:
        return np.full(shape, min(max(0, first), end - 1))
    return rng.integers(first, end, shape)

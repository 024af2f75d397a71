"""Checks the lengths of outputs that the manifest computes from those of inputs, by runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import LoadError
from ...model import lengths
from . import selftest

if TYPE_CHECKING:
    from ...model.spec import ModelSpec, ModelTensor
    from ..runtime.session import OnnxSession
    from .drawing import Drawing

_WANTED = (1, 2, 3, 5, 8, 13, 29)
"""Elements that the output has in the runs that are compared with its formula, as far as it tells them."""

_LONGEST_TRIED = 1 << 12
"""Elements of an input, to find a formula: a graph may take time and memory by their square."""


def check_output_lengths(session: OnnxSession, spec: ModelSpec, file: str) -> None:
    """Check that each output has the sizes that the manifest computes. `file` is its path for errors.

    Raises:
        LoadError: one has another size. Names the length at which, and a formula that fits, if there is one.
    """
    computed = {
        (tensor.name, axis): name
        for tensor in spec.outputs
        for axis, name in tensor.spec.lengths.items()
        if name in spec.manifest.computed
    }
    if not computed:
        return
    try:
        runs = _Runs(session, spec, selftest.settled(session, spec, np.random.default_rng(0)))
        runs.size_of(*next(iter(computed)), runs.drawing.spread_lengths(1))
    except Exception:  # the self-test reports that the graph accepts no request
        return
    for (output, axis), name in computed.items():
        for wanted in _WANTED:
            known = runs.drawing.spread_lengths(wanted, wanted + 1)
            size = runs.size_of(output, axis, known)
            by_name = dict(zip(spec.length_names, known, strict=True))
            try:
                expected: int | str = spec.manifest.length(name, by_name)
            except ValueError as error:
                expected = str(error)
            if size != expected:
                sources = sorted(spec.manifest.sources(name))
                at = ", ".join(f"{one} = {by_name[one]}" for one in sources)
                remedy = _remedy(spec, runs, output, axis) or "correct the formula"
                raise LoadError(
                    f"{file}: outputs.{output}.lengths: axis {axis} has {size} elements at {at}, and"
                    f" {spec.manifest.computed[name]!r} gives {expected}; {remedy}"
                )


def hint(session: OnnxSession, spec: ModelSpec) -> str:
    """What to write in the manifest if an output has no more elements than the length of its axis, or
    fewer, or the axis has no length; "" if every output has its length, or no simple formula fits."""
    try:
        runs = _Runs(session, spec, selftest.settled(session, spec, np.random.default_rng(0)))
        for tensor in spec.outputs:
            for axis in _open_axes(tensor):
                if remedy := _remedy(spec, runs, tensor.name, axis):
                    return remedy
    except Exception:  # the graph does not take some length
        return ""
    return ""


def _open_axes(tensor: ModelTensor) -> list[int]:
    return [
        axis
        for axis, size in enumerate(tensor.shape)
        if not isinstance(size, int) and axis != tensor.spec.batch_axis
    ]


@dataclass
class _Runs:
    session: OnnxSession
    spec: ModelSpec
    drawing: Drawing

    def size_of(self, output: str, axis: int, known: tuple[int, ...]) -> int:
        request = selftest.Request(self.drawing.inputs(1, known), 1, known)
        size: int = selftest.run_alone(self.session, self.spec, request)[output].shape[axis]
        return size


def _remedy(spec: ModelSpec, runs: _Runs, output: str, axis: int) -> str:
    """The line of the manifest that fits the sizes of an output, if it differs from the one there."""
    start = runs.drawing.lengths(7)
    for index, (name, section) in enumerate(spec.manifest.lengths.items()):

        def size_of(n: int, index: int = index) -> int:
            return runs.size_of(output, axis, (*start[:index], n, *start[index + 1 :]))

        longest = min(section.max, start[index] + _LONGEST_TRIED)
        try:
            found = lengths.fit(name, size_of, start[index], longest)
        except Exception:  # the graph does not take some length
            continue
        tensor = spec.output(output)
        if found and tensor is not None and tensor.spec.lengths.get(axis) != found:
            return f'these sizes fit outputs.{output}.lengths = {{{axis} = "{found}"}}'
    return ""

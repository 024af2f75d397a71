"""Checks the outputs with a role whose shapes the graph does not tell, by runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import LoadError
from ...model.roles import has_open_row
from ..runtime.role_outputs import wrong_shape
from . import selftest

if TYPE_CHECKING:
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession


def check_open_shapes(session: OnnxSession, spec: ModelSpec, file: str) -> None:
    """Check outputs with a role whose shape the graph leaves open, by two runs of different lengths.

    `file` is the manifest's path for errors.

    Raises:
        LoadError: an output has another shape than its role needs.
    """
    manifest = spec.manifest
    roles = {manifest.roles.scores: "scores", manifest.roles.vector: "vector"}
    tensors = [tensor for tensor in spec.outputs if tensor.name in roles and has_open_row(tensor)]
    if not tensors or manifest.generates:
        return
    try:
        drawing = selftest.settled(session, spec, np.random.default_rng(0))
        runs = [
            selftest.run_alone(session, spec, selftest.draw_request(drawing, 1, (length,)))
            for length in (3, 7)
        ]
    except Exception:  # the self-test has reported that the graph accepts no request
        return
    for tensor in tensors:
        short, long = (run[tensor.name] for run in runs)
        why = wrong_shape(spec, tensor, long)
        if not why and short.size != long.size and not tensor.spec.lengths:
            why = (
                f"output {tensor.name!r} has {short.size} and {long.size} numbers for texts of different"
                " lengths; name the axis that varies in its lengths"
            )
        if why:
            raise LoadError(f"{file}: roles.{roles[tensor.name]}: {why}")

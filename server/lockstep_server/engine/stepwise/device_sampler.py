"""Samples next tokens where the scores are, so that only ids come to the host.

scores on the device, u, parameters → a graph (`sampling_graph.py`) → tokens; scores of the rows that it
leaves to the host → `sampler.sample` → the same tokens as there
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.device import DeviceArray
from ..runtime.session import Bindings, OnnxSession
from ..runtime.small_graphs import ELEMENT_TYPES
from .sampler import SamplingParameters, sample_all
from .sampling_graph import RANKED, rows_graph, sampling_graph

if TYPE_CHECKING:
    from ...model.spec import ModelSpec
    from ..runtime.device import Device

    Array = np.ndarray[Any, Any]


class DeviceSampler:
    """Samples from the scores that the steps of one model leave on a device. Its graphs are opened when they
    are first needed."""

    def __init__(self, spec: ModelSpec, device: Device) -> None:
        self._device = device
        scores = spec.output(spec.manifest.roles.scores)
        assert scores is not None
        self._datatype, axis = scores.datatype, scores.spec.batch_axis
        self._time = (1 - (axis or 0), scores.spec.position) if len(scores.shape) > 2 else None
        self._sessions: dict[tuple[int, bool] | None, OnnxSession] = {}

    @staticmethod
    def can_sample(spec: ModelSpec) -> bool:
        """Whether a graph finds the next scores in the output of a step."""
        scores = spec.output(spec.manifest.roles.scores)
        return (
            scores is not None
            and scores.datatype in ("FP32", "FP16")
            and (len(scores.shape), scores.spec.batch_axis) in ((2, 0), (3, 0), (3, 1))
        )

    def sample_all(self, scores: DeviceArray, u: Array, parameters: SamplingParameters) -> tuple[Array, bool]:
        """As `sampler.sample_all`, of the scores of a step. Rows without a sequence are not looked at."""
        tokens = self._sample(scores, u, parameters)
        tokens[parameters.vacant & (tokens < 0)] = 0
        rows = np.flatnonzero(tokens < 0)
        if len(rows):
            own = SamplingParameters.of(len(rows))
            own.take(parameters, rows.tolist())
            tokens[rows], complete = sample_all(self._rows(scores, rows), u[rows], own)
            return tokens, complete
        return tokens, True

    def _sample(self, scores: DeviceArray, u: Array, parameters: SamplingParameters) -> Array:
        """The tokens of the rows where any way to add and to round gives the same one, else -1."""
        held = parameters.held
        if held is None:
            held = parameters.held = _Held(parameters, scores.shape[-1], self._device)
        key = scores.shape[-1], parameters.cuts
        if key not in self._sessions:
            graph = sampling_graph(self._datatype, self._time, key[0], cuts=key[1])
            self._sessions[key] = OnnxSession(graph, self._device, captures=True)
        held.u.update(np.where(parameters.temperature == 0, 0.0, u)[:, None])
        feeds = {"scores": scores, "u": held.u, **held.columns}
        self._sessions[key].run(feeds, ["token"], {"token": held.token}, held.bindings)
        tokens: Array = held.token.numpy()[:, 0]
        return tokens

    def _rows(self, scores: DeviceArray, rows: Array) -> Array:
        """The next scores of these rows, on the host."""
        if None not in self._sessions:
            self._sessions[None] = OnnxSession(rows_graph(self._datatype, self._time), self._device)
        picked: Array
        (picked,) = self._sessions[None].run({"scores": scores, "rows": rows}, ["picked"], {})
        return picked


class _Held:
    """The parameters of the rows on the device, until one changes, and places for u and the tokens."""

    def __init__(self, parameters: SamplingParameters, tokens: int, device: Device) -> None:
        rows = len(parameters.temperature)
        self.columns = {
            name: DeviceArray.of(column[:, None], device)
            for name, column in _columns(parameters, tokens).items()
        }
        self.u = DeviceArray.of(np.zeros((rows, 1)), device)
        self.token = DeviceArray.empty((rows, 1), ELEMENT_TYPES["INT64"], device)
        self.bindings = Bindings()


def _columns(parameters: SamplingParameters, tokens: int) -> dict[str, Array]:
    """The inputs of `sampling_graph`, [rows]."""
    greedy = parameters.temperature == 0
    columns = {
        "inverse": parameters.inverse[:, 0],
        "floor": np.where(greedy, 0, -np.inf).astype(np.float32),
        "added": np.where(greedy, 0.5, 0.0),
    }
    if not parameters.cuts:
        return columns
    ranked, top_k, top_p = min(RANKED, tokens), parameters.top_k, parameters.top_p
    return columns | {
        "cut": ((top_k > 0) | (top_p < 1)) & ~greedy,
        "has_k": top_k > 0,
        "last_k": np.where(top_k > 0, np.minimum(top_k, ranked), ranked) - 1,
        "top_p": np.where(top_p < 1, top_p, 2.0),
    }

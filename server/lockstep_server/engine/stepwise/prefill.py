"""Prompts and sources taken in, several in one run, each cut back to its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ... import messages
from ...model import datatypes
from ...model.sizes import measure_request
from ..runtime import padding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ...model.datatypes import Arrays
    from ...model.sizes import RequestSize
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession
    from .sequence import GenerationSequence


_LEARNING_RATE = 0.1


class Prompt(NamedTuple):
    """One decoding's ids as the prefill graph takes them."""

    inputs: Arrays
    rows: int
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return max(sum(self.lengths), 1)


def measure_prompt(prefill: ModelSpec, ids: Sequence[int]) -> RequestSize:
    """
    Raises:
        ServingError: BAD_INPUT, it is longer than the model takes.
    """
    return measure_request(prefill, _inputs(prefill, ids))


def prompt_of(prefill: ModelSpec, ids: Sequence[int]) -> Prompt:
    inputs = _inputs(prefill, ids)
    return Prompt(inputs, 1, measure_request(prefill, inputs).lengths)


def _inputs(prefill: ModelSpec, ids: Sequence[int]) -> Arrays:
    tensor = prefill.input(prefill.text_input)
    assert tensor is not None
    return {tensor.name: np.array([ids], datatypes.NUMPY[tensor.datatype])}


def run(spec: ModelSpec, session: OnnxSession, prompts: Sequence[Prompt]) -> list[Arrays]:
    """Each prompt's outputs: states and, where the graph gives them, scores; one row each.

    Raises:
        Exception: whatever the session raises.
    """
    lengths = tuple(max(column) for column in zip(*(one.lengths for one in prompts), strict=True))
    feeds = padding.stack(spec, prompts, len(prompts), lengths)
    outputs = dict(zip(session.output_names, session.run(feeds), strict=True))
    if len(prompts) == 1 and not spec.batched:
        return [outputs]
    return padding.cut(replace(spec, batched=True), outputs, prompts, lengths)


class PrefillRunner:
    """Takes prompts in between two steps, within a budget of its own: who runs waits for them."""

    def __init__(self, spec: ModelSpec, session: OnnxSession, clock: Callable[[], float]) -> None:
        self._spec, self._session, self._clock = spec, session, clock
        self._pace = 0.0  # seconds an element, as learned

    def choose(
        self, waiting: Iterable[GenerationSequence], max_run_s: float | None
    ) -> list[GenerationSequence]:
        """The first of `waiting` whose prompts fit into one run together; one at least."""
        bounds = self._spec.manifest.batching
        most_rows = bounds.max_rows if self._spec.batched else 1
        most_elements = float(bounds.max_padded_elements)
        if max_run_s is not None and self._pace:
            most_elements = min(most_elements, max_run_s / self._pace)
        chosen: list[GenerationSequence] = []
        longest = 0
        for decoding in waiting:
            longest = max(longest, len(decoding.prompt))
            if chosen and (len(chosen) >= most_rows or longest * (len(chosen) + 1) > most_elements):
                break
            chosen.append(decoding)
        return chosen

    def run(self, chosen: Sequence[GenerationSequence], waited_s: float) -> tuple[list[Arrays], messages.Run]:
        """Each one's outputs, in order.

        Raises:
            Exception: whatever the session raises.
        """
        begun = self._clock()
        prompts = [prompt_of(self._spec, one.prompt) for one in chosen]
        outputs = run(self._spec, self._session, prompts)
        took = self._clock() - begun
        longest = max(prompt.size for prompt in prompts)
        padded = longest * len(prompts)
        self._pace += _LEARNING_RATE * (took / padded - self._pace) if self._pace else took / padded
        for decoding in chosen:
            decoding.first_run, decoding.prefill_s = begun, took
        elements = sum(prompt.size for prompt in prompts)
        return outputs, messages.Run(
            len(prompts), longest, elements, padded, 0.0, took, 0.0, waited_s, "prefill"
        )

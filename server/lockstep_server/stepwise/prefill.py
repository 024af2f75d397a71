"""Prompts and sources taken in, several in one run, each cut back to its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..models import datatypes, padding
from ..models.measure import measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..models.card import Card
    from ..models.datatypes import Arrays
    from ..models.measure import Measure
    from ..models.session import Session
    from .sequence import Decoding


class Prompt(NamedTuple):
    """One decoding's ids as the prefill graph takes them."""

    inputs: Arrays
    rows: int
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return max(sum(self.lengths), 1)


def measure_prompt(prefill: Card, ids: Sequence[int]) -> Measure:
    """
    Raises:
        ServingError: BAD_INPUT, it is longer than the model takes.
    """
    return measure(prefill, _inputs(prefill, ids))


def prompt_of(prefill: Card, ids: Sequence[int]) -> Prompt:
    inputs = _inputs(prefill, ids)
    return Prompt(inputs, 1, measure(prefill, inputs).lengths)


def _inputs(prefill: Card, ids: Sequence[int]) -> Arrays:
    tensor = prefill.input(prefill.text_input)
    assert tensor is not None
    return {tensor.name: np.array([ids], datatypes.NUMPY[tensor.datatype])}


def within(prefill: Card, waiting: Iterable[Decoding], most_elements: float) -> list[Decoding]:
    """The first of `waiting` whose prompts fit into one run together; one at least."""
    chosen: list[Decoding] = []
    longest, most_rows = 0, prefill.manifest.batching.max_rows if prefill.batched else 1
    for decoding in waiting:
        longest = max(longest, len(decoding.prompt))
        if chosen and (len(chosen) >= most_rows or longest * (len(chosen) + 1) > most_elements):
            break
        chosen.append(decoding)
    return chosen


def run(prefill: Card, session: Session, prompts: Sequence[Prompt]) -> list[Arrays]:
    """Each prompt's outputs: states and, where the graph gives them, scores; one row each.

    Raises:
        Exception: whatever the session raises.
    """
    lengths = tuple(max(column) for column in zip(*(one.lengths for one in prompts), strict=True))
    feeds = padding.stack(prefill, prompts, len(prompts), lengths)
    outputs = dict(zip(session.output_names, session.run(feeds), strict=True))
    if len(prompts) == 1 and not prefill.batched:
        return [outputs]
    return padding.cut(replace(prefill, batched=True), outputs, prompts, lengths)

"""Measures four ways to read the same text: step-wise, fused, one-shot and re-encoding.

text and lengths → timed runs of the contenders, in turn (reading_time.py) → median per contender →
`RaceResult`. A recurrent model runs in two ways with the same weights: one step per element (Follow), or
the whole text in one fused run (Classify). A Transformer encodes the whole text in one run (Classify), or
every prefix anew (Follow).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from lockstep_client import reading_time
from lockstep_client.errors import InvalidRequest, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockstep_client.client import AsyncClient

TEXT = (
    "an intimate and quietly devastating portrait of a family that has forgotten how to talk and of the one "
    "summer in which they learn it again"
)
LONGEST_REENCODED = 200
"""Longest text, in words, that is re-encoded after each word: its cost is quadratic in the length."""

STEPWISE, FUSED, ONE_SHOT, REENCODING = "step-wise", "fused", "one-shot", "re-encoding"


@dataclass(frozen=True)
class Contender:
    """A way to read a text, and the model for it."""

    way: str
    model: str

    async def measure(
        self, client: AsyncClient, text: str, on_prediction: Callable[[int], None] | None = None
    ) -> reading_time.ReadingTime:
        """Read `text` once, and time it."""
        return await reading_time.measure(
            client, self.model, text, follow=self.follows, on_prediction=on_prediction
        )

    @property
    def follows(self) -> bool:
        """Whether it predicts after each element."""
        return self.way in (STEPWISE, REENCODING)


@dataclass(frozen=True)
class RaceResult:
    """The median time of a contender at one length, or a note with the reason why there is none."""

    contender: Contender
    words: int
    time: reading_time.ReadingTime | None
    runs: int
    note: str

    def as_json(self) -> dict[str, Any]:
        """A flat JSON object; `possible` is false if the contender was not timed."""
        fields = {**vars(self.contender), "words": self.words, "possible": self.time is not None}
        if self.time is None:
            return {**fields, "note": self.note}
        return {
            **fields,
            **vars(self.time),
            "compute_per_step_s": self.time.compute_per_step_s,
            "laps": self.runs,
        }


def contenders(stepwise: str, fused: str, one_shot: str) -> tuple[Contender, ...]:
    """The contenders with the given models; an empty name omits its contenders."""
    ways = ((STEPWISE, stepwise), (FUSED, fused), (ONE_SHOT, one_shot), (REENCODING, one_shot))
    return tuple(Contender(way, model) for way, model in ways if model)


def repeated(text: str, words: int) -> str:
    """The text, truncated or repeated to the given number of words."""
    return " ".join(islice(cycle(text.split()), words))


@dataclass(frozen=True)
class Race:
    """A comparison of the contenders on one text, with `repeat` timed runs each."""

    client: AsyncClient
    contenders: tuple[Contender, ...]
    text: str
    repeat: int
    on_progress: Callable[[Contender, int, int], None] = lambda *_: None
    """Called during the untimed warm-up run of each contender with: contender, words, predictions so far."""

    async def results(self, words: int) -> list[RaceResult]:
        """The results of all contenders at one length. Contenders alternate, so a temporary slowdown of the
        machine affects all of them."""
        text = repeated(self.text, words)
        notes = {contender: await self._warm_up(contender, text, words) for contender in self.contenders}
        times: dict[Contender, list[reading_time.ReadingTime]] = {
            contender: [] for contender in self.contenders
        }
        for _ in range(self.repeat):
            for contender in self.contenders:
                measured = notes[contender] or await self._measure(contender, text)
                if isinstance(measured, str):
                    notes[contender] = measured
                else:
                    times[contender].append(measured)
        return [
            RaceResult(
                contender,
                words,
                reading_time.median_reading(times[contender]),
                len(times[contender]),
                notes[contender],
            )
            for contender in self.contenders
        ]

    async def _warm_up(self, contender: Contender, text: str, words: int) -> str:
        """Run once untimed. Returns why the contender cannot run at this length; empty if it can."""
        if contender.way == REENCODING and words > LONGEST_REENCODED:
            every = words * (words + 1) // 2
            return f"skipped above {LONGEST_REENCODED} words: the prefixes add up to {every:,} elements"
        probe = await contender.measure(
            self.client, repeated(text, 2)
        )  # fails if the model cannot read texts
        if contender.way == STEPWISE and probe.computed_elements > probe.steps:
            return "skipped: the model has no step-wise form, so the server re-encodes each prefix"
        watched = await self._measure(contender, text, lambda step: self.on_progress(contender, words, step))
        return watched if isinstance(watched, str) else ""

    async def _measure(
        self, contender: Contender, text: str, on_prediction: Callable[[int], None] | None = None
    ) -> reading_time.ReadingTime | str:
        """The time of one run, or why the server rejected it."""
        try:
            return await contender.measure(self.client, text, on_prediction)
        except (InvalidRequest, Overloaded) as error:
            return f"not possible at this length: {error.message}"

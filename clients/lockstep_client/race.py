"""The same text in four ways, against the clock: step by step, fused, one-shot, and encoded again each time.

text and lengths → laps of the contenders, in turn (lap.py) → the median of each → `Result`. A recurrent model
is asked both ways with the same weights: one step for each element (Follow), or the whole text in one fused
run (Classify). A Transformer takes the whole text in one run, or every prefix of it once more (Follow).
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
"""Words: above, encoding every prefix is work that nobody would wait for."""

STEPWISE, FUSED, ONE_SHOT, REENCODING = "step-wise", "fused", "one-shot", "re-encoding"


@dataclass(frozen=True)
class Contender:
    """A way to have a text read, and the model that reads it."""

    way: str
    model: str

    async def run(
        self, client: AsyncClient, text: str, moved: Callable[[int], None] | None = None
    ) -> reading_time.ReadingTime:
        """Read a text once."""
        return await reading_time.run(client, self.model, text, follow=self.follows, moved=moved)

    @property
    def follows(self) -> bool:
        """Whether it predicts after each element."""
        return self.way in (STEPWISE, REENCODING)


@dataclass(frozen=True)
class RaceResult:
    """A contender at one length: its median lap, or a note that says why there is none."""

    contender: Contender
    words: int
    lap: reading_time.ReadingTime | None
    laps: int
    note: str

    def as_json(self) -> dict[str, Any]:
        """One flat object; `possible` tells whether there was a lap."""
        told = {**vars(self.contender), "words": self.words, "possible": self.lap is not None}
        if self.lap is None:
            return {**told, "note": self.note}
        return {
            **told,
            **vars(self.lap),
            "compute_per_step_s": self.lap.compute_per_step_s,
            "laps": self.laps,
        }


def contenders(stepwise: str, fused: str, one_shot: str) -> tuple[Contender, ...]:
    """The four, by the names of their models; an empty name leaves its contender out."""
    ways = ((STEPWISE, stepwise), (FUSED, fused), (ONE_SHOT, one_shot), (REENCODING, one_shot))
    return tuple(Contender(way, model) for way, model in ways if model)


def repeated(text: str, words: int) -> str:
    """The text cut, or gone on with from its beginning, to so many words."""
    return " ".join(islice(cycle(text.split()), words))


@dataclass(frozen=True)
class Race:
    """Who runs, on what, and how often."""

    client: AsyncClient
    contenders: tuple[Contender, ...]
    text: str
    repeat: int
    watch: Callable[[Contender, int, int], None] = lambda *_: None
    """Told of each contender's first lap, which warms it up and is not timed: who, words, predictions."""

    async def results(self, words: int) -> list[RaceResult]:
        """Of every contender, at one length. They take turns, so that what slows the machine for a while
        slows all of them."""
        text = repeated(self.text, words)
        notes = {one: await self._warm_up(one, text, words) for one in self.contenders}
        laps: dict[Contender, list[reading_time.ReadingTime]] = {one: [] for one in self.contenders}
        for _ in range(self.repeat):
            for one in self.contenders:
                made = notes[one] or await self._lap(one, text)
                if isinstance(made, str):
                    notes[one] = made
                else:
                    laps[one].append(made)
        return [
            RaceResult(one, words, reading_time.median_lap(laps[one]), len(laps[one]), notes[one])
            for one in self.contenders
        ]

    async def _warm_up(self, one: Contender, text: str, words: int) -> str:
        """Why it does not run at this length; empty where it does."""
        if one.way == REENCODING and words > LONGEST_REENCODED:
            every = words * (words + 1) // 2
            return f"left out above {LONGEST_REENCODED} words: its prefixes are {every:,} elements"
        begun = await one.run(self.client, repeated(text, 2))  # who refuses that refuses any length
        if one.way == STEPWISE and begun.computed_elements > begun.steps:
            return "left out: the model has no step-wise face, each prefix is encoded again"
        first = await self._lap(one, text, lambda step: self.watch(one, words, step))
        return first if isinstance(first, str) else ""

    async def _lap(
        self, one: Contender, text: str, moved: Callable[[int], None] | None = None
    ) -> reading_time.ReadingTime | str:
        """A lap, or why the server would not have it."""
        try:
            return await one.run(self.client, text, moved)
        except (InvalidRequest, Overloaded) as error:
            return f"not possible at this length: {error.message}"

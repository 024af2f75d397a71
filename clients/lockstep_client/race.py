"""A race: every way to read a text (reading.py) at one length, timed in turn.

text and lengths → a warm-up and timed runs of each contender → median per contender → `RaceResult`. Or the
run of median duration, with each of its predictions → `Recording`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep_client import reading
from lockstep_client.errors import InvalidRequest, Overloaded
from lockstep_client.reading import REENCODING, STEPWISE, Contender, Moment, ReadingTime, repeated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from lockstep_client.client import AsyncClient

TEXT = (
    "an intimate and quietly devastating portrait of a family that has forgotten how to talk and of the one "
    "summer in which they learn it again"
)
LONGEST_REENCODED = 200
"""Longest text, in words, that is re-encoded after each word: its cost is quadratic in the length."""


@dataclass(frozen=True)
class RaceResult:
    """The median time of a contender at one length, or a note with the reason why there is none."""

    contender: Contender
    words: int
    time: ReadingTime | None
    runs: int
    note: str

    def as_json(self) -> dict[str, Any]:
        """A flat JSON object; `possible` is false if the contender was not timed."""
        fields = {
            "way": self.contender.way,
            "model": self.contender.model,
            "words": self.words,
            "possible": self.time is not None,
        }
        if self.time is None:
            return {**fields, "note": self.note}
        return {
            **fields,
            **vars(self.time),
            "compute_per_step_s": self.time.compute_per_step_s,
            "laps": self.runs,
        }


@dataclass(frozen=True)
class Recording:
    """The predictions of one run of a contender, or a note with the reason why there are none."""

    contender: Contender
    words: int
    moments: tuple[Moment, ...]
    note: str

    @property
    def result(self) -> RaceResult:
        """Its times."""
        time = reading.reading_time(self.moments) if self.moments else None
        return RaceResult(self.contender, self.words, time, 1 if time else 0, self.note)


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
        """The results of all contenders at one length."""
        text = repeated(self.text, words)
        notes = {contender: await self._warm_up(contender, text, words) for contender in self.contenders}
        times: dict[Contender, list[ReadingTime]] = {contender: [] for contender in self.contenders}
        for order in reading.turns(self.contenders, self.repeat):
            for contender in order:
                measured = notes[contender] or await self._measure(contender, text)
                if isinstance(measured, str):
                    notes[contender] = measured
                else:
                    times[contender].append(measured)
        return [
            RaceResult(
                contender,
                words,
                reading.median_reading(times[contender]),
                len(times[contender]),
                notes[contender],
            )
            for contender in self.contenders
        ]

    async def recordings(self) -> AsyncIterator[Recording]:
        """One recording of each contender, of the whole text. Of `repeat` runs it is that of median duration.

        The contenders run one after another, so each has the server to itself.
        """
        words = len(self.text.split())
        for contender in self.contenders:
            note = await self._warm_up(contender, self.text, words)
            runs: list[list[Moment]] = []
            try:
                while not note and len(runs) < self.repeat:
                    runs.append(await reading.record(self.client, contender, self.text))
            except (InvalidRequest, Overloaded) as error:
                note = _impossible(error)
            runs.sort(key=lambda run: run[-1].at_s)
            yield Recording(contender, words, () if note else tuple(runs[len(runs) // 2]), note)

    async def _warm_up(self, contender: Contender, text: str, words: int) -> str:
        """Run once untimed. Returns why the contender cannot run at this length; empty if it can."""
        if contender.way == REENCODING and words > LONGEST_REENCODED:
            every = words * (words + 1) // 2
            return f"skipped above {LONGEST_REENCODED} words: the prefixes add up to {every:,} elements"
        # Fails if the model cannot read texts.
        probe = await reading.measure(self.client, contender, repeated(text, 2))
        if contender.way == STEPWISE and probe.computed_elements > probe.steps:
            return "skipped: the model has no step-wise form, so the server re-encodes each prefix"
        watched = await self._measure(contender, text, lambda step: self.on_progress(contender, words, step))
        return watched if isinstance(watched, str) else ""

    async def _measure(
        self, contender: Contender, text: str, on_prediction: Callable[[int], None] | None = None
    ) -> ReadingTime | str:
        """The time of one run, or why the server rejected it."""
        try:
            return await reading.measure(self.client, contender, text, on_prediction)
        except (InvalidRequest, Overloaded) as error:
            return _impossible(error)


def _impossible(error: InvalidRequest | Overloaded) -> str:
    return f"not possible at this length: {error.message}"

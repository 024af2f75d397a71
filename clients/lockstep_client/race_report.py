"""What a race showed: a table, and two sentences computed from its numbers."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from lockstep_client.race import FUSED, ONE_SHOT, REENCODING, STEPWISE
from lockstep_client.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockstep_client.race import Contender, RaceResult
    from lockstep_client.reading_time import ReadingTime

HEADER = (
    "way", "model", "words", "first ms", "last ms", "compute ms", "per step", "steps", "computed", "answer",
)  # fmt: skip
WIDTH = 110
_SAME = 1.05
"""Up to this ratio two times are told as the same."""


def show(results: Sequence[RaceResult]) -> None:
    """The table, the notes below it, and what it shows."""
    table(HEADER, [_row(one) for one in results], left=2)
    for told in notes(results):
        print(told)
    for sentence in sentences(results):
        print(f"\n{fill(sentence, WIDTH)}", flush=True)


def notes(results: Sequence[RaceResult]) -> Iterator[str]:
    """Who did not run, where, and why."""
    lengths: dict[tuple[Contender, str], list[str]] = {}
    for one in results:
        if one.note:
            lengths.setdefault((one.contender, one.note), []).append(f"{one.words:,}")
    for (who, note), words in lengths.items():
        yield f"{who.way} {who.model}, {', '.join(words)} words: {note}"


def sentences(results: Sequence[RaceResult]) -> list[str]:
    """What the longest texts showed: of waiting for a prediction, and of having one after every word."""
    return [*_of_waiting(results), *(list(_of_every_word(results)) or list(_of_the_whole(results)))]


def _of_waiting(results: Sequence[RaceResult]) -> Iterator[str]:
    for words, step, fused in _pairs(results, STEPWISE, FUSED):
        yield (
            f"At {words:,} words the step-wise model had its first prediction after {_ms(step.first_s)} ms,"
            f" {_against(step.first_s, fused.first_s)} than the fused run of the whole text"
            f" ({_ms(fused.first_s)} ms); its last one came after {_ms(step.last_s)} ms,"
            f" {_against(step.last_s, fused.last_s)}."
        )


def _of_every_word(results: Sequence[RaceResult]) -> Iterator[str]:
    for words, step, again in _pairs(results, STEPWISE, REENCODING):
        yield (
            f"For a prediction after each of {words:,} words, stepping computed {step.computed_elements:,}"
            f" elements in {_ms(step.compute_s)} ms and re-encoding {again.computed_elements:,} in"
            f" {_ms(again.compute_s)} ms: {_times(again.compute_s, step.compute_s)} compute."
        )


def _of_the_whole(results: Sequence[RaceResult]) -> Iterator[str]:
    for words, fused, once in _pairs(results, FUSED, ONE_SHOT):
        yield (
            f"Read whole, {words:,} words cost the fused recurrent model {_ms(fused.compute_s)} ms of compute"
            f" and the one-shot model {_ms(once.compute_s)} ms: {_times(once.compute_s, fused.compute_s)}."
        )


def _pairs(
    results: Sequence[RaceResult], one: str, other: str
) -> Iterator[tuple[int, ReadingTime, ReadingTime]]:
    """The laps of two ways at the longest length that both ran; nothing where there is none."""
    laps = {(r.words, r.contender.way): r.lap for r in results if r.lap}
    both = [words for words, way in laps if way == one and (words, other) in laps]
    if both:
        yield max(both), laps[max(both), one], laps[max(both), other]


def _against(this: float, that: float) -> str:
    ratio = max(this, that) / max(min(this, that), 1e-9)
    if ratio < _SAME:
        return "no sooner and no later"
    return f"{_ratio(ratio)} times {'sooner' if this < that else 'later'}"


def _times(this: float, that: float) -> str:
    return f"{_ratio(this / max(that, 1e-9))} times as much"


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def _row(one: RaceResult) -> tuple[str, ...]:
    who = (one.contender.way, one.contender.model, f"{one.words:,}")
    if one.lap is None:
        return (*who, *("-",) * (len(HEADER) - len(who)))
    best = one.lap.answer
    times = (one.lap.first_s, one.lap.last_s, one.lap.compute_s, one.lap.compute_per_step_s)
    return (
        *who,
        *(f"{seconds * 1e3:.2f}" for seconds in times),
        f"{one.lap.steps:,}",
        f"{one.lap.computed_elements:,}",
        f"{best.name} {best.probability:.0%}",
    )

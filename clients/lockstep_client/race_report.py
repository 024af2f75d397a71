"""The report of a race: a table, notes, and sentences computed from the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_client import tables, writing
from lockstep_client.reading import FUSED, ONE_SHOT, REENCODING, STEPWISE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lockstep_client.race import RaceResult
    from lockstep_client.reading import Contender, ReadingTime
    from lockstep_client.writing import WritingResult

HEADER = (
    "way", "model", "words", "first ms", "last ms", "compute ms", "per step", "steps", "computed", "answer",
)  # fmt: skip
WIDTH = 110
_SAME = 1.05
"""Two times up to this ratio count as equal."""


def show(results: Sequence[RaceResult], written: Sequence[WritingResult] = ()) -> None:
    """Print the tables, the notes and the sentences."""
    if results:
        tables.table(HEADER, [_row(result) for result in results], left=2)
    _print_text(notes(results), sentences(results))
    if written:
        print()
        tables.table(writing.HEADER, writing.rows(written))
    _print_text(writing.notes(written), writing.sentences(written))


def _print_text(notes: Iterable[str], sentences: Iterable[str]) -> None:
    for note in notes:
        tables.text(note)
    for sentence in sentences:
        tables.text(f"\n{sentence}", WIDTH)


def notes(results: Sequence[RaceResult]) -> Iterator[str]:
    """One line per contender that was not timed: at which lengths, and why."""
    lengths: dict[tuple[Contender, str], list[str]] = {}
    for result in results:
        if result.note:
            lengths.setdefault((result.contender, result.note), []).append(f"{result.words:,}")
    for (contender, note), words in lengths.items():
        yield f"{contender.way} {contender.model}, {', '.join(words)} words: {note}"


def sentences(results: Sequence[RaceResult]) -> list[str]:
    """The results at the greatest common lengths: time to a prediction, and compute per prediction."""
    return [*_waiting_times(results), *(list(_stepwise_compute(results)) or list(_one_shot_compute(results)))]


def _waiting_times(results: Sequence[RaceResult]) -> Iterator[str]:
    for words, step, fused in _pairs(results, STEPWISE, FUSED):
        length = tables.counted(words, "word")
        yield (
            f"At {length} the step-wise model had its first prediction after {_ms(step.first_s)} ms,"
            f" {_sooner_or_later(step.first_s, fused.first_s)} than the fused run of the whole text"
            f" ({_ms(fused.first_s)} ms); its last one came after {_ms(step.last_s)} ms,"
            f" {_sooner_or_later(step.last_s, fused.last_s)}."
        )


def _stepwise_compute(results: Sequence[RaceResult]) -> Iterator[str]:
    for words, step, again in _pairs(results, STEPWISE, REENCODING):
        length = tables.counted(words, "word")
        yield (
            f"For a prediction after each of {length}, stepping computed {step.computed_elements:,}"
            f" elements in {_ms(step.compute_s)} ms and re-encoding {again.computed_elements:,} in"
            f" {_ms(again.compute_s)} ms: {_times(again.compute_s, step.compute_s)} compute."
        )


def _one_shot_compute(results: Sequence[RaceResult]) -> Iterator[str]:
    for words, fused, once in _pairs(results, FUSED, ONE_SHOT):
        length = tables.counted(words, "word")
        yield (
            f"For one prediction after {length}, the fused recurrent model took"
            f" {_ms(fused.compute_s)} ms of compute and the one-shot model {_ms(once.compute_s)} ms:"
            f" {_times(once.compute_s, fused.compute_s)}."
        )


def _pairs(
    results: Sequence[RaceResult], way: str, other: str
) -> Iterator[tuple[int, ReadingTime, ReadingTime]]:
    """The times of two ways at the greatest length that both were timed at; nothing if there is none."""
    times = {(r.words, r.contender.way): r.time for r in results if r.time}
    common = [words for words, one in times if one == way and (words, other) in times]
    if common:
        yield max(common), times[max(common), way], times[max(common), other]


def _sooner_or_later(this: float, that: float) -> str:
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


def _row(result: RaceResult) -> tuple[str, ...]:
    contender = (result.contender.way, result.contender.model, f"{result.words:,}")
    if result.time is None:
        return (*contender, *("-",) * (len(HEADER) - len(contender)))
    best = result.time.answer
    times = (result.time.first_s, result.time.last_s, result.time.compute_s, result.time.compute_per_step_s)
    return (
        *contender,
        *(f"{seconds * 1e3:.2f}" for seconds in times),
        f"{result.time.steps:,}",
        f"{result.time.computed_elements:,}",
        f"{best.name} {best.probability:.0%}",
    )

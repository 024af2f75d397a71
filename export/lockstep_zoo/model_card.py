"""Writes the model card of a shipped model, `models/<name>/README.md`.

recipe, score, manifest, graphs → Markdown
"""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

import onnx

from lockstep_export.manifest import Table
from lockstep_zoo.recipe import Recipe
from lockstep_zoo.scores import Score, format_score
from lockstep_zoo.sources import LIMITS, SOURCES

CARD = "README.md"
MODES = {
    "model.onnx": "one-shot: a whole text in one run",
    "prefill.onnx": "prefill: a whole prompt or source in one run; returns the initial states",
    "step.onnx": "step-wise: one element of each row and the previous states",
}
COMMANDS = {
    "classify": '`lockstep classify --model {name} "a fine film"`',
    "generate": '`lockstep generate --model {name} --prompt "{prompt}"`',
    "translate": '`lockstep translate --model {name} "A man is riding a red bicycle ."`',
}
PROMPTS = {"tinyshakespeare": "ROMEO:", "captions": "a man is sitting on the"}

CARD_TEXT = """# {name}

{about}.

Try it: {command}

| | |
|---|---|
{facts}

Trained with one seed. The epoch and the settings were selected on `dev`, so its figure is slightly
optimistic. `test` was not used for selection, but its scores were known while settings were tried.
Measured on these files with ONNX Runtime. Weights are stored as float16 numbers; computation is in float32.

## Inputs and outputs

{graphs}

Axes that vary have names. The server generates lengths and masks and keeps the states.

## Known limits

{limits}

## Data and terms of use

{source}

The data is not part of this project.
"""


def model_card(recipe: Recipe, score: Score, manifest: Table, version: Path) -> str:
    """The text of the card; `version` is the folder of the graphs."""
    command = COMMANDS[score.task].format(name=recipe.name, prompt=PROMPTS.get(recipe.corpus, ""))
    return CARD_TEXT.format(
        name=recipe.name,
        about=recipe.about,
        command=command,
        facts="\n".join(f"| {what} | {value} |" for what, value in _facts(score, manifest)),
        graphs="\n\n".join(_graph(version / file) for file in MODES if (version / file).is_file()),
        limits="\n".join(_item(limit) for limit in (*recipe.limits, *LIMITS[recipe.corpus])),
        source=SOURCES[recipe.corpus],
    )


def _item(text: str) -> str:
    return fill(text, 108, initial_indent="- ", subsequent_indent="  ")


def _facts(score: Score, manifest: Table) -> Iterator[tuple[str, str]]:
    yield "task", score.task
    if labels := manifest.get("labels"):
        yield "labels", ", ".join(labels)
    yield (
        score.measure,
        f"dev {format_score(score.measure, score.dev)}, test {format_score(score.measure, score.test)}",
    )
    yield "parameters", f"{score.parameters:,}"
    yield "size of the version", f"{score.bytes / 1e6:.2f} MB"
    yield "training", f"best epoch {score.best_epoch}, {score.train_seconds:.0f} s on one thread"
    for name, length in manifest.get("lengths", {}).items():
        yield f"maximum {name}", f"{length['max']:,} tokens"


def _graph(file: Path) -> str:
    graph = onnx.load(file, load_external_data=False).graph
    rows = [_row("in", value) for value in graph.input] + [_row("out", value) for value in graph.output]
    head = f"`1/{file.name}`, {MODES[file.name]}:"
    return "\n".join([head, "", "| | tensor | type | shape |", "|---|---|---|---|", *rows])


def _row(direction: str, value: Any) -> str:
    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = ", ".join(axis.dim_param or str(axis.dim_value) for axis in tensor.shape.dim)
    return f"| {direction} | `{value.name}` | {kind} | [{shape}] |"

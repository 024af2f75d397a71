"""The card of a shipped model, `models/<name>/README.md`: measured figures, and a few words of the recipe.

recipe, score, manifest, graphs → Markdown
"""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

import onnx

from lockstep_export.manifest import Table
from lockstep_zoo.recipe import Recipe
from lockstep_zoo.scores import Score, told
from lockstep_zoo.sources import LIMITS, SOURCES

CARD = "README.md"
FACES = {
    "model.onnx": "one-shot: a whole text in one run",
    "prefill.onnx": "what a prompt or source leaves, in one run",
    "step.onnx": "step-wise: one element of each row, and the states so far",
}
ASK = {
    "classify": '`lockstep classify --model {name} "a fine film"`',
    "generate": '`lockstep generate --model {name} --prompt "{prompt}"`',
    "translate": '`lockstep translate --model {name} "A man is riding a red bicycle ."`',
}
PROMPTS = {"tinyshakespeare": "ROMEO:", "captions": "a man is sitting on the"}

CARD_TEXT = """# {name}

{about}.

Ask it: {ask}

| | |
|---|---|
{facts}

One seed; the part `dev` chose the epoch and the settings, so it flatters a little. `test` chose
nothing, though its scores were seen while settings were tried.
Measured on these files with ONNX Runtime. Weights are float16 numbers, computed with in float32.

## What goes in and comes out

{faces}

Axes of any size have names. The server fills in lengths and masks, and keeps the states.

## Known limits

{limits}

## Data and its terms

{source}

Nothing of it is part of this project.
"""


def model_card(recipe: Recipe, score: Score, manifest: Table, version: Path) -> str:
    """The whole card; `version` is the folder of the graphs."""
    ask = ASK[score.task].format(name=recipe.name, prompt=PROMPTS.get(recipe.corpus, ""))
    return CARD_TEXT.format(
        name=recipe.name,
        about=recipe.about,
        ask=ask,
        facts="\n".join(f"| {what} | {value} |" for what, value in _facts(score, manifest)),
        faces="\n\n".join(_face(version / file) for file in FACES if (version / file).is_file()),
        limits="\n".join(_item(limit) for limit in (*recipe.limits, *LIMITS[recipe.corpus])),
        source=SOURCES[recipe.corpus],
    )


def _item(text: str) -> str:
    return fill(text, 108, initial_indent="- ", subsequent_indent="  ")


def _facts(score: Score, manifest: Table) -> Iterator[tuple[str, str]]:
    yield "task", score.task
    if labels := manifest.get("labels"):
        yield "labels", ", ".join(labels)
    yield score.measure, f"dev {told(score.measure, score.dev)}, test {told(score.measure, score.test)}"
    yield "parameters", f"{score.parameters:,}"
    yield "files of the version", f"{score.bytes / 1e6:.2f} MB"
    yield "training", f"best of epoch {score.best_epoch}, {score.train_seconds:.0f} s of one thread"
    for name, words in manifest.get("lengths", {}).items():
        yield f"longest {name}", f"{words['max']:,} tokens"


def _face(file: Path) -> str:
    graph = onnx.load(file, load_external_data=False).graph
    rows = [_row("in", value) for value in graph.input] + [_row("out", value) for value in graph.output]
    head = f"`1/{file.name}`, {FACES[file.name]}:"
    return "\n".join([head, "", "| | tensor | type | shape |", "|---|---|---|---|", *rows])


def _row(way: str, value: Any) -> str:
    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = ", ".join(axis.dim_param or str(axis.dim_value) for axis in tensor.shape.dim)
    return f"| {way} | `{value.name}` | {kind} | [{shape}] |"

"""Minimal pairs: the results of each shipped classifier for texts that differ in one thing."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lockstep_export.forms import ONESHOT
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_zoo.classify.batches import inputs_for
from lockstep_zoo.classify.tokenizer import encode
from lockstep_zoo.recipe import ClassifierRecipe

PAIRS = (
    ("I am happy", "I am not happy"),
    ("it is sad , not funny", "it is funny , not sad"),
    ("dog bites man", "man bites dog"),
    ("went to the bank to deposit", "sat by the river bank"),
)


def table(recipes: Mapping[str, ClassifierRecipe], out: Path) -> str:
    """P(positive) of both texts of each pair for every classifier in `out`, as a Markdown table."""
    heads = [f"{one} / {other}" for one, other in PAIRS]
    rows = [
        f"| `{name}` | {' | '.join(_probabilities(recipe, out / name))} |" for name, recipe in recipes.items()
    ]
    return "\n".join([f"| model | {' | '.join(heads)} |", "|---|" + "---:|" * len(PAIRS), *rows])


def _probabilities(recipe: ClassifierRecipe, folder: Path) -> list[str]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    graph = OnnxGraph(folder / "1" / ONESHOT)
    return [" / ".join(f"{_positive(recipe, graph, tokenizer, text):.0%}" for text in pair) for pair in PAIRS]


def _positive(recipe: ClassifierRecipe, graph: OnnxGraph, tokenizer: Tokenizer, text: str) -> float:
    [row] = encode(tokenizer, [text], recipe.max_words)
    logits = graph.run(inputs_for(recipe, [row]))["logits"][0].astype(np.float64)
    against = 0.0 if len(logits) == 1 else float(logits[0])
    return float(1 / (1 + np.exp(against - logits[-1])))

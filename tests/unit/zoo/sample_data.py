"""Generated data and models, so that no test needs the real ones."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from pathlib import Path

import onnx
import torch
from made_once import made_once
from onnx import numpy_helper
from patience import limit_s
from tokenizers import Tokenizer, models
from torch import nn

from lockstep_export.forms import ModelForms, prove_forms
from lockstep_export.onnx import export_onnx
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Difference
from lockstep_zoo.models import ZOO, Recipe
from lockstep_zoo.pipeline import Pipeline, graphs_in, task_of
from lockstep_zoo.recipe import ClassifierRecipe, LanguageModelRecipe, TranslatorRecipe

VOCABULARY = 60
CLASSIFIERS = [name for name, recipe in ZOO.items() if isinstance(recipe, ClassifierRecipe)]
STEPWISE = [name for name, recipe in ZOO.items() if isinstance(recipe, ClassifierRecipe) and recipe.step]
WRITERS = [name for name, recipe in ZOO.items() if isinstance(recipe, LanguageModelRecipe)]
SHAKESPEARE, TRANSLATOR = "shakespeare-char-lstm", "translate-en-fr"

GOOD, BAD = ("good", "lovely", "moving", "bright"), ("bad", "dull", "boring", "flat")
PLACES = ("film", "story", "plot", "cast", "script", "music")
PLAY = "KING:\nWho speaks of night, and who of day?\n\nFOOL:\nHe that hath eyes, my lord, & 3 lanterns!\n\n"
PAIRS = (
    ("A man sleeps.", "Un homme dort."),
    ("Two dogs run on the grass.", "Deux chiens courent sur l'herbe."),
    ("The girl in red plays the guitar.", "La fille en rouge joue de la guitare."),
    ("Children are near the water.", "Des enfants sont près de l’eau."),
)


def sentences(count: int) -> list[str]:
    """Lines as in the sentiment files: alternating labels, 5 to 13 words."""
    lines = []
    for index in range(count):
        label = index % 2
        word = (BAD, GOOD)[label][index % 4]
        place = PLACES[index % len(PLACES)]
        lines.append(f"{label} the {place} is {word} ." + " and it is n't long ." * (index % 3))
    return lines


def write_data(folder: Path) -> None:
    """Writes a data folder with a small part for every corpus."""
    for split, count in (("train", 60), ("dev", 20), ("test", 20)):
        _write(folder / "sst2" / f"{split}.txt", "\n".join(sentences(count)) + "\n")
    for part, count in (("train", 60), ("val", 20), ("test_2016_flickr", 20)):
        for side, language in enumerate(("en", "fr")):
            lines = [pair[side] for pair in islice(cycle(PAIRS), count)]
            _write(folder / "multi30k" / f"{part}.{language}", "\n".join(lines) + "\n")
    _write(folder / "tinyshakespeare.txt", PLAY * 60)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def built(name: str) -> nn.Module:
    """A module with non-zero weights, as zeros would hide errors, and float16 ones, as after training."""
    torch.manual_seed(3)
    recipe = ZOO[name]
    module = recipe.build(*[VOCABULARY] * (2 if isinstance(recipe, TranslatorRecipe) else 1)).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_((weight + torch.randn_like(weight) * 0.1).half().float())
        if isinstance(recipe, ClassifierRecipe):
            for layer in module.modules():
                if isinstance(layer, nn.Embedding):
                    layer.weight[0] = 0.0
    return module


def exported_and_compared(
    recipe: Recipe, module: nn.Module, folder: Path, with_module: bool = True
) -> list[Difference]:
    """Exports a module that was built for VOCABULARY into `folder`. Returns the comparisons of its graphs
    with it, or with themselves."""
    described = forms(recipe, module)
    export_onnx(described.graph_specs("dynamo"), folder)
    found = {file: graph.run for file, graph in graphs_in(folder).items()}
    return prove_forms(described, found, None if with_module else found)


def forms(recipe: Recipe, module: nn.Module, vocabulary: int = VOCABULARY) -> ModelForms:
    """The forms of a module that was built for `vocabulary` ids."""
    ids = {str(index): index for index in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="0"))
    return task_of(recipe).forms(recipe, module, [tokenizer] * len(task_of(recipe).tokenizers))


def graphs_of(name: str, folder: Path | None = None) -> dict[str, OnnxGraph]:
    """The graphs of the quick build; in a copy, `folder`, for tests that change them."""
    shared = quick_pipeline().version(name)
    if folder is None:
        return dict(graphs_in(shared))
    shutil.copytree(shared, folder, dirs_exist_ok=True)
    return dict(graphs_in(folder))


def compared(
    name: str, graphs: Mapping[str, OnnxGraph], expected: Mapping[str, OnnxGraph] | None = None
) -> list[Difference]:
    """The comparisons of `graphs` with the unbatched results of `expected`, or with their own."""
    found = {file: graph.run for file, graph in graphs.items()}
    right = found if expected is None else {file: graph.run for file, graph in expected.items()}
    return prove_forms(quick_pipeline().forms(name), found, right)


def compared_with_new_weights(name: str) -> list[Difference]:
    """The comparisons of the graphs of the quick build with a module of other weights."""
    found = {file: graph.run for file, graph in graphs_of(name).items()}
    return prove_forms(quick_pipeline().forms(name), found)


def with_other_weights(name: str, folder: Path) -> dict[str, OnnxGraph]:
    """The graphs of the quick build in `folder`, with all floating-point constants scaled."""
    for file in quick_pipeline().version(name).glob("*.onnx"):
        model = onnx.load(file)
        for constant in model.graph.initializer:
            values = numpy_helper.to_array(constant)
            if values.dtype.kind == "f":
                constant.CopyFrom(numpy_helper.from_array(values * values.dtype.type(0.75), constant.name))
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / file.name)
    return dict(graphs_in(folder))


def quick_build() -> Path:
    """What `lockstep-export all --quick` leaves: folders data, models and quick (the work), file stdout.

    The command is run once per test run and the folder is shared: read it, do not change it.
    """
    return made_once("quick-build", _quick_build)


def quick_pipeline(report: Callable[[str], None] = lambda _: None) -> Pipeline:
    """The pipeline of the quick build, for commands that write nothing."""
    return Pipeline(quick_build() / "models", quick_build() / "quick", report, quick=True)


def _quick_build(folder: Path) -> None:
    write_data(folder / "data")
    command = [sys.executable, "-W", "error", "-m", "lockstep_export", "all", "--quick", "--jobs", "2"]
    places = ["--data", "data", "--out", "models", "--work", "."]
    done = subprocess.run(
        [*command, *places], cwd=folder, capture_output=True, text=True, timeout=limit_s(280), check=False
    )
    progress = [
        line
        for line in done.stderr.splitlines()
        if re.match(r"18 models: \d+ of 18, [a-z0-9-]+ is made, ", line)
    ]
    assert (done.returncode, progress) == (0, done.stderr.splitlines()), done.stderr
    (folder / "stdout").write_text(done.stdout, encoding="utf-8")


def language_model(name: str = SHAKESPEARE) -> LanguageModelRecipe:
    """The recipe of a language model."""
    recipe = ZOO[name]
    assert isinstance(recipe, LanguageModelRecipe)
    return recipe


def classifier(name: str) -> ClassifierRecipe:
    """The recipe of a classifier."""
    recipe = ZOO[name]
    assert isinstance(recipe, ClassifierRecipe)
    return recipe


def translation() -> TranslatorRecipe:
    """The recipe of the shipped translator."""
    recipe = ZOO[TRANSLATOR]
    assert isinstance(recipe, TranslatorRecipe)
    return recipe

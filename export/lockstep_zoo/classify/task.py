"""The task of classifiers: sentences of SST-2, one shared tokenizer, a one-shot graph and a step graph.

Both graphs use the same output names, so that a role names the same output in each.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, from_numpy, nn

from lockstep_export.graph_spec import GraphSpec
from lockstep_export.manifest import Table, ids, lengths_of, mask_of, tensor
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Difference
from lockstep_export.recurrent import with_onnx_recurrence
from lockstep_export.text import save_tokenizer
from lockstep_zoo.classify.batches import ClassifierCorpus, EncodedSentences, inputs_for
from lockstep_zoo.classify.data import Split, Sst2, read_sst2
from lockstep_zoo.classify.parity import ONESHOT, STEP, check_oneshot, check_steps
from lockstep_zoo.classify.tokenizer import VOCABULARY, encode, train_tokenizer
from lockstep_zoo.classify.training import SentimentTraining, accuracy
from lockstep_zoo.models.recurrent_classifier import HIDDEN
from lockstep_zoo.recipe import ClassifierRecipe, Outputs, RecipeOutput
from lockstep_zoo.task import Figures, Graphs, Task

QUICK_SENTENCES, QUICK_VOCABULARY = 200, 400
LONGEST = 1024  # words of a training sentence; every model of the zoo accepts as many
EXAMPLE = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]  # any ids: both axes are dynamic


class ClassifyTask(Task[ClassifierRecipe, Sst2, ClassifierCorpus]):
    """Sentiment of one sentence."""

    name = "classify"
    corpus = "sst2"
    tokenizers = ("tokenizer.json",)

    def read(self, data: Path) -> Sst2:
        return read_sst2(data)

    def prepare(self, texts: Sst2, folder: Path, quick: bool) -> ClassifierCorpus:
        texts = texts.head(QUICK_SENTENCES) if quick else texts
        tokenizer = train_tokenizer(texts.train.texts, QUICK_VOCABULARY if quick else VOCABULARY)
        save_tokenizer(tokenizer, folder / self.tokenizers[0])

        def encoded(split: Split) -> EncodedSentences:
            return EncodedSentences(encode(tokenizer, split.texts, LONGEST), split.labels)

        return ClassifierCorpus(encoded(texts.train), encoded(texts.dev), encoded(texts.test))

    def sizes(self, corpus: ClassifierCorpus) -> dict[str, int]:
        return {part: len(getattr(corpus, part).ids) for part in ("train", "dev", "test")}

    def training_task(self, recipe: ClassifierRecipe, corpus: ClassifierCorpus) -> SentimentTraining:
        return SentimentTraining(recipe, corpus)

    def graph_specs(self, recipe: ClassifierRecipe, module: nn.Module) -> list[GraphSpec]:
        inputs = inputs_for(recipe, EXAMPLE)
        axes = {name: ("batch", "words")[: tensor.dim()] for name, tensor in inputs.items()}
        names = tuple(output.name for output in recipe.outputs)
        graph_specs = [GraphSpec(ONESHOT, with_onnx_recurrence(module), inputs, axes, names)]
        return [*graph_specs, _step(recipe, recipe.step(module), names)] if recipe.step else graph_specs

    def manifest(self, recipe: ClassifierRecipe, tokenizers: list[Tokenizer]) -> Table:
        vocabulary = tokenizers[0].get_vocab_size()
        table: Table = {
            "task": self.name,
            "labels": list(recipe.labels),
            "text": {"source": self.tokenizers[0]},
            "lengths": {"words": {"max": recipe.max_words}},
            "inputs": {"tokens": ids(vocabulary, (1, "words")), **_companion(recipe)},
            "outputs": {output.name: _output(output) for output in recipe.outputs},
            "roles": _roles(recipe),
            "batching": {"max_rows": recipe.max_rows, "max_padded_elements": recipe.max_padded_elements},
        }
        return table | ({"stepwise": _stepwise(recipe, vocabulary)} if recipe.step else {})

    def compare(
        self, recipe: ClassifierRecipe, tokenizers: list[Tokenizer], graphs: Graphs, module: nn.Module | None
    ) -> list[Difference]:
        vocabulary, oneshot = tokenizers[0].get_vocab_size(), graphs[ONESHOT]
        differences = check_oneshot(recipe, vocabulary, oneshot, module)
        if recipe.step:
            differences += check_steps(recipe, vocabulary, graphs[STEP], oneshot, module)
        return differences

    def figures(self, recipe: ClassifierRecipe, corpus: ClassifierCorpus, graphs: Graphs) -> Figures:
        module = _GraphAsModule(graphs[ONESHOT])
        dev, test = accuracy(recipe, module, corpus.dev), accuracy(recipe, module, corpus.test)
        return Figures("accuracy", dev, test)


class _GraphAsModule(nn.Module):
    """An exported graph with the interface of a module."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, **inputs: Tensor) -> Outputs:
        return {name: from_numpy(array) for name, array in self.graph.run(inputs).items()}


def _step(recipe: ClassifierRecipe, module: nn.Module, outputs: tuple[str, ...]) -> GraphSpec:
    rows = len(EXAMPLE)
    states = {f"{name}_in": torch.zeros(1, rows, HIDDEN) for name in recipe.states}
    inputs = {"token": torch.tensor([row[0] for row in EXAMPLE]), **states}
    axes = {"token": ("batch",), **dict.fromkeys(states, ("", "batch", ""))}
    return GraphSpec(STEP, module, inputs, axes, (*outputs, *(f"{name}_out" for name in recipe.states)))


def _companion(recipe: ClassifierRecipe) -> Table:
    generated = {"lengths": lengths_of, "mask": mask_of}
    return {recipe.companion: generated[recipe.companion]("words")} if recipe.companion else {}


def _output(output: RecipeOutput) -> Table:
    return tensor(*((axis, "words") for axis in output.word_axes))


def _roles(recipe: ClassifierRecipe) -> Table:
    named = {role: role for role in ("vector", "attention") if recipe.gives(role)}
    return {"scores": "logits", "activation": recipe.activation, **named}


def _stepwise(recipe: ClassifierRecipe, vocabulary: int) -> Table:
    return {
        "graph": STEP,
        "inputs": {"token": ids(vocabulary)},
        "outputs": {output.name: _output(output) for output in recipe.outputs},
        "state": [
            {"name": name, "input": f"{name}_in", "output": f"{name}_out", "batch_axis": 1}
            for name in recipe.states
        ],
    }

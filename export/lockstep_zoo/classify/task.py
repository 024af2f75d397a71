"""The task of classifiers: sentences of SST-2, one shared tokenizer, a one-shot graph and a step graph.

Both graphs use the same output names, so that a role names the same output in each.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, from_numpy, nn

from lockstep_export import Classify, State, Whole
from lockstep_export.forms import ONESHOT, ModelForms
from lockstep_export.oneshot import oneshot_forms
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import TOLERANCE
from lockstep_export.stepwise import stepwise_forms
from lockstep_export.text import save_tokenizer
from lockstep_zoo.classify.batches import ClassifierCorpus, EncodedSentences, inputs_for
from lockstep_zoo.classify.data import Split, Sst2, read_sst2
from lockstep_zoo.classify.tokenizer import VOCABULARY, encode, train_tokenizer
from lockstep_zoo.classify.training import SentimentTraining, accuracy
from lockstep_zoo.models.recurrent_classifier import HIDDEN
from lockstep_zoo.recipe import ClassifierRecipe, Outputs
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

    def forms(self, recipe: ClassifierRecipe, module: nn.Module, tokenizers: list[Tokenizer]) -> ModelForms:
        vocabulary = tokenizers[0].get_vocab_size()
        example = inputs_for(recipe, EXAMPLE)
        whole: dict[str, Any] = {
            "axes": {name: " ".join(("batch", "words")[: tensor.dim()]) for name, tensor in example.items()},
            "ids": {"tokens": vocabulary},
            "outputs": recipe.outputs,
            **({recipe.companion: recipe.companion} if recipe.companion else {}),
        }
        serving: dict[str, Any] = {
            "task": Classify(
                recipe.labels,
                activation=recipe.activation,
                **{role: role for role in ("vector", "attention") if role in recipe.outputs},
            ),
            "tokenizer": tokenizers[0],
            "longest": recipe.max_words,
            "max_rows": recipe.max_rows,
            "max_padded_elements": recipe.max_padded_elements,
            "tolerance": TOLERANCE,
            "about": recipe.about,
        }
        if recipe.step is None:
            return oneshot_forms(module, example, **whole, **serving)
        states = {f"{name}_in": State(f"{name}_out", name=name) for name in recipe.states}
        rows = len(EXAMPLE)
        return stepwise_forms(
            recipe.step(module),
            {"token": example["tokens"][:, 0], **{name: torch.zeros(1, rows, HIDDEN) for name in states}},
            axes={"token": "batch", **dict.fromkeys(states, f"1 batch {HIDDEN}")},
            ids={"token": vocabulary},
            states=states,
            oneshot=Whole(module, example, **whole),
            **serving,
        )

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

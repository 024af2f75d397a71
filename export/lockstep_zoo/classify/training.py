"""Trains classifiers on labelled sentences, in batches of similar length."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.ragged import by_length, shuffled
from lockstep_zoo.classify.batches import ClassifierCorpus, EncodedSentences, inputs_for
from lockstep_zoo.classify.tokenizer import UNKNOWN_ID
from lockstep_zoo.recipe import ClassifierRecipe
from lockstep_zoo.training_task import TrainingTask

EVALUATION_ROWS = 64


class SentimentTraining(TrainingTask):
    """Cross entropy on the training part, accuracy on the dev part."""

    def __init__(self, recipe: ClassifierRecipe, corpus: ClassifierCorpus) -> None:
        self.recipe, self.corpus = recipe, corpus

    def begin(self, module: nn.Module) -> None:
        if self.recipe.counts:
            self.recipe.counts(module, self.corpus.train.ids)

    def batches(self, rng: torch.Generator) -> Iterator[list[int]]:
        train = self.corpus.train
        return shuffled(len(train.ids), self.recipe.training.rows, train.length, rng)

    def count(self) -> int:
        return -(-len(self.corpus.train.ids) // self.recipe.training.rows)

    def loss(self, module: nn.Module, batch: list[int], rng: torch.Generator) -> Tensor:
        train = self.corpus.train
        inputs = inputs_for(self.recipe, [train.ids[index] for index in batch])
        inputs["tokens"] = self._drop_words(inputs["tokens"], rng)
        labels = torch.tensor([train.labels[index] for index in batch])
        return loss_of(module(**inputs)["logits"], labels)

    def quality(self, module: nn.Module) -> float:
        return accuracy(self.recipe, module, self.corpus.dev)

    def format_quality(self, quality: float) -> str:
        return f"{quality:.1%}"

    def _drop_words(self, tokens: Tensor, rng: torch.Generator) -> Tensor:
        chosen = torch.rand(tokens.shape, generator=rng) < self.recipe.training.word_dropout
        return torch.where(chosen & (tokens != 0), UNKNOWN_ID, tokens)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits [batch, 2], or of one logit [batch, 1] for label 1."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    return functional.cross_entropy(logits, labels)


def predicted(logits: Tensor) -> Tensor:
    """Label ids [batch] of logits [batch, 2] or [batch, 1]."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


@torch.no_grad()
def accuracy(recipe: ClassifierRecipe, module: nn.Module, part: EncodedSentences) -> float:
    """The share of `part` that `module` labels correctly."""
    right = 0
    for indices in by_length(len(part.ids), EVALUATION_ROWS, part.length):
        logits = module(**inputs_for(recipe, [part.ids[index] for index in indices]))["logits"]
        right += int((predicted(logits) == torch.tensor([part.labels[index] for index in indices])).sum())
    return right / len(part.ids)

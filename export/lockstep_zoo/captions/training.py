"""Trains caption language models: the next word of each caption, and its end.

A caption is read from its beginning; in half of the batches the begin token is left out, as in a prompt. A
word that is not in the vocabulary is read as unknown, and its loss is ignored.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.ragged import by_length, padded, shuffled
from lockstep_zoo.captions.tokenizer import END_ID, UNKNOWN_ID
from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.training_task import TrainingTask

EVALUATION_ROWS = 64

Rows = list[list[int]]


@dataclass(frozen=True)
class CaptionsCorpus:
    """Captions as ids."""

    train: Rows
    dev: Rows
    test: Rows


@dataclass(frozen=True)
class CaptionBatch:
    """tokens [rows, words], lengths [rows], and the next word of each word [rows, words]: UNKNOWN_ID in the
    padding and where the next word is not in the vocabulary."""

    tokens: Tensor
    lengths: Tensor
    following: Tensor


class NextWordTraining(TrainingTask):
    """Cross entropy on the training part; on the dev part without dropout."""

    def __init__(self, recipe: LanguageModelRecipe, corpus: CaptionsCorpus) -> None:
        self.recipe, self.corpus = recipe, corpus

    def batches(self, rng: torch.Generator) -> Iterator[CaptionBatch]:
        rows = self.corpus.train
        for chosen in shuffled(len(rows), self.recipe.training.rows, lambda at: len(rows[at]), rng):
            with_begin = bool(torch.rand((), generator=rng) < 0.5)
            yield batch_of([rows[at] for at in chosen], with_begin)

    def count(self) -> int:
        return -(-len(self.corpus.train) // self.recipe.training.rows)

    def loss(self, module: nn.Module, batch: CaptionBatch, rng: torch.Generator) -> Tensor:
        dropped = torch.rand(batch.tokens.shape, generator=rng) < self.recipe.training.word_dropout
        logits, _ = module(batch.tokens.masked_fill(dropped, UNKNOWN_ID), batch.lengths)
        return functional.cross_entropy(
            logits.flatten(0, 1), batch.following.T.flatten(), ignore_index=UNKNOWN_ID
        )

    def quality(self, module: nn.Module) -> float:
        return -mean_loss(module, self.corpus.dev)

    def format_quality(self, quality: float) -> str:
        return f"{-quality:.3f} nats per word"


def batch_of(rows: Rows, with_begin: bool = True) -> CaptionBatch:
    """Captions as one batch; with `begun`, each starts with the begin token."""
    tokens, lengths = padded([[END_ID, *row] for row in rows] if with_begin else rows)
    following, _ = padded([([*row] if with_begin else row[1:]) + [END_ID] for row in rows])
    return CaptionBatch(tokens, lengths, following)


@torch.no_grad()
def mean_loss(module: nn.Module, rows: Rows) -> float:
    """Nats per word of captions from their beginning; their ends count as words."""
    total, count = 0.0, 0
    for chosen in by_length(len(rows), EVALUATION_ROWS, lambda at: len(rows[at])):
        batch = batch_of([rows[at] for at in chosen])
        logits, _ = module(batch.tokens, batch.lengths)
        wanted = batch.following.T.flatten()
        loss = functional.cross_entropy(
            logits.flatten(0, 1), wanted, ignore_index=UNKNOWN_ID, reduction="sum"
        )
        total, count = total + loss.item(), count + int((wanted != UNKNOWN_ID).sum())
    return total / count

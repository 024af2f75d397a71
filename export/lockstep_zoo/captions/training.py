"""What a language model of captions learns: the next word of each caption, and where it ends.

A caption is read from its beginning; half of the batches are read without what stands for the beginning, as
a prompt is. A word outside of the vocabulary is read as unknown, and nothing is learnt of what it was.
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
    """tokens [rows, words], how long each row is [rows], and what follows each word [rows, words]:
    UNKNOWN_ID in the padding and where the word is not in the vocabulary."""

    tokens: Tensor
    lengths: Tensor
    following: Tensor


class NextWordTraining(TrainingTask):
    """Cross entropy on the training part, and on the dev part without dropout."""

    def __init__(self, recipe: LanguageModelRecipe, corpus: CaptionsCorpus) -> None:
        self.recipe, self.corpus = recipe, corpus

    def batches(self, chance: torch.Generator) -> Iterator[CaptionBatch]:
        rows = self.corpus.train
        for chosen in shuffled(len(rows), self.recipe.training.rows, lambda at: len(rows[at]), chance):
            begun = bool(torch.rand((), generator=chance) < 0.5)
            yield batch_of([rows[at] for at in chosen], begun)

    def count(self) -> int:
        return -(-len(self.corpus.train) // self.recipe.training.rows)

    def loss(self, module: nn.Module, batch: CaptionBatch, chance: torch.Generator) -> Tensor:
        dropped = torch.rand(batch.tokens.shape, generator=chance) < self.recipe.training.word_dropout
        logits, _ = module(batch.tokens.masked_fill(dropped, UNKNOWN_ID), batch.lengths)
        return functional.cross_entropy(
            logits.flatten(0, 1), batch.following.T.flatten(), ignore_index=UNKNOWN_ID
        )

    def quality(self, module: nn.Module) -> float:
        return -mean_loss(module, self.corpus.dev)

    def tell(self, quality: float) -> str:
        return f"{-quality:.3f} nats a word"


def batch_of(rows: Rows, begun: bool = True) -> CaptionBatch:
    """Captions side by side; `begun` puts before each what stands for its beginning."""
    tokens, lengths = padded([[END_ID, *row] for row in rows] if begun else rows)
    following, _ = padded([([*row] if begun else row[1:]) + [END_ID] for row in rows])
    return CaptionBatch(tokens, lengths, following)


@torch.no_grad()
def mean_loss(module: nn.Module, rows: Rows) -> float:
    """Nats a word of captions read from their beginning, their ends counted as words."""
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

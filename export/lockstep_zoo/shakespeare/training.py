"""Trains character language models: the next character of a text that is read from end to end.

The text is cut into as many streams as a step has rows. Each step takes the next stretch of every stream and
starts from the states of the last step, so that the model sees more than one stretch. The start of the
streams is random in each epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.shakespeare.tokenizer import UNKNOWN_ID
from lockstep_zoo.training_task import TrainingTask

if TYPE_CHECKING:
    from lockstep_export.recurrent import States

DEV_ROWS = 16


@dataclass(frozen=True)
class ShakespeareCorpus:
    """The text as ids: each [characters]."""

    train: Tensor
    dev: Tensor
    test: Tensor


@dataclass(frozen=True)
class Stretch:
    """The next characters of every stream: tokens and the next character of each, [rows, characters]."""

    tokens: Tensor
    following: Tensor
    first: bool  # whether the streams begin here: the states start at zero


class NextCharacterTraining(TrainingTask):
    """Cross entropy on the training part; on the dev part without dropout."""

    def __init__(self, recipe: LanguageModelRecipe, corpus: ShakespeareCorpus) -> None:
        self.recipe, self.corpus = recipe, corpus
        self.states: States = ()

    def batches(self, rng: torch.Generator) -> Iterator[Stretch]:
        spare = len(self.corpus.train) - self._used()
        start = int(torch.randint(max(1, spare), (1,), generator=rng))
        part = self.corpus.train[start : start + self._used()]
        return stretches(part, self._rows(), self.recipe.stretch)

    def count(self) -> int:
        return max(1, (len(self.corpus.train) - 1) // (self._rows() * self.recipe.stretch) - 1)

    def loss(self, module: nn.Module, batch: Stretch, rng: torch.Generator) -> Tensor:
        unknown = torch.rand(batch.tokens.shape, generator=rng) < self.recipe.training.word_dropout
        tokens = batch.tokens.masked_fill(unknown, UNKNOWN_ID)
        before = () if batch.first else self.states
        logits, after = module(tokens, _full(tokens), before)
        self.states = tuple(state.detach() for state in after)
        return functional.cross_entropy(logits.flatten(0, 1), batch.following.T.flatten())

    def quality(self, module: nn.Module) -> float:
        return -mean_loss(module, self.corpus.dev, self.recipe.stretch)

    def format_quality(self, quality: float) -> str:
        return f"{-quality:.3f} nats per character"

    def _rows(self) -> int:
        return min(self.recipe.training.rows, len(self.corpus.train) // (3 * self.recipe.stretch))

    def _used(self) -> int:
        return self._rows() * self.recipe.stretch * self.count() + 1


def stretches(text: Tensor, rows: int, length: int) -> Iterator[Stretch]:
    """`text` [characters] as `rows` parallel streams, `length` characters of each at a time."""
    width = (len(text) - 1) // rows
    tokens = text[: rows * width].reshape(rows, width)
    following = text[1 : rows * width + 1].reshape(rows, width)
    for start in range(0, width, length):
        part = slice(start, start + length)
        yield Stretch(tokens[:, part], following[:, part], start == 0)


@torch.no_grad()
def mean_loss(module: nn.Module, text: Tensor, length: int) -> float:
    """Nats per character of `text`, read as several streams."""
    total, count, states = 0.0, 0, ()
    for part in stretches(text, DEV_ROWS, length):
        logits, states = module(part.tokens, _full(part.tokens), states)
        loss = functional.cross_entropy(logits.flatten(0, 1), part.following.T.flatten(), reduction="sum")
        total, count = total + loss.item(), count + part.tokens.numel()
    return total / count


def _full(tokens: Tensor) -> Tensor:
    """Lengths [rows] of rows without padding."""
    return torch.full((tokens.shape[0],), tokens.shape[1])

"""Trains translators with teacher forcing: the next token of each translation, given all before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import sacrebleu
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export.ragged import padded, shuffled
from lockstep_zoo.recipe import TranslatorRecipe
from lockstep_zoo.training_task import TrainingTask
from lockstep_zoo.translate.greedy import Translates, translate
from lockstep_zoo.translate.tokenizer import BEGIN_ID, END_ID, PAD_ID, SPECIAL, UNKNOWN_ID, decode


@dataclass(frozen=True)
class EncodedPairs:
    """Sources and targets as ids; `references` are the target texts."""

    sources: list[list[int]]
    targets: list[list[int]]
    references: list[str]


@dataclass(frozen=True)
class TranslationCorpus:
    """The pairs as ids, and the tokenizer that decodes targets."""

    train: EncodedPairs
    dev: EncodedPairs
    test: EncodedPairs
    target: Tokenizer


class NextTokenTraining(TrainingTask):
    """Cross entropy on the training part, BLEU of greedy translations on the dev part."""

    def __init__(self, recipe: TranslatorRecipe, corpus: TranslationCorpus) -> None:
        self.recipe, self.corpus = recipe, corpus

    def batches(self, rng: torch.Generator) -> Iterator[list[int]]:
        train = self.corpus.train

        def lengths(index: int) -> tuple[int, int]:
            return len(train.targets[index]), len(train.sources[index])

        return shuffled(len(train.sources), self.recipe.training.rows, lengths, rng)

    def count(self) -> int:
        return -(-len(self.corpus.train.sources) // self.recipe.training.rows)

    def loss(self, module: nn.Module, batch: list[int], rng: torch.Generator) -> Tensor:
        train = self.corpus.train
        source, lengths = padded([train.sources[index] for index in batch])
        before, _ = padded([[BEGIN_ID, *train.targets[index]] for index in batch])
        after, _ = padded([[*train.targets[index], END_ID] for index in batch])
        logits = module(self._drop_words(source, rng), lengths, self._drop_words(before, rng))
        return functional.cross_entropy(
            logits.flatten(0, 1),
            after.T.flatten(),
            ignore_index=PAD_ID,
            label_smoothing=self.recipe.training.smoothing,
        )

    def quality(self, module: nn.Module) -> float:
        return bleu(self.recipe, cast("Translates", module), self.corpus.dev, self.corpus.target).score

    def format_quality(self, quality: float) -> str:
        return f"BLEU {quality:.1f}"

    def _drop_words(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        chosen = torch.rand(ids.shape, generator=rng) < self.recipe.training.word_dropout
        return torch.where(chosen & (ids >= len(SPECIAL)), UNKNOWN_ID, ids)


@dataclass(frozen=True)
class Bleu:
    """The BLEU of a corpus, 0 to 100, and sacrebleu's signature."""

    score: float
    signature: str


def bleu(recipe: TranslatorRecipe, translator: Translates, part: EncodedPairs, target: Tokenizer) -> Bleu:
    """BLEU of greedy translations, cased and detokenized, against one reference each."""
    metric = sacrebleu.BLEU()
    written = decode(target, translate(translator, part.sources, recipe.max_target))
    score = metric.corpus_score(written, [part.references]).score
    return Bleu(score, str(metric.get_signature()))

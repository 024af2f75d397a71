"""Batches of a classifier: tokens [batch, words] padded with id 0, and the lengths [batch] or the mask
[batch, words] if the recipe needs one.
"""

from dataclasses import dataclass

from torch import Tensor

from lockstep_export.ragged import padded, real
from lockstep_zoo.classify.tokenizer import PAD_ID
from lockstep_zoo.recipe import ClassifierRecipe


@dataclass(frozen=True)
class EncodedSentences:
    """Sentences as ids, with their labels."""

    ids: list[list[int]]
    labels: list[int]

    def length(self, index: int) -> int:
        """The number of words of one sentence."""
        return len(self.ids[index])


@dataclass(frozen=True)
class ClassifierCorpus:
    """The data as ids."""

    train: EncodedSentences
    dev: EncodedSentences
    test: EncodedSentences


def inputs_for(recipe: ClassifierRecipe, rows: list[list[int]], extra: int = 0) -> dict[str, Tensor]:
    """The graph's inputs for `rows`, padded to the longest plus `extra`."""
    tokens, lengths = padded(rows, extra, PAD_ID)
    inputs = {"tokens": tokens}
    if recipe.companion == "lengths":
        inputs["lengths"] = lengths
    elif recipe.companion == "mask":
        inputs["mask"] = real(lengths, tokens.shape[1])
    return inputs

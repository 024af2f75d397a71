"""The task of Shakespeare language models: one running text, one token per character."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from lockstep_export import Generate
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.step_module import STEP
from lockstep_export.text import save_tokenizer
from lockstep_zoo.language.task import LanguageTask, initial_states, next_states
from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.shakespeare.data import ShakespeareText, read_shakespeare
from lockstep_zoo.shakespeare.tokenizer import character_tokenizer
from lockstep_zoo.shakespeare.training import NextCharacterTraining, ShakespeareCorpus
from lockstep_zoo.task import Figures, Graphs

QUICK_CHARACTERS = 8_000
WINDOW, CONTEXT, ROWS = 512, 256, 32
WINDOWS_NOTE = f"each character after {CONTEXT} to {WINDOW - 1} others"
BEGIN = "\n"  # an empty prompt starts from a new line


class ShakespeareTask(LanguageTask[ShakespeareText, ShakespeareCorpus]):
    """The next character of a text."""

    corpus = "tinyshakespeare"

    def read(self, data: Path) -> ShakespeareText:
        return read_shakespeare(data)

    def prepare(self, texts: ShakespeareText, folder: Path, quick: bool) -> ShakespeareCorpus:
        tokenizer = character_tokenizer(texts.train)
        save_tokenizer(tokenizer, folder / self.tokenizers[0])
        texts = texts.head(QUICK_CHARACTERS) if quick else texts

        def encoded(text: str) -> Tensor:
            return torch.tensor(tokenizer.encode(text).ids)

        return ShakespeareCorpus(encoded(texts.train), encoded(texts.dev), encoded(texts.test))

    def sizes(self, corpus: ShakespeareCorpus) -> dict[str, int]:
        return {part: len(getattr(corpus, part)) for part in ("train", "dev", "test")}

    def training_task(self, recipe: LanguageModelRecipe, corpus: ShakespeareCorpus) -> NextCharacterTraining:
        return NextCharacterTraining(recipe, corpus)

    def task(self, tokenizer: Tokenizer) -> Generate:
        return Generate(begin=tokenizer.token_to_id(BEGIN))

    def figures(self, recipe: LanguageModelRecipe, corpus: ShakespeareCorpus, graphs: Graphs) -> Figures:
        measure, note = (bits_of_windows, WINDOWS_NOTE) if recipe.caches else (bits, "")
        dev, test = (measure(recipe, graphs[STEP], part) for part in (corpus.dev, corpus.test))
        return Figures("bits per character", dev, test, note)


def bits(recipe: LanguageModelRecipe, step: OnnxGraph, text: Tensor) -> float:
    """Bits per character of `text` [characters], computed by the step graph over one stream."""
    states, total = initial_states(recipe, step, 1), 0.0
    for token, after in pairwise(text):
        outputs = step.run({"token": token[None], **states})
        states = next_states(recipe, states, outputs)
        logits = outputs["logits"][0].astype(np.float64)
        total += float(np.logaddexp.reduce(logits) - logits[after])
    return total / (len(text) - 1) / math.log(2)


def bits_of_windows(recipe: LanguageModelRecipe, step: OnnxGraph, text: Tensor) -> float:
    """The same for a model with caches, which cannot hold the whole text: over windows that overlap by half.
    The first half of each is read only, but for the first window."""
    starts = list(range(0, max(1, len(text) - CONTEXT), WINDOW - CONTEXT))
    total, count = 0.0, 0
    for first in range(0, len(starts), ROWS):
        chosen = starts[first : first + ROWS]
        rows = [text[start : start + WINDOW + 1] for start in chosen]
        states = initial_states(recipe, step, len(rows))
        for at in range(max(map(len, rows)) - 1):
            token = torch.stack([row[min(at, len(row) - 1)] for row in rows])
            outputs = step.run({"token": token, **states})
            states = next_states(recipe, states, outputs)
            logits = outputs["logits"].astype(np.float64)
            for start, row, scores in zip(chosen, rows, logits, strict=True):
                if at + 1 < len(row) and (at >= CONTEXT or start == 0):
                    total += float(np.logaddexp.reduce(scores) - scores[row[at + 1]])
                    count += 1
    return total / count / math.log(2)

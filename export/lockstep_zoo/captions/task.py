"""The task of caption language models: one sentence per text, one token per word."""

import math
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from lockstep_export import Generate
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.ragged import by_length
from lockstep_export.step_module import STEP
from lockstep_export.text import save_tokenizer
from lockstep_zoo.captions.data import Captions, read_captions
from lockstep_zoo.captions.tokenizer import END_ID, SPECIAL, UNKNOWN_ID, VOCABULARY, encode, word_tokenizer
from lockstep_zoo.captions.training import EVALUATION_ROWS, CaptionsCorpus, NextWordTraining, Rows, batch_of
from lockstep_zoo.language.task import LanguageTask, initial_states, next_states
from lockstep_zoo.recipe import LanguageModelRecipe
from lockstep_zoo.task import Figures, Graphs

QUICK_CAPTIONS, QUICK_VOCABULARY = 200, 400


class CaptionsTask(LanguageTask[Captions, CaptionsCorpus]):
    """The next word of a caption."""

    corpus = "captions"

    def read(self, data: Path) -> Captions:
        return read_captions(data)

    def prepare(self, texts: Captions, folder: Path, quick: bool) -> CaptionsCorpus:
        texts = texts.head(QUICK_CAPTIONS) if quick else texts
        tokenizer = word_tokenizer(texts.train, QUICK_VOCABULARY if quick else VOCABULARY)
        save_tokenizer(tokenizer, folder / self.tokenizers[0])
        return CaptionsCorpus(*(encode(tokenizer, part) for part in (texts.train, texts.dev, texts.test)))

    def sizes(self, corpus: CaptionsCorpus) -> dict[str, int]:
        return {part: len(getattr(corpus, part)) for part in ("train", "dev", "test")}

    def training_task(self, recipe: LanguageModelRecipe, corpus: CaptionsCorpus) -> NextWordTraining:
        return NextWordTraining(recipe, corpus)

    def task(self, tokenizer: Tokenizer) -> Generate:
        end = tokenizer.token_to_id(SPECIAL[END_ID])
        return Generate(begin=end, end=end)

    def figures(self, recipe: LanguageModelRecipe, corpus: CaptionsCorpus, graphs: Graphs) -> Figures:
        dev, test = (bits(recipe, graphs[STEP], part) for part in (corpus.dev, corpus.test))
        return Figures("bits per word", dev, test, f"{unknown(corpus.test):.1%}")


def bits(recipe: LanguageModelRecipe, step: OnnxGraph, rows: Rows) -> float:
    """Bits per word of captions, computed by the step graph from their beginning; their ends count as words.
    Words that are not in the vocabulary are replaced by the unknown word and not counted."""
    total, count = 0.0, 0
    for chosen in by_length(len(rows), EVALUATION_ROWS, lambda at: len(rows[at])):
        batch = batch_of([rows[at] for at in chosen])
        states = initial_states(recipe, step, len(chosen))
        for tokens, wanted in zip(batch.tokens.T, batch.following.T.numpy(), strict=True):
            outputs = step.run({"token": tokens.contiguous(), **states})
            states = next_states(recipe, states, outputs)
            known = wanted != UNKNOWN_ID
            logits = torch.from_numpy(outputs["logits"][known]).double()
            nats = logits.logsumexp(dim=1).numpy() - logits.numpy()[np.arange(len(logits)), wanted[known]]
            total, count = total + float(nats.sum()), count + int(known.sum())
    return total / count / math.log(2)


def unknown(rows: Rows) -> float:
    """The share of words that are not in the vocabulary."""
    words = list(chain.from_iterable(rows))
    return words.count(UNKNOWN_ID) / len(words)

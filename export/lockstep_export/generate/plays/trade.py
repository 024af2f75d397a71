"""The trade of plays: one running text, a token a character."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from lockstep_export.generate.parity import STEP, following, zeros
from lockstep_export.generate.plays.data import Play, read_play
from lockstep_export.generate.plays.lesson import Corpus, NextCharacter
from lockstep_export.generate.plays.tokenizer import character_tokenizer
from lockstep_export.generate.trade import Generate
from lockstep_export.graph import Graph
from lockstep_export.manifest import Table
from lockstep_export.text import save_tokenizer
from lockstep_export.trade import Figures, Graphs
from lockstep_export.zoo.recipe import LanguageModel

QUICK_CHARACTERS = 8_000
BEGIN = "\n"  # what an empty prompt starts from: a new line


class Plays(Generate[Play, Corpus]):
    """What character follows."""

    corpus = "tinyshakespeare"

    def read(self, data: Path) -> Play:
        return read_play(data)

    def prepare(self, texts: Play, folder: Path, quick: bool) -> Corpus:
        tokenizer = character_tokenizer(texts.train)
        save_tokenizer(tokenizer, folder / self.tokenizers[0])
        texts = texts.head(QUICK_CHARACTERS) if quick else texts

        def encoded(text: str) -> Tensor:
            return torch.tensor(tokenizer.encode(text).ids)

        return Corpus(encoded(texts.train), encoded(texts.dev), encoded(texts.test))

    def sizes(self, corpus: Corpus) -> dict[str, int]:
        return {part: len(getattr(corpus, part)) for part in ("train", "dev", "test")}

    def lesson(self, recipe: LanguageModel, corpus: Corpus) -> NextCharacter:
        return NextCharacter(recipe, corpus)

    def ends(self, tokenizer: Tokenizer) -> Table:
        begin = tokenizer.token_to_id(BEGIN)
        return {} if begin is None else {"begin": begin}

    def figures(self, recipe: LanguageModel, corpus: Corpus, graphs: Graphs) -> Figures:
        dev, test = (bits(recipe, graphs[STEP], part) for part in (corpus.dev, corpus.test))
        return Figures("bits per character", dev, test)


def bits(recipe: LanguageModel, step: Graph, text: Tensor) -> float:
    """Bits a character of `text` [characters], read by the step graph from end to end as one stream."""
    states, total = zeros(recipe, step, 1), 0.0
    for token, after in pairwise(text):
        given = step.run({"token": token[None], **states})
        states = following(recipe, given)
        logits = given["logits"][0].astype(np.float64)
        total += float(np.logaddexp.reduce(logits) - logits[after])
    return total / (len(text) - 1) / math.log(2)

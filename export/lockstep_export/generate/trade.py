"""The trade of language models: one text, a token a character, a graph for prompts and one for steps."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from lockstep_export.generate.data import Play, read_play
from lockstep_export.generate.lesson import Corpus, NextCharacter
from lockstep_export.generate.parity import PREFILL, STEP, check, following, zeros
from lockstep_export.generate.tokenizer import character_tokenizer
from lockstep_export.graph import Graph
from lockstep_export.manifest import Table, ids, lengths_of, tensor
from lockstep_export.parity import Difference
from lockstep_export.ragged import padded
from lockstep_export.text import save_tokenizer
from lockstep_export.trade import Figures, Graphs, Sketch, Trade
from lockstep_export.zoo.char_lstm import LAYERS, WIDTH
from lockstep_export.zoo.recipe import LanguageModel

QUICK_CHARACTERS = 8_000
EXAMPLE = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]  # any ids will do: both axes are dynamic
BEGIN = "\n"  # what an empty prompt starts from: a new line


class Generate(Trade[LanguageModel, Play, Corpus]):
    """What follows a text."""

    task = "generate"
    tokenizers = ("tokenizer.json",)

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

    def sketches(self, recipe: LanguageModel, module: nn.Module) -> list[Sketch]:
        tokens, lengths = padded(EXAMPLE)
        names = recipe.states
        states = {f"{name}_in": torch.zeros(LAYERS, len(EXAMPLE), WIDTH) for name in names}
        prefill = Sketch(
            PREFILL,
            recipe.prefill(module),
            {"tokens": tokens, "lengths": lengths},
            {"tokens": ("batch", "prompt"), "lengths": ("batch",)},
            ("logits", *(f"{name}0" for name in names)),
        )
        step = Sketch(
            STEP,
            recipe.step(module),
            {"token": tokens[:, 0], **states},
            {"token": ("batch",), **dict.fromkeys(states, ("", "batch", ""))},
            ("logits", *(f"{name}_out" for name in names)),
        )
        return [prefill, step]

    def manifest(self, recipe: LanguageModel, tokenizers: list[Tokenizer]) -> Table:
        vocabulary = tokenizers[0].get_vocab_size()
        begin = tokenizers[0].token_to_id(BEGIN)
        return {
            "task": self.task,
            "text": {"source": self.tokenizers[0]} | ({} if begin is None else {"begin": begin}),
            "lengths": {"prompt": {"max": recipe.max_prompt}},
            "roles": {"scores": "logits"},
            "prefill": {
                "graph": PREFILL,
                "inputs": {"tokens": ids(vocabulary, (1, "prompt")), "lengths": lengths_of("prompt")},
                "outputs": {
                    "logits": tensor(),
                    **{f"{name}0": tensor(batch_axis=1) for name in recipe.states},
                },
            },
            "stepwise": {
                "graph": STEP,
                "inputs": {"token": ids(vocabulary)},
                "outputs": {"logits": tensor()},
                "state": [_state(name) for name in recipe.states],
            },
        }

    def compare(
        self, recipe: LanguageModel, tokenizers: list[Tokenizer], graphs: Graphs, module: nn.Module | None
    ) -> list[Difference]:
        return check(recipe, tokenizers[0].get_vocab_size(), graphs[PREFILL], graphs[STEP], module)

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


def _state(name: str) -> Table:
    return {
        "name": name,
        "input": f"{name}_in",
        "output": f"{name}_out",
        "prefill": f"{name}0",
        "batch_axis": 1,
    }

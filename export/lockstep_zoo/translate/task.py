"""The task of translators: sentence pairs, one tokenizer per language, a prefill graph and a step graph.

The prefill graph's memory (keys, memory) is carried unchanged through the steps, padded along the length
`source` and masked.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from lockstep_export.graph_spec import GraphSpec
from lockstep_export.manifest import Table, ids, lengths_of, mask_of, tensor
from lockstep_export.parity import Difference
from lockstep_export.ragged import padded, real
from lockstep_export.text import save_tokenizer
from lockstep_zoo.models.translator import DECODER, KEYS, MEMORY
from lockstep_zoo.recipe import TranslatorRecipe
from lockstep_zoo.task import Figures, Graphs, Task
from lockstep_zoo.translate.data import Multi30k, Pairs, read_multi30k
from lockstep_zoo.translate.greedy import Exported
from lockstep_zoo.translate.parity import PREFILL, STEP, check, sample_sentences
from lockstep_zoo.translate.tokenizer import BEGIN_ID, END_ID, VOCABULARY, encode, train_tokenizer
from lockstep_zoo.translate.training import EncodedPairs, NextTokenTraining, TranslationCorpus, bleu

QUICK_PAIRS, QUICK_VOCABULARY = 200, 400
LONGEST = 256  # tokens of a training sentence; none has more
EXAMPLE = [[4, 5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15]]  # any ids: both axes are dynamic
SOURCE = (1, "source")  # the axis that varies, and its length
MAX_TOKENS = 100  # if a request sets no limit: the longest translation of the data has 44


class TranslateTask(Task[TranslatorRecipe, Multi30k, TranslationCorpus]):
    """One sentence in another language."""

    name = "translate"
    corpus = "multi30k"
    tokenizers = ("source.json", "target.json")

    def read(self, data: Path) -> Multi30k:
        return read_multi30k(data)

    def prepare(self, texts: Multi30k, folder: Path, quick: bool) -> TranslationCorpus:
        texts = texts.head(QUICK_PAIRS) if quick else texts
        vocabulary = QUICK_VOCABULARY if quick else VOCABULARY
        source = train_tokenizer(texts.train.sources, vocabulary, cased=False)
        target = train_tokenizer(texts.train.targets, vocabulary)
        for tokenizer, name in zip((source, target), self.tokenizers, strict=True):
            save_tokenizer(tokenizer, folder / name)

        def encoded(pairs: Pairs) -> EncodedPairs:
            ids_of_source = encode(source, pairs.sources, LONGEST)
            return EncodedPairs(ids_of_source, encode(target, pairs.targets, LONGEST), pairs.targets)

        return TranslationCorpus(encoded(texts.train), encoded(texts.dev), encoded(texts.test), target)

    def sizes(self, corpus: TranslationCorpus) -> dict[str, int]:
        return {part: len(getattr(corpus, part).sources) for part in ("train", "dev", "test")}

    def training_task(self, recipe: TranslatorRecipe, corpus: TranslationCorpus) -> NextTokenTraining:
        return NextTokenTraining(recipe, corpus)

    def graph_specs(self, recipe: TranslatorRecipe, module: nn.Module) -> list[GraphSpec]:
        source, lengths = padded(EXAMPLE)
        rows, longest = source.shape
        prefill = GraphSpec(
            PREFILL,
            recipe.prefill(module),
            {"source": source, "lengths": lengths},
            {"source": ("batch", "source"), "lengths": ("batch",)},
            ("keys", "memory", "h0", "c0"),
        )
        step = GraphSpec(
            STEP,
            recipe.step(module),
            {
                "token": source[:, 0],
                "h_in": torch.zeros(1, rows, DECODER),
                "c_in": torch.zeros(1, rows, DECODER),
                "keys": torch.zeros(rows, longest, KEYS),
                "memory": torch.zeros(rows, longest, MEMORY),
                "mask": real(lengths, longest),
            },
            {
                "token": ("batch",),
                **dict.fromkeys(("h_in", "c_in"), ("", "batch", "")),
                **dict.fromkeys(("keys", "memory"), ("batch", "source", "")),
                "mask": ("batch", "source"),
            },
            ("logits", "attention", "h_out", "c_out"),
        )
        return [prefill, step]

    def manifest(self, recipe: TranslatorRecipe, tokenizers: list[Tokenizer]) -> Table:
        source, target = (tokenizer.get_vocab_size() for tokenizer in tokenizers)
        files = dict(zip(("source", "target"), self.tokenizers, strict=True))
        return {
            "task": self.name,
            "text": files | {"begin": BEGIN_ID, "end": END_ID},
            "lengths": {"source": {"max": recipe.max_source}},
            "roles": {"scores": "logits", "attention": "attention"},
            "prefill": {
                "graph": PREFILL,
                "inputs": {"source": ids(source, SOURCE), "lengths": lengths_of("source")},
                "outputs": {
                    "keys": tensor(SOURCE),
                    "memory": tensor(SOURCE),
                    "h0": tensor(batch_axis=1),
                    "c0": tensor(batch_axis=1),
                },
            },
            "stepwise": {
                "graph": STEP,
                "max_tokens": MAX_TOKENS,
                "inputs": {"token": ids(target), "mask": mask_of("source")},
                "outputs": {"logits": tensor(), "attention": tensor(SOURCE)},
                "state": [_state("h"), _state("c"), _carried("keys"), _carried("memory")],
            },
        }

    def compare(
        self, recipe: TranslatorRecipe, tokenizers: list[Tokenizer], graphs: Graphs, module: nn.Module | None
    ) -> list[Difference]:
        source, target = tokenizers
        texts = encode(source, sample_sentences(), recipe.max_source)
        sizes = (source.get_vocab_size(), target.get_vocab_size())
        return check(recipe, sizes, Exported(graphs[PREFILL], graphs[STEP]), module, texts)

    def figures(self, recipe: TranslatorRecipe, corpus: TranslationCorpus, graphs: Graphs) -> Figures:
        exported = Exported(graphs[PREFILL], graphs[STEP])
        dev, test = (bleu(recipe, exported, part, corpus.target) for part in (corpus.dev, corpus.test))
        return Figures("BLEU", dev.score, test.score, test.signature)


def _state(name: str) -> Table:
    names = {"name": name, "input": f"{name}_in", "output": f"{name}_out", "prefill": f"{name}0"}
    return names | {"batch_axis": 1}


def _carried(name: str) -> Table:
    """A part of the memory: an output of the prefill graph, carried unchanged from step to step."""
    return {"name": name, "input": name, "prefill": name} | tensor(SOURCE)

"""The task of translators: sentence pairs, one tokenizer per language, a prefill graph and a step graph.

The prefill graph's memory (keys, memory) is carried unchanged through the steps, padded along the length
`source` and masked.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from lockstep_export import State, Translate, Whole
from lockstep_export.forms import PREFILL, ModelForms
from lockstep_export.parity import TOLERANCE
from lockstep_export.ragged import padded, real
from lockstep_export.step_module import STEP
from lockstep_export.stepwise import stepwise_forms
from lockstep_export.text import save_tokenizer
from lockstep_zoo.models.translator import DECODER, KEYS, MEMORY
from lockstep_zoo.recipe import TranslatorRecipe
from lockstep_zoo.task import Figures, Graphs, Task
from lockstep_zoo.translate.data import Multi30k, Pairs, read_multi30k
from lockstep_zoo.translate.greedy import Exported
from lockstep_zoo.translate.tokenizer import BEGIN_ID, END_ID, VOCABULARY, encode, train_tokenizer
from lockstep_zoo.translate.training import EncodedPairs, NextTokenTraining, TranslationCorpus, bleu

QUICK_PAIRS, QUICK_VOCABULARY = 200, 400
LONGEST = 256  # tokens of a training sentence; none has more
EXAMPLE = [[4, 5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15]]  # any ids: both axes are dynamic
BEAMS = 4  # 1.6 BLEU more than greedy; 8 gain 0.2 more and take twice as long (bench/README.md)
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

    def forms(self, recipe: TranslatorRecipe, module: nn.Module, tokenizers: list[Tokenizer]) -> ModelForms:
        source, target = tokenizers
        ids, lengths = padded(EXAMPLE)
        rows, longest = ids.shape
        return stepwise_forms(
            recipe.step(module),
            {
                "token": ids[:, 0],
                "h_in": torch.zeros(1, rows, DECODER),
                "c_in": torch.zeros(1, rows, DECODER),
                "keys": torch.zeros(rows, longest, KEYS),
                "memory": torch.zeros(rows, longest, MEMORY),
                "mask": real(lengths, longest),
            },
            axes={
                "token": "batch",
                "h_in": f"1 batch {DECODER}",
                "c_in": f"1 batch {DECODER}",
                "keys": f"batch source {KEYS}",
                "memory": f"batch source {MEMORY}",
                "mask": "batch source",
            },
            ids={"token": target.get_vocab_size()},
            mask="mask",
            states={
                "h_in": State("h_out", prefill="h0", name="h"),
                "c_in": State("c_out", prefill="c0", name="c"),
                "keys": State(prefill="keys"),
                "memory": State(prefill="memory"),
            },
            prefill=Whole(
                recipe.prefill(module),
                {"source": ids, "lengths": lengths},
                axes={"source": "batch source", "lengths": "batch"},
                lengths="lengths",
                ids={"source": source.get_vocab_size()},
            ),
            task=Translate(
                target, BEGIN_ID, END_ID, attention="attention", max_tokens=MAX_TOKENS, beams=BEAMS
            ),
            tokenizer=source,
            longest=recipe.max_source,
            tolerance=TOLERANCE,
            exact=True,
            about=recipe.about,
        )

    def figures(self, recipe: TranslatorRecipe, corpus: TranslationCorpus, graphs: Graphs) -> Figures:
        exported = Exported(graphs[PREFILL], graphs[STEP])
        dev, test = (bleu(recipe, exported, part, corpus.target) for part in (corpus.dev, corpus.test))
        return Figures("BLEU", dev.score, test.score, test.signature)

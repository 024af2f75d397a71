"""A tiny tagger: a table of scores for each word piece, served as task token-classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
from onnx import helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "ada", "love", "##lace", "lives", "in", "par", "##is", "é", ",",
    "new", "york",
]  # fmt: skip
IDS = {word: index for index, word in enumerate(VOCABULARY)}
BEST = {"ada": 1, "love": 2, "##lace": 0, "par": 3, "##is": 4, "new": 3, "york": 4}
MANIFEST = """
task = "token-classification"
labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
text.source = "tokenizer.json"
lengths.words.max = 32
inputs.tokens = {batch_axis = 0, lengths = {1 = "words"}, range = [0, 15]}
outputs.logits = {batch_axis = 0, lengths = {1 = "words"}}
roles.scores = "logits"
"""


def scores() -> Any:
    """Scores of each token [15, 5], the highest as BEST says; of a continuing token lower ones."""
    table = np.zeros((len(VOCABULARY), len(LABELS)), np.float32)
    for word, index in IDS.items():
        table[index, BEST.get(word, 0)] = 1 if word.startswith("##") else 3
    table[0] = np.nan  # padding must not matter
    return table


def tagger() -> Any:
    shape = ("batch", "words")
    return fakes.model(
        [helper.make_node("Gather", ["E", "tokens"], ["logits"])],
        [fakes.tensor("tokens", "INT64", shape)],
        [fakes.tensor("logits", shape=(*shape, 5))],
        [fakes.constant("E", scores(), np.float32)],
    )


def word_pieces() -> Tokenizer:
    """Lower-cased word pieces between [CLS] and [SEP], as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(IDS, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def write(root: Path, name: str = "tagger", graph: Any = None, manifest: str = MANIFEST) -> None:
    folder = fakes.write_model(root, name, tagger() if graph is None else graph, manifest)
    word_pieces().save(str(folder / "tokenizer.json"))

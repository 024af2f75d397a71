"""Modules with a vector or scores for each word, exported and served, answer as PyTorch on real words."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from integration.harness import Served, serve
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from lockstep_client import Client
from lockstep_export import ClassifyTokens, Encode, export_oneshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

LABELS = ["O", "B-PER", "I-PER"]
WORDS = ["[PAD]", *(f"w{k}" for k in range(1, 20))]
TEXTS = ["w1", "w2 w3 w4", "w5 " * 17, "w6 w7 w8 w9 w1 w2", "w19 w18"]


class Words(nn.Module):
    """A vector for each word, which depends on the words around it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        hidden = x + self.attention(x, x, x, key_padding_mask=~mask)[0]
        return {"hidden": hidden, "logits": self.head(hidden)}


@pytest.fixture(scope="module")
def module() -> Words:
    torch.manual_seed(2)
    return Words().eval()


@pytest.fixture(scope="module")
def server(module: Words, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    example = (torch.randint(1, 20, (2, 5)), torch.ones(2, 5, dtype=torch.bool))
    for name, output, task in (
        ("last", "hidden", Encode("hidden", pooling="last", normalise=True)),
        ("tagger", "logits", ClassifyTokens(LABELS)),
    ):
        export_oneshot(
            module,
            example,
            root / name,
            axes=("batch words", "batch words"),
            mask="mask",
            outputs=output,
            task=task,
            tokenizer=tokenizer,
            report=lambda _: None,
        )
    shutil.copytree(root / "last", root / "mean")
    manifest = (root / "mean" / "model.toml").read_text(encoding="utf-8")
    for line, other in (('pooling = "last"', 'pooling = "mean"'), ("normalise = true", "normalise = false")):
        assert line in manifest
        manifest = manifest.replace(line, other)
    (root / "mean" / "model.toml").write_text(manifest, encoding="utf-8")
    with serve(root) as running:
        yield running


def expected(module: Words, output: str) -> list[Tensor]:
    """PyTorch's values for the words of each text, from one padded batch."""
    rows = [torch.tensor([WORDS.index(word) for word in text.split()]) for text in TEXTS]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        values = module(tokens, tokens > 0)[output]
    return [values[index, : len(row)] for index, row in enumerate(rows)]


def test_pooled_vectors_equal_those_of_pytorch_over_the_mask(server: Served, module: Words) -> None:
    hidden = expected(module, "hidden")
    with Client(server.address) as client:
        for model, vectors in (
            ("mean", [each.mean(0) for each in hidden]),
            ("last", [nn.functional.normalize(each[-1], dim=0) for each in hidden]),
        ):
            together = client.encode(model, TEXTS)
            for text, answer, vector in zip(TEXTS, together, vectors, strict=True):
                np.testing.assert_allclose(answer.vector, vector.numpy(), rtol=1e-4, atol=1e-5)
                [alone] = client.encode(model, text)
                np.testing.assert_allclose(answer.vector, alone.vector, rtol=1e-4, atol=1e-5)


def test_words_get_the_probabilities_of_pytorch(server: Served, module: Words) -> None:
    with Client(server.address) as client:
        answers = client.classify_tokens("tagger", TEXTS, top_k=0)
    for text, answer, scores in zip(TEXTS, answers, expected(module, "logits"), strict=True):
        assert [span.text for span in answer.spans] == text.split()
        found = np.zeros((len(answer.spans), len(LABELS)))
        for row, span in enumerate(answer.spans):
            for label in span.labels:
                found[row, label.index] = label.probability
        np.testing.assert_allclose(found, scores.softmax(-1).numpy(), atol=1e-5)

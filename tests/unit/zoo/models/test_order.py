"""Which word orders each architecture can distinguish, independently of its weights."""

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from unit.zoo.sample_data import built, classifier

from lockstep_zoo.classify.batches import inputs_for
from lockstep_zoo.models.context_cnn import WINDOW
from lockstep_zoo.models.tfidf import TfIdf, count_documents

DOG, BITES, MAN = 5, 6, 7
UNORDERED = ["bow", "tfidf", "mean", "attention"]
ORDERED = ["rnn", "gru", "lstm", "bilstm", "textcnn", "cnn2d", "transformer"]


@torch.no_grad()
def logits(name: str, module: nn.Module, rows: list[list[int]]) -> Tensor:
    return module(**inputs_for(classifier(name), rows))["logits"]


@pytest.mark.parametrize("kind", UNORDERED)
def test_word_order_has_no_effect(kind: str) -> None:
    name = f"sentiment-{kind}"
    orders = [list(order) for order in permutations((DOG, BITES, MAN))]
    found = logits(name, built(name), orders)
    assert torch.allclose(found, found[:1].expand_as(found), atol=1e-5)


@pytest.mark.parametrize("kind", ORDERED)
def test_word_order_has_an_effect(kind: str) -> None:
    name = f"sentiment-{kind}"
    one, other = logits(name, built(name), [[DOG, BITES, MAN], [MAN, BITES, DOG]])
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["textcnn", "cnn2d"])
@pytest.mark.parametrize("words", [1, 2, 3])
def test_a_text_shorter_than_a_filter_has_the_same_result_batched(kind: str, words: int) -> None:
    name = f"sentiment-{kind}"
    module, short = built(name), list(range(2, 2 + words))
    unbatched = logits(name, module, [short])
    batched = logits(name, module, [short, list(range(10, 40))])
    assert torch.allclose(unbatched[0], batched[0], atol=1e-6)


def test_the_context_cnn_reads_its_window_only() -> None:
    module = built("captions-context-cnn")
    text = torch.arange(2, 12)[None]
    changed = text.clone()
    changed[0, 2] = 50
    with torch.no_grad():
        one, other = (module(tokens, torch.tensor([10]))[0][:, 0] for tokens in (text, changed))
    differs = (one != other).any(dim=1).tolist()
    assert differs == [2 <= position < 2 + WINDOW for position in range(10)]


def test_idf_is_counted_over_texts() -> None:
    module = TfIdf(6)
    count_documents(module, [[2, 2, 3], [2, 4], [2], [3]])
    expected = torch.tensor([4.0, 4.0, 4 / 3, 4 / 2, 4.0, 4.0]).log()
    assert torch.allclose(module.idf, expected, atol=1e-3)


def test_tf_is_a_share_of_the_length() -> None:
    module = TfIdf(6)
    with torch.no_grad():
        module.idf.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
        module.votes.weight[3] = torch.tensor([1.0, -1.0])
        found = module(torch.tensor([[3, 3, 2, 1], [3, 2, 0, 0]]))["logits"]
    assert torch.allclose(found, torch.tensor([[1.5, -1.5], [1.5, -1.5]]))

"""An encoder-decoder Transformer is exported from its modules, with a cache that grows and a source."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch.nn import functional

from lockstep_export import State, Translate, Whole, export_stepwise

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEADS, WORDS = 16, 2, 20
HEAD = WIDTH // HEADS


def heads(x: Tensor) -> Tensor:
    """[batch, words, 16] → [batch, heads, words, 8]."""
    return x.reshape(x.shape[0], x.shape[1], HEADS, HEAD).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, real: Tensor) -> Tensor:
    weights = (query @ key.transpose(2, 3)).masked_fill(~real[:, None, None], -1e9).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


class Translator(nn.Module):
    """The weights of both parts."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.ask, self.source_key, self.source_value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))


class Encoder(nn.Module):
    """The source → keys and values of it."""

    def __init__(self, weights: Translator) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        part = self.weights
        x = part.words(tokens)
        query, key, value = (heads(one(x)) for one in (part.query, part.key, part.value))
        x = x + attend(query, key, value, mask)
        return {"source_key": heads(part.source_key(x)), "source_value": heads(part.source_value(x))}


class Decoder(nn.Module):
    """One token of each row, its own cache and the source's keys and values → scores, the longer cache."""

    def __init__(self, weights: Translator) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, token: Tensor, real: Tensor, source: Tensor, **states: Tensor) -> dict[str, Tensor]:
        part = self.weights
        x = part.words(token)[:, None]
        key = torch.cat((states["past_key"], heads(part.key(x))), dim=2)
        value = torch.cat((states["past_value"], heads(part.value(x))), dim=2)
        x = x + attend(heads(part.query(x)), key, value, functional.pad(real, (0, 1), value=True))
        x = x + attend(heads(part.ask(x)), states["source_key"], states["source_value"], source)
        return {"logits": part.head(x[:, 0]), "key": key, "value": value}


def test_a_cache_grows_and_a_source_stays(tmp_path: Path) -> None:
    """The proof compares batched and padded steps, caches and sources of all lengths with each row alone."""
    torch.manual_seed(2)
    weights = Translator()
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(WORDS)}, unk_token="w0"))
    own, of_source = torch.zeros(2, HEADS, 3, HEAD), torch.zeros(2, HEADS, 4, HEAD)
    cache, memory = f"batch {HEADS} past {HEAD}", f"batch {HEADS} source {HEAD}"
    parity = export_stepwise(
        Decoder(weights),
        {
            "token": torch.tensor([1, 2]),
            "real": torch.ones(2, 3, dtype=torch.bool),
            "source": torch.ones(2, 4, dtype=torch.bool),
            "past_key": own,
            "past_value": own.clone(),
            "source_key": of_source,
            "source_value": of_source.clone(),
        },
        tmp_path / "translator",
        axes={"token": "batch", "real": "batch past", "source": "batch source", "past_key": cache,
              "past_value": cache, "source_key": memory, "source_value": memory},
        mask=("real", "source"),
        states={
            "past_key": State("key", grows=True),
            "past_value": State("value", grows=True),
            "source_key": State(prefill="source_key"),
            "source_value": State(prefill="source_value"),
        },
        prefill=Whole(
            Encoder(weights),
            (torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.ones(2, 3, dtype=torch.bool)),
            axes=("batch source", "batch source"),
            mask="mask",
        ),
        task=Translate(tokenizer, begin=1, end=2),
        tokenizer=tokenizer,
        longest={"past": 64, "source": 64},
        report=lambda _: None,
    )  # fmt: skip
    assert parity.worst < 1e-5
    written = tomllib.loads((tmp_path / "translator/model.toml").read_text())
    states = {state["name"]: state for state in written["stepwise"]["state"]}
    assert states["past_key"]["grows"] is True
    assert states["source_key"]["prefill"] == "source_key"
    assert "output" not in states["source_key"]

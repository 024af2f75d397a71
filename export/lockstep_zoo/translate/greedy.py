"""Greedy translation: the most likely token each time, until the end token or a limit; PyTorch or ONNX."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, from_numpy

from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.ragged import by_length, padded, real
from lockstep_zoo.models.translator import Encoded, Written
from lockstep_zoo.translate.tokenizer import BEGIN_ID, END_ID

ROWS = 64


class Translates(Protocol):
    """The common interface of a trained module and its graphs."""

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """As `Translator.encode`."""
        ...

    def step(
        self, token: Tensor, h: Tensor, c: Tensor, keys: Tensor, memory: Tensor, mask: Tensor
    ) -> Written:
        """As `Translator.step`."""
        ...


class Exported:
    """The two graphs with the interface of the module."""

    def __init__(self, prefill: OnnxGraph, step: OnnxGraph) -> None:
        self.prefill, self.one = prefill, step

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        given = self.prefill.run({"source": source, "lengths": lengths})
        keys, memory, h, c = (from_numpy(given[name]) for name in ("keys", "memory", "h0", "c0"))
        return keys, memory, h, c

    def step(
        self, token: Tensor, h: Tensor, c: Tensor, keys: Tensor, memory: Tensor, mask: Tensor
    ) -> Written:
        inputs = {"token": token, "h_in": h, "c_in": c, "keys": keys, "memory": memory, "mask": mask}
        given = self.one.run(inputs)
        logits, attention, h, c = (from_numpy(given[n]) for n in ("logits", "attention", "h_out", "c_out"))
        return logits, attention, h, c


def translate(translator: Translates, sources: Sequence[Sequence[int]], longest: int) -> list[list[int]]:
    """The tokens of each source's translation, without the end token, at most `longest` of them."""
    found: dict[int, list[int]] = {}
    for batch in by_length(len(sources), ROWS, lambda index: len(sources[index])):
        written = _write(translator, [sources[index] for index in batch], longest)
        found.update(zip(batch, written, strict=True))
    return [found[index] for index in range(len(sources))]


@torch.no_grad()
def _write(translator: Translates, sources: Sequence[Sequence[int]], longest: int) -> list[list[int]]:
    source, lengths = padded(sources)
    keys, memory, h, c = translator.encode(source, lengths)
    mask, token = real(lengths, source.shape[1]), torch.full((len(sources),), BEGIN_ID)
    columns: list[Tensor] = []
    ended = torch.zeros(len(sources), dtype=torch.bool)
    while len(columns) < longest and not ended.all():
        logits, _, h, c = translator.step(token, h, c, keys, memory, mask)
        token = logits.argmax(dim=1)
        columns.append(token)
        ended |= token == END_ID
    return [_until_end(row) for row in torch.stack(columns, dim=1).tolist()]


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(END_ID)] if END_ID in row else row

"""Replaces packed sequences, which a tracer cannot follow, by padded ones with their lengths.

Within `without_packing`, the functions below replace `pack_padded_sequence` and `pad_packed_sequence`
wherever the parts of a module find them: in the globals of their files, or in torch.nn.utils.rnn.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import rnn


@dataclass(frozen=True)
class Ragged:
    """Stands in for a PackedSequence: x [words, batch, inputs], lengths [batch]."""

    x: Tensor
    lengths: Tensor


def pack(x: Tensor, lengths: Tensor, batch_first: bool = False, *_: Any, **__: Any) -> Ragged:
    """Replaces `pack_padded_sequence`."""
    return Ragged(x.transpose(0, 1) if batch_first else x, lengths)


def pad(sequence: Ragged, batch_first: bool = False, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Replaces `pad_packed_sequence`."""
    return (sequence.x.transpose(0, 1) if batch_first else sequence.x), sequence.lengths


REPLACEMENTS = ((rnn.pack_padded_sequence, pack), (rnn.pad_packed_sequence, pad))


@contextmanager
def without_packing(module: nn.Module) -> Iterator[None]:
    """Within this context, `module` packs nothing."""
    kept = []
    for names in _namespaces(module):
        for original, ours in REPLACEMENTS:
            for name in [name for name, value in names.items() if value is original]:
                kept.append((names, name, original))
                names[name] = ours
    try:
        yield
    finally:
        for names, name, original in kept:
            names[name] = original


def _namespaces(module: nn.Module) -> list[dict[str, Any]]:
    found = {id(vars(rnn)): vars(rnn)}
    for part in module.modules():
        names = getattr(inspect.unwrap(type(part).forward), "__globals__", {})
        found[id(names)] = names
    return list(found.values())

"""Packed sequences of one element: there is nothing to pack, and no tracer needs to follow it.

Within `unpacked`, torch's `pack_padded_sequence` and `pad_packed_sequence` pass one element through, wherever
the parts of a module find them: by their names in the files of its classes, or as torch's own.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn


@dataclass(frozen=True)
class Element:
    """What stands where a PackedSequence would: x [1, batch, inputs]."""

    x: Tensor


def pack(x: Tensor, _lengths: Any, batch_first: bool = False, **_: Any) -> Element:
    """As `pack_padded_sequence`, for one element of each row."""
    return Element(x.transpose(0, 1) if batch_first else x)


def pad(sequence: Element, batch_first: bool = False, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """As `pad_packed_sequence`, for one element of each row."""
    lengths = torch.ones_like(sequence.x[0, :, 0], dtype=torch.int64)
    return (sequence.x.transpose(0, 1) if batch_first else sequence.x), lengths


STANDS_FOR = ((rnn.pack_padded_sequence, pack), (rnn.pad_packed_sequence, pad))


@contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Within, the parts of `module` pack nothing."""
    kept = []
    for names in _namespaces(module):
        for original, ours in STANDS_FOR:
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

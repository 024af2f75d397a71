"""Packed sequences that a tracer need not follow: padded as they are, with their lengths beside them.

Within `packed_as_they_are`, torch's `pack_padded_sequence` and `pad_packed_sequence` are these here, wherever
the parts of a module find them: by their names in the files of its classes, or as torch's own.
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
    """What stands where a PackedSequence would: x [words, batch, inputs], lengths [batch]."""

    x: Tensor
    lengths: Tensor


def pack(x: Tensor, lengths: Tensor, batch_first: bool = False, *_: Any, **__: Any) -> Ragged:
    """As `pack_padded_sequence`."""
    return Ragged(x.transpose(0, 1) if batch_first else x, lengths)


def pad(sequence: Ragged, batch_first: bool = False, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """As `pad_packed_sequence`."""
    return (sequence.x.transpose(0, 1) if batch_first else sequence.x), sequence.lengths


STANDS_FOR = ((rnn.pack_padded_sequence, pack), (rnn.pad_packed_sequence, pad))


@contextmanager
def packed_as_they_are(module: nn.Module) -> Iterator[None]:
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

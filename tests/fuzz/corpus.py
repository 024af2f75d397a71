"""The committed inputs: `corpus/TARGET/NAME`. A run adds those with an outcome that was not seen before."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).with_name("corpus")
_LARGEST, _MOST = 1500, 16
"""Bytes of an input that is kept, and inputs of one target."""


def inputs(target: str) -> dict[str, bytes]:
    """The inputs of a target by name."""
    folder = FOLDER / target
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())} if folder.is_dir() else {}


def keep(target: str, data: bytes) -> bool:
    """Add an input to the corpus, if it is small and there is room. Returns whether it was added."""
    if len(data) > _LARGEST or len(inputs(target)) >= _MOST:
        return False
    folder = FOLDER / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    return True


def pack(messages: Sequence[bytes]) -> bytes:
    """The messages of a stream as one input: each after its length in 4 bytes."""
    return b"".join(struct.pack("<I", len(one)) + one for one in messages)


def unpack(data: bytes) -> list[bytes]:
    """The messages of an input, at most 8; what is left of a damaged one is its last message."""
    found: list[bytes] = []
    while data and len(found) < 8:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found

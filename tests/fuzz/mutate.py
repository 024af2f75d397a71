"""Byte-level mutations, drawn from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_VALUES = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\x00" * 4, b"\xff" * 9 + b"\x01",
    b"\x80" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\x80\x80\x80\x80\x08", b"nan", b"inf", b"-1", b"1e999",
    b"9223372036854775807", b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"{", b"}", b"[" * 40, b'"',
    b"\n", b"../",
)  # fmt: skip
"""Ends of varints, lengths and floats, UTF-8 that is none, and what TOML and JSON stumble over."""

_LARGEST = 1 << 16


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with 1 to 8 mutations."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        _mutate_once(rng, data, seeds)
    return bytes(data[:_LARGEST])


def _mutate_once(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randint(0, len(data))
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
    match rng.randrange(8):
        case 0 if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = rng.choice(_VALUES)
        case 4:
            value = rng.choice(_VALUES)
            data[at : at + len(value)] = value
        case 5:
            data[at:at] = data[at:end] * rng.choice((1, 2, 20))
        case 6:
            del data[at:]
        case 7:
            other = rng.choice(seeds)
            begin = rng.randint(0, len(other))
            data[at:at] = other[begin : begin + rng.choice((4, 16, 256))]

"""Reads lengths and texts from files, and the bundled counts of real data.

A text file has one length or one text per line; the length of a text is its number of words. A JSON file has
a list of either, or counts: {"lengths": {"12": 56, …}}. The bundled files have counts only, no texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_load.lengths import MAX_LENGTH, NOTATIONS, EmpiricalLengths, Lengths, parse

if TYPE_CHECKING:
    import numpy.typing as npt

BUNDLED = ("sst2", "multi30k")


@dataclass(frozen=True)
class TextFile:
    """Texts of a file, drawn with equal probability. The length of a text is its number of words."""

    name: str
    texts: tuple[str, ...]

    def pick(self, rng: np.random.Generator, count: int) -> list[str]:
        """Draw `count` texts."""
        return [self.texts[at] for at in rng.integers(0, len(self.texts), count)]

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        return np.array([len(text.split()) for text in self.pick(rng, count)], np.int64)


def resolve_lengths(given: str) -> Lengths:
    """The lengths that `--lengths` describes: a notation, a bundled name or a file.

    Raises:
        ValueError: `given` is none of these, or the file is invalid.
    """
    if found := parse(given):
        return found
    if given in BUNDLED:
        return _bundled(given)
    if not Path(given).is_file():
        formats = "; ".join(NOTATIONS)
        raise ValueError(
            f"unknown lengths {given!r}: no such file; bundled: {', '.join(BUNDLED)}; notations: {formats}"
        )
    return read(Path(given))


def read(path: Path) -> Lengths:
    """Read the lengths or the texts of a file. Raises ValueError if it is invalid."""
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"lengths {path}: the file is not UTF-8") from None
    except OSError as error:
        raise ValueError(f"lengths {path}: {error.strerror}") from None
    if path.suffix.lower() == ".json":
        return _from_json(path, content)
    return _from_list(str(path), [line for line in content.splitlines() if line.strip()])


def _from_json(path: Path, content: str) -> Lengths:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise ValueError(f"lengths {path}: not JSON: {error}") from None
    if isinstance(data, list):
        return _from_list(str(path), data)
    counts = data.get("lengths") if isinstance(data, dict) else None
    if not isinstance(counts, dict):
        formats = 'a list of lengths or texts, or {"lengths": {"12": 56}}'
        raise ValueError(f"lengths {path}: expected {formats}")  # noqa: TRY004
    return _from_counts(str(path), counts)


def _from_list(name: str, items: list[Any]) -> Lengths:
    if not items:
        raise ValueError(f"lengths {name}: the file is empty")
    if all(_is_length(item) for item in items):
        values, counts = np.unique([int(item) for item in items], return_counts=True)
        return _from_counts(name, dict(zip(values.tolist(), counts.tolist(), strict=True)))
    for number, item in enumerate(items, start=1):
        if not isinstance(item, str) or not item.strip():
            raise ValueError(f"lengths {name}: entry {number} is neither a length nor a text: {item!r}")
    return TextFile(name, tuple(items))


def _is_length(item: Any) -> bool:
    return type(item) is int or (isinstance(item, str) and item.strip().lstrip("-").isdecimal())


def _from_counts(name: str, counts: dict[Any, Any]) -> Lengths:
    try:
        read = {int(length): float(count) for length, count in counts.items()}
    except (TypeError, ValueError):
        raise ValueError(f"lengths {name}: lengths and counts must be numbers") from None
    wrong = [length for length in read if not 1 <= length <= MAX_LENGTH]
    if wrong:
        raise ValueError(f"lengths {name}: {wrong[0]} is not a length; use 1 to {MAX_LENGTH:,}")
    if not read or min(read.values()) < 0 or not 0 < sum(read.values()) < float("inf"):
        raise ValueError(f"lengths {name}: counts must be 0 or more, and at least one above 0")
    return EmpiricalLengths(name, tuple(read), tuple(read.values()))


def _bundled(name: str) -> Lengths:
    file = files("lockstep_load").joinpath(f"data/{name}.json")
    return _from_counts(name, json.loads(file.read_text("utf-8"))["lengths"])

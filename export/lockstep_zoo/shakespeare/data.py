"""Reads the text that a language model learns from: `tinyshakespeare.txt` in the data folder.

The first nine tenths are to learn from, then come a twentieth to stop by and a twentieth to report.
"""

from dataclasses import dataclass
from pathlib import Path

from lockstep_export.errors import DataError
from lockstep_export.text import read_text, require

FILE = "tinyshakespeare.txt"
LAYOUT = f"expected {FILE} (see models/README.md for its source)"
SHORTEST = 2_000  # characters: a twentieth must be worth measuring


@dataclass(frozen=True)
class ShakespeareText:
    """One text in three parts."""

    train: str
    dev: str
    test: str

    def head(self, count: int) -> "ShakespeareText":
        """The first `count` characters of the training part, and as much less of the others."""
        return ShakespeareText(self.train[:count], self.dev[: count // 10], self.test[: count // 10])


def read_shakespeare(data: Path) -> ShakespeareText:
    """Reads the text under `data`, or raises DataError that says what is missing."""
    require(data, [FILE], LAYOUT)
    text = read_text(data / FILE)
    if len(text) < SHORTEST:
        raise DataError(f"{data / FILE} holds {len(text)} characters; at least {SHORTEST} are needed")
    first, second = len(text) * 18 // 20, len(text) * 19 // 20
    return ShakespeareText(text[:first], text[first:second], text[second:])

"""Reads `tinyshakespeare.txt` in the data folder.

The first nine tenths are the training part, the next twentieth is dev and the last one test.
"""

from dataclasses import dataclass
from pathlib import Path

from lockstep_export.errors import DataError
from lockstep_export.text import read_text, require

FILE = "tinyshakespeare.txt"
LAYOUT = f"expected {FILE} (models/README.md names the source)"
SHORTEST = 2_000  # characters, so that a twentieth is long enough to measure


@dataclass(frozen=True)
class ShakespeareText:
    """One text in three parts."""

    train: str
    dev: str
    test: str

    def head(self, count: int) -> "ShakespeareText":
        """The first `count` characters of the training part, and a tenth as many of the others."""
        return ShakespeareText(self.train[:count], self.dev[: count // 10], self.test[: count // 10])


def read_shakespeare(data: Path) -> ShakespeareText:
    """Reads the text under `data`; DataError if it is missing or too short."""
    require(data, [FILE], LAYOUT)
    text = read_text(data / FILE)
    if len(text) < SHORTEST:
        raise DataError(f"{data / FILE} has {len(text)} characters; at least {SHORTEST} are needed")
    first, second = len(text) * 18 // 20, len(text) * 19 // 20
    return ShakespeareText(text[:first], text[first:second], text[second:])

"""Reads captions: `multi30k/{train,val,test_2016_flickr}.en` in the data folder, one per line.

They are the English side of the translator's data (Multi30k: Elliott et al. 2016).
"""

from dataclasses import dataclass
from pathlib import Path

from lockstep_export.text import read_lines, require

PARTS = ("train", "val", "test_2016_flickr")
FILES = tuple(f"{part}.en" for part in PARTS)
LAYOUT = f"expected multi30k/{{{','.join(PARTS)}}}.en (models/README.md names the source)"


@dataclass(frozen=True)
class Captions:
    """The three parts: train on `train`, select by `dev`, report `test`."""

    train: list[str]
    dev: list[str]
    test: list[str]

    def head(self, count: int) -> "Captions":
        """The first `count` captions of the training part, and a tenth as many of the others."""
        return Captions(self.train[:count], self.dev[: count // 10], self.test[: count // 10])


def read_captions(data: Path) -> Captions:
    """Reads all three parts under `data`/multi30k; DataError names missing files."""
    folder = data / "multi30k"
    require(folder, FILES, LAYOUT)
    return Captions(*(read_lines(folder / file) for file in FILES))

"""Reads sentence pairs: `multi30k/{train,val,test_2016_flickr}.{en,fr}` in the data folder.

Line i of the French file translates line i of the English one (Multi30k: Elliott et al. 2016, 2017).
"""

from dataclasses import dataclass
from pathlib import Path

from lockstep_export.errors import DataError
from lockstep_export.text import read_lines, require

SOURCE, TARGET = "en", "fr"
PARTS = ("train", "val", "test_2016_flickr")
FILES = tuple(f"{part}.{language}" for part in PARTS for language in (SOURCE, TARGET))
LAYOUT = f"expected multi30k/{{{','.join(PARTS)}}}.{{{SOURCE},{TARGET}}} (models/README.md names the source)"


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, in the files' order."""

    sources: list[str]
    targets: list[str]

    def head(self, count: int) -> "Pairs":
        """The first `count` pairs."""
        return Pairs(self.sources[:count], self.targets[:count])


@dataclass(frozen=True)
class Multi30k:
    """The three parts: train on `train`, select by `dev`, report `test`."""

    train: Pairs
    dev: Pairs
    test: Pairs

    def head(self, count: int) -> "Multi30k":
        """The first `count` pairs of the training part, and a tenth as many of the others."""
        return Multi30k(self.train.head(count), self.dev.head(count // 10), self.test.head(count // 10))


def read_multi30k(data: Path) -> Multi30k:
    """Reads all three parts under `data`/multi30k; DataError names missing files."""
    folder = data / "multi30k"
    require(folder, FILES, LAYOUT)
    return Multi30k(*(_read_pairs(folder, part) for part in PARTS))


def _read_pairs(folder: Path, part: str) -> Pairs:
    sources, targets = (read_lines(folder / f"{part}.{language}") for language in (SOURCE, TARGET))
    if len(sources) != len(targets):
        raise DataError(
            f"{folder / part}: {len(sources)} lines of {SOURCE} and {len(targets)} of {TARGET}; "
            "each line needs its translation"
        )
    return Pairs(sources, targets)

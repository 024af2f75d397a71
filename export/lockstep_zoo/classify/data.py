"""Reads the sentiment data: sentences and labels from lines of text.

A data folder holds `sst2/{train,dev,test}.txt`, one sentence per line: `LABEL<space>tokenised sentence`,
label 0 for negative and 1 for positive (Stanford Sentiment Treebank, binary, sentence level: Socher et al.
2013). All files are read and checked before training starts.
"""

from dataclasses import dataclass
from pathlib import Path

from lockstep_export.errors import DataError
from lockstep_export.text import read_text, require

SPLITS = ("train", "dev", "test")
LAYOUT = "expected sst2/train.txt, sst2/dev.txt and sst2/test.txt (models/README.md names the source)"


@dataclass(frozen=True)
class Split:
    """Sentences and their labels (0 or 1), in the file's order."""

    texts: list[str]
    labels: list[int]

    def head(self, count: int) -> "Split":
        """The first `count` sentences."""
        return Split(self.texts[:count], self.labels[:count])


@dataclass(frozen=True)
class Sst2:
    """The three parts: train on `train`, select by `dev`, report `test`."""

    train: Split
    dev: Split
    test: Split

    def head(self, count: int) -> "Sst2":
        """The first `count` sentences of each part, for quick runs."""
        return Sst2(self.train.head(count), self.dev.head(count), self.test.head(count))


def read_sst2(data: Path) -> Sst2:
    """Reads all three parts under `data`/sst2; DataError names missing files."""
    folder = data / "sst2"
    require(folder, [f"{split}.txt" for split in SPLITS], LAYOUT)
    return Sst2(*(_read_split(folder / f"{split}.txt") for split in SPLITS))


def _read_split(path: Path) -> Split:
    lines = read_text(path).splitlines()
    rows = [_parse(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    labels = [label for label, _ in rows]
    if set(labels) != {0, 1}:
        raise DataError(
            f"{path} has {len(rows)} sentences with labels {sorted(set(labels))}; both 0 and 1 are needed"
        )
    return Split([text for _, text in rows], labels)


def _parse(path: Path, number: int, line: str) -> tuple[int, str]:
    label, _, text = line.partition(" ")
    if label not in ("0", "1") or not text.strip():
        raise DataError(f"{path}:{number}: expected '0 sentence' or '1 sentence', found {line[:40]!r}")
    return int(label), text.strip()

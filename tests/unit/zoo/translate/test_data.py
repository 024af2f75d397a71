"""Pairs stay aligned, and missing files are named."""

from pathlib import Path

import pytest

from lockstep_export.errors import DataError
from lockstep_zoo.translate.data import read_multi30k


def test_reads_pairs(data: Path) -> None:
    corpus = read_multi30k(data)
    assert [len(part.sources) for part in (corpus.train, corpus.dev, corpus.test)] == [60, 20, 20]
    assert (corpus.train.sources[0], corpus.train.targets[0]) == ("A man sleeps.", "Un homme dort.")


def test_names_every_missing_file(data: Path) -> None:
    for name in ("val.fr", "test_2016_flickr.en"):
        (data / "multi30k" / name).unlink()
    with pytest.raises(DataError, match=r"lacks val.fr, test_2016_flickr.en: expected multi30k/"):
        read_multi30k(data)


def test_rejects_files_of_unequal_length(data: Path) -> None:
    path = data / "multi30k" / "train.fr"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")
    with pytest.raises(DataError, match="60 lines of en and 57 of fr"):
        read_multi30k(data)


def test_rejects_an_empty_line(data: Path) -> None:
    path = data / "multi30k" / "val.en"
    path.write_text(path.read_text().replace("A man sleeps.", "", 1))
    with pytest.raises(DataError, match=r"val.en:1: expected a sentence"):
        read_multi30k(data)

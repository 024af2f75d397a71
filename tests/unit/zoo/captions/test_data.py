"""Captions are read one per line, and only the English files are needed."""

from pathlib import Path

import pytest

from lockstep_export.errors import DataError
from lockstep_zoo.captions.data import read_captions


def test_reads_the_english_files_only(data: Path) -> None:
    for file in (data / "multi30k").glob("*.fr"):
        file.unlink()
    captions = read_captions(data)
    assert [len(part) for part in (captions.train, captions.dev, captions.test)] == [60, 20, 20]
    assert captions.train[0] == "A man sleeps."


def test_names_the_missing_file(data: Path) -> None:
    (data / "multi30k" / "val.en").unlink()
    with pytest.raises(DataError, match=r"multi30k lacks val.en: expected multi30k/"):
        read_captions(data)


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("A man.\n\nA dog.\n", "2: expected a sentence")]
)
def test_rejects_empty_files_and_lines(data: Path, content: str, message: str) -> None:
    (data / "multi30k" / "train.en").write_text(content)
    with pytest.raises(DataError, match=message):
        read_captions(data)

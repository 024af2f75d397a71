"""The captions are there, one a line, and only the English side is asked for."""

from pathlib import Path

import pytest

from lockstep_export.errors import DataError
from lockstep_zoo.captions.data import read_captions


def test_reads_the_english_side_alone(data: Path) -> None:
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
    ("content", "told"), [("", "is empty"), ("A man.\n\nA dog.\n", "2: expected a sentence")]
)
def test_refuses_a_file_with_holes(data: Path, content: str, told: str) -> None:
    (data / "multi30k" / "train.en").write_text(content)
    with pytest.raises(DataError, match=told):
        read_captions(data)

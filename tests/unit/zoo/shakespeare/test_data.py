"""The text is read, is long enough, and is split into its three parts."""

from pathlib import Path

import pytest

from lockstep_export.errors import DataError
from lockstep_zoo.shakespeare.data import read_shakespeare


def test_nine_tenths_are_for_training(data: Path) -> None:
    play, whole = read_shakespeare(data), (data / "tinyshakespeare.txt").read_text()
    assert play.train + play.dev + play.test == whole
    assert len(play.train) == pytest.approx(0.9 * len(whole), abs=1)
    assert len(play.dev) == pytest.approx(len(play.test), abs=1)


def test_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks tinyshakespeare.txt: expected tinyshakespeare.txt"):
        read_shakespeare(tmp_path)


def test_rejects_a_text_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "tinyshakespeare.txt").write_text("To be, or")
    with pytest.raises(DataError, match="has 9 characters; at least 2000 are needed"):
        read_shakespeare(tmp_path)

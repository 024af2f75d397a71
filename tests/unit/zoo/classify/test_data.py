"""Errors in a data folder are reported by file and line, before any training."""

from pathlib import Path

import pytest

from lockstep_export.errors import DataError
from lockstep_zoo.classify.data import read_sst2


def test_reads_texts_and_labels(data: Path) -> None:
    sst2 = read_sst2(data)
    assert (len(sst2.train.texts), len(sst2.dev.texts), len(sst2.test.texts)) == (60, 20, 20)
    assert sst2.train.labels[:2] == [0, 1]
    assert sst2.train.texts[0] == "the film is bad ."


def test_names_the_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere.sst2: expected sst2/train.txt"):
        read_sst2(tmp_path / "nowhere")


def test_names_every_missing_file_of_half_a_set(data: Path) -> None:
    for split in ("dev", "test"):
        (data / "sst2" / f"{split}.txt").unlink()
    with pytest.raises(DataError, match=r"lacks dev.txt, test.txt"):
        read_sst2(data)


@pytest.mark.parametrize("line", ["2 a film", "good film", "1", "1  "])
def test_names_the_invalid_line(data: Path, line: str) -> None:
    (data / "sst2" / "dev.txt").write_text(f"0 a film\n{line}\n")
    with pytest.raises(DataError, match=r"dev.txt:2: expected '0 sentence' or '1 sentence'"):
        read_sst2(data)


@pytest.mark.parametrize(("text", "found"), [("", "0 sentences"), ("1 good\n1 better\n", r"labels \[1\]")])
def test_rejects_a_part_without_both_labels(data: Path, text: str, found: str) -> None:
    (data / "sst2" / "test.txt").write_text(text)
    with pytest.raises(DataError, match=found):
        read_sst2(data)


def test_rejects_text_that_is_not_utf8(data: Path) -> None:
    (data / "sst2" / "train.txt").write_bytes(b"0 caf\xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_sst2(data)

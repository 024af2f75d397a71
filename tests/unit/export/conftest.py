"""Made-up sentences, so that no test needs the real data."""

from pathlib import Path

import pytest

GOOD, BAD = ("good", "lovely", "moving", "bright"), ("bad", "dull", "boring", "flat")
PLACES = ("film", "story", "plot", "cast", "script", "music")


def sentences(count: int) -> list[str]:
    """Lines as in the data files: labels in turn, lengths from 5 to 13 words."""
    lines = []
    for index in range(count):
        label = index % 2
        word = (BAD, GOOD)[label][index % 4]
        place = PLACES[index % len(PLACES)]
        lines.append(f"{label} the {place} is {word} ." + " and it is n't long ." * (index % 3))
    return lines


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a small made-up set."""
    folder = tmp_path / "data"
    for split, count in (("train", 60), ("dev", 20), ("test", 20)):
        path = folder / "sst2" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(sentences(count)) + "\n", encoding="utf-8")
    return folder

"""Generated data, so that no test needs the real data sets."""

from pathlib import Path

import pytest
from unit.zoo.sample_data import write_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a small part for every corpus."""
    folder = tmp_path / "data"
    write_data(folder)
    return folder

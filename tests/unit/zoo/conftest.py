"""Made-up data, so that no test needs the real one."""

from pathlib import Path

import pytest
from unit.zoo.sample_data import write_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a little of everything."""
    folder = tmp_path / "data"
    write_data(folder)
    return folder

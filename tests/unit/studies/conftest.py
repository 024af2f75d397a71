"""A small repository of shipped models, and a fixture that runs the command line."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep_export.cli import main

SHIPPED = Path(__file__).parents[3] / "models"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two classifiers and two writers, with their scores."""
    folder = tmp_path / "models"
    for name in ("sentiment-bow", "sentiment-rnn", "shakespeare-char-lstm", "shakespeare-gpt"):
        shutil.copytree(SHIPPED / name, folder / name)
    shutil.copyfile(SHIPPED / "accuracy.json", folder / "accuracy.json")
    return folder


@pytest.fixture(scope="session")
def study() -> Callable[..., int]:
    """Runs `lockstep-export study …` and returns its exit status."""

    def run(*arguments: str | Path) -> int:
        words = ["lockstep-export", "study", *(str(argument) for argument in arguments)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as end:
                main()
        return int(end.value.code or 0)

    return run

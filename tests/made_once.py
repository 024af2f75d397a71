"""Folders that are expensive to fill, filled once per test run and shared by all xdist workers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RUN_FOLDER = "LOCKSTEP_TEST_RUN"
"""The environment variable with the folder of this run, which conftest.py makes and removes."""


def made_once(name: str, fill: Callable[[Path], None]) -> Path:
    """A read-only folder, filled by the first process that asks for `name`; others wait for it.

    Raises:
        AssertionError: an earlier attempt failed. It is not repeated for each test.
    """
    folder = Path(os.environ[RUN_FOLDER]) / name
    partial = folder.with_name(f"{name}.partial")
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            assert not partial.exists(), f"{name} could not be made; see the first test that failed"
            partial.mkdir()
            fill(partial)
            partial.rename(folder)
    return folder

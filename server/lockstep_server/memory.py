"""Gives memory that a burst of large requests needed back to the system, and keeps collections short."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

LARGE_BYTES = 32 << 20
"""What takes less leaves so little behind that giving it back is not worth the time."""


def resident_bytes() -> int:
    """Memory of this process that is in use; 0 where the system does not say."""
    with suppress(OSError, ValueError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def keep_all() -> None:
    """Leave all objects that exist out of garbage collections, for a process that is ready: its modules would
    make a full one take 10 to 17 ms, under load every few seconds."""
    gc.freeze()


def collect_and_trim() -> None:
    """As `trim`, after a garbage collection: errors and their frames may hold large messages in cycles."""
    gc.collect()
    trim()


def trim() -> None:
    """Give free memory of the C allocator back. It takes milliseconds, without the interpreter lock. Does
    nothing where the C library cannot."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

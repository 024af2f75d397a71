"""Gives memory that a burst of large requests needed back to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

LARGE_BYTES = 32 << 20
"""What takes less leaves so little behind that giving it back is not worth the time."""


def collect_and_trim() -> None:
    """As `trim`, after a garbage collection: errors and their frames may hold large messages in cycles."""
    gc.collect()
    trim()


def trim() -> None:
    """Give free memory of the C allocator back. It takes milliseconds, without the interpreter lock. Does
    nothing where the C library cannot."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

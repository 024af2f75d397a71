"""The longest duration and the largest count that the server computes with.

Callers, manifests and settings may name any number. Timers, locks and MessagePack take no number beyond
these, and no server runs long enough for the difference to show.
"""

from __future__ import annotations

LONGEST_S = 366 * 24 * 3600.0
"""Seconds. Each duration is cut to this where it enters the server."""

LARGEST_COUNT = 2**31 - 1
"""A larger count or size in a manifest is an error."""


def bounded_s(seconds: float) -> float:
    """`seconds`, cut to `LONGEST_S`; that too for NaN."""
    return seconds if seconds < LONGEST_S else LONGEST_S

"""Output of the demo: unbuffered lines, and number formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def emit(text: str, end: str = "\n") -> None:
    """Print and flush."""
    print(text, end=end, flush=True)


def ms(seconds: float) -> str:
    """Format seconds as milliseconds, without the unit."""
    return f"{seconds * 1000:.1f}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

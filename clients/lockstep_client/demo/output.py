"""How the demo prints: lines at once, numbers short."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def emit(text: str, end: str = "\n") -> None:
    """Print it now, whatever comes next."""
    print(text, end=end, flush=True)


def ms(seconds: float) -> str:
    """Milliseconds, without their unit."""
    return f"{seconds * 1000:.1f}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all lies below."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

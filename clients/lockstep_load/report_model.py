"""What a page of a report is made of: sections, with sentences, plots and tables. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ReportTable:
    """A header, and rows of as many cells."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class ReportSection:
    """A part of a page."""

    title: str
    lead: Sequence[str] = ()
    """Sentences above."""
    reasons: Sequence[str] = ()
    """Why not to trust it."""
    notes: Sequence[str] = ()
    plots: Sequence[str] = ()
    """SVG."""
    tables: Sequence[ReportTable] = ()
    folded: bool = False
    """Shown as one line until it is opened."""

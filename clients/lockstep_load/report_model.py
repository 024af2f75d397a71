"""The contents of a report page, as plain data: sections with text, plots and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ReportTable:
    """A header and rows with the same number of cells."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class ReportSection:
    """One section of a page."""

    title: str
    lead: Sequence[str] = ()
    """Paragraphs above the plots."""
    reasons: Sequence[str] = ()
    """Why the run is invalid."""
    notes: Sequence[str] = ()
    plots: Sequence[str] = ()
    """SVG elements."""
    tables: Sequence[ReportTable] = ()
    folded: bool = False
    """Whether the section is collapsed at first."""

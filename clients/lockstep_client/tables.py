"""Tables and text: with borders and wrapped at its width on a terminal, as aligned columns in a pipe."""

from __future__ import annotations

import sys
import textwrap
from shutil import get_terminal_size
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print a table. The first `left` columns are left-aligned, the others right-aligned."""
    if sys.stdout.isatty():
        _boxes(header, rows, left)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip(), flush=True)


def text(lines: str, width: int | None = None) -> None:
    """Print lines. One that is longer than `width` or the terminal goes on in the next, between words."""
    if sys.stdout.isatty():
        columns = get_terminal_size().columns
        width = min(width or columns, columns)
    for line in lines.split("\n"):
        print(_wrapped(line, width) if width else line, flush=True)


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless it is 1: `1 warning`, `2,000 tokens`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _wrapped(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _boxes(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    broken = console.width < sum(max(map(len, c)) + 2 for c in zip(header, *rows, strict=True))

    def cell(text: str) -> str:
        """In a narrow console, allow line breaks after hyphens and slashes."""
        return text.replace("-", "- ").replace("/", "/ ") if broken else text

    def longest_word(index: int) -> int:
        return max((len(word) for row in (header, *rows) for word in cell(row[index]).split()), default=1)

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, name in enumerate(header):
        if index < left:
            shown.add_column(cell(name), min_width=longest_word(index))
        else:
            shown.add_column(cell(name), justify="right", width=longest_word(index) if broken else None)
    for row in rows:
        shown.add_row(*(Text(cell(text)) for text in row))
    console.print(shown)

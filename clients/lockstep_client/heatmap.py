"""Attention as a heat map of characters: source tokens in columns, target tokens in rows, a cell per weight.

weights, tokens → lines of rich text. Cells are coloured on consoles with 256 colours or more, and characters
of increasing density elsewhere (pipes, 16 colours). Maps wider than the console are split into blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

MAX_WORD_CELLS = 12
NARROW_CELL, NARROWEST_CELL = 3, 2
_THRESHOLDS = (0.75, 0.5, 0.25, 0.1, 0.0)
"""Lowest weight of each shade in `_BLOCKS` and `_ASCII`."""
_BLOCKS, _ASCII = "█▓▒░ ", "#*:. "
_RAMP = ((24, 15, 61), (93, 24, 126), (182, 54, 121), (244, 112, 92), (254, 206, 144))
"""Colours of weights 0, 1/4, ... 1: dark violet to pale orange, visible on black and white backgrounds."""


def heat_map(
    weights: npt.NDArray[np.float32], across: Sequence[str], down: Sequence[str], console: Console
) -> Iterator[Text]:
    """Yield the lines for `weights` of shape [down, across], each at most as wide as the console."""
    style = _CellStyle(console)
    across, down = [_printable(word) for word in across], [_printable(word) for word in down]
    margin = max(map(cell_len, down), default=0) + 1
    room = max(NARROWEST_CELL, console.width - margin)
    width = max((cell_len(word) for word in across), default=1) + 1
    horizontal = len(across) * width <= room
    if not horizontal:
        width = NARROW_CELL if len(across) * NARROW_CELL <= room else NARROWEST_CELL
    for start in range(0, len(across), max(1, room // width)):
        columns = slice(start, start + max(1, room // width))
        yield from _header(across[columns], width, margin, horizontal=horizontal)
        for word, row in zip(down, weights, strict=False):
            yield Text(set_cell_size(word, margin)).append_text(style.row(row[columns].tolist(), width))
    yield Text(" " * margin).append_text(style.legend())


class _CellStyle:
    """Draws weights as coloured or shaded cells, depending on the console."""

    def __init__(self, console: Console) -> None:
        self._colour = console.color_system in ("256", "truecolor") and not console.no_color
        self._shades = _BLOCKS if console.encoding.lower().startswith("utf") else _ASCII

    def row(self, weights: Sequence[float], width: int) -> Text:
        """The cells of a row. Coloured cells touch; shaded cells are separated by a space."""
        cells = Text()
        for weight in weights:
            if self._colour:
                cells.append(" " * width, Style(bgcolor=f"rgb({','.join(map(str, _colour(weight)))})"))
            else:
                cells.append(self._shade(weight) * (width - 1) + " ")
        return cells if self._colour else Text(cells.plain.rstrip())

    def legend(self) -> Text:
        """The legend: what the cells mean."""
        if self._colour:
            return Text("0 ").append_text(self.row([i / 8 for i in range(9)], 1)).append(" 1")
        return Text(
            "  ".join(f"{self._shade(threshold)} from {threshold:.0%}" for threshold in _THRESHOLDS[-2::-1])
        )

    def _shade(self, weight: float) -> str:
        at = next((i for i, threshold in enumerate(_THRESHOLDS) if weight >= threshold), len(_THRESHOLDS) - 1)
        return self._shades[at]


def _header(words: Sequence[str], width: int, margin: int, *, horizontal: bool) -> Iterator[Text]:
    if horizontal:
        yield Text((" " * margin + "".join(set_cell_size(word, width) for word in words)).rstrip())
        return
    height = max(map(len, words))
    for letters in zip(*(word.rjust(height) for word in words), strict=True):
        yield Text((" " * margin + "".join(set_cell_size(letter, width) for letter in letters)).rstrip())


def _printable(word: str) -> str:
    """A token as a short, visible word: white space becomes ␣, and the word-start mark ▁ of subword
    vocabularies is dropped."""
    word = word.removeprefix("▁") or word
    word = "".join(c if c.isprintable() and not c.isspace() else "␣" for c in word) or "␣"
    return word if len(word) <= MAX_WORD_CELLS else word[: MAX_WORD_CELLS - 1] + "…"


def _colour(weight: float) -> Iterator[int]:
    """Red, green and blue of a weight, interpolated between the neighbouring colours of the ramp."""
    at = min(max(weight, 0.0), 1.0) * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    return (round(a + (b - a) * (at - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))

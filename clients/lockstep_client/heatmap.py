"""Attention as a heat map of characters: the source across, the target down, a cell for each weight.

weights, words → lines of rich text. Colour where the console has enough of it; characters of rising density
elsewhere, so that a pipe, or a terminal of sixteen colours, shows the same. What is too wide is cut into
blocks.
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

LONGEST_WORD = 12
NARROW, NARROWEST = 3, 2
_LEAST = (0.75, 0.5, 0.25, 0.1, 0.0)
"""From this weight up a cell has the shade at the same place of these."""
_BLOCKS, _ASCII = "█▓▒░ ", "#*:. "
_RAMP = ((24, 15, 61), (93, 24, 126), (182, 54, 121), (244, 112, 92), (254, 206, 144))
"""Colours of weights 0, 1/4, ... 1: dark violet to pale orange, which stands out on black and on white."""


def heat_map(
    weights: npt.NDArray[np.float32], across: Sequence[str], down: Sequence[str], console: Console
) -> Iterator[Text]:
    """Lines for `weights` [down, across], each fitting into the console's width."""
    paint = _Paint(console)
    across, down = [_shown(word) for word in across], [_shown(word) for word in down]
    margin = max(map(cell_len, down), default=0) + 1
    room = max(NARROWEST, console.width - margin)
    width = max((cell_len(word) for word in across), default=1) + 1
    flat = len(across) * width <= room
    if not flat:
        width = NARROW if len(across) * NARROW <= room else NARROWEST
    for start in range(0, len(across), max(1, room // width)):
        columns = slice(start, start + max(1, room // width))
        yield from _header(across[columns], width, margin, flat=flat)
        for word, row in zip(down, weights, strict=False):
            yield Text(set_cell_size(word, margin)).append_text(paint.row(row[columns].tolist(), width))
    yield Text(" " * margin).append_text(paint.legend())


class _Paint:
    """How a weight looks."""

    def __init__(self, console: Console) -> None:
        self._colour = console.color_system in ("256", "truecolor") and not console.no_color
        self._shades = _BLOCKS if console.encoding.lower().startswith("utf") else _ASCII

    def row(self, weights: Sequence[float], width: int) -> Text:
        """A row's cells. In colour they touch; in grey a gap keeps the columns apart."""
        cells = Text()
        for weight in weights:
            if self._colour:
                cells.append(" " * width, Style(bgcolor=f"rgb({','.join(map(str, _colour(weight)))})"))
            else:
                cells.append(self._shade(weight) * (width - 1) + " ")
        return cells if self._colour else Text(cells.plain.rstrip())

    def legend(self) -> Text:
        """What the cells mean."""
        if self._colour:
            return Text("0 ").append_text(self.row([i / 8 for i in range(9)], 1)).append(" 1")
        return Text("  ".join(f"{self._shade(least)} from {least:.0%}" for least in _LEAST[-2::-1]))

    def _shade(self, weight: float) -> str:
        at = next((i for i, least in enumerate(_LEAST) if weight >= least), len(_LEAST) - 1)
        return self._shades[at]


def _header(words: Sequence[str], width: int, margin: int, *, flat: bool) -> Iterator[Text]:
    if flat:
        yield Text((" " * margin + "".join(set_cell_size(word, width) for word in words)).rstrip())
        return
    height = max(map(len, words))
    for letters in zip(*(word.rjust(height) for word in words), strict=True):
        yield Text((" " * margin + "".join(set_cell_size(one, width) for one in letters)).rstrip())


def _shown(word: str) -> str:
    """A token as one short word: what is white, or breaks lines, is made visible; the mark that begins a word
    in a subword vocabulary is not."""
    word = word.removeprefix("▁") or word
    word = "".join(c if c.isprintable() and not c.isspace() else "␣" for c in word) or "␣"
    return word if len(word) <= LONGEST_WORD else word[: LONGEST_WORD - 1] + "…"


def _colour(weight: float) -> Iterator[int]:
    """Red, green and blue, between the two colours of the ramp that are next to it."""
    at = min(max(weight, 0.0), 1.0) * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    return (round(a + (b - a) * (at - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))

"""The notation for axes: "batch words 128" names each axis of a tensor, in order.

batch      the rows: of any number, and independent of one another
words      any other name: an axis that varies; the same name is the same length in every tensor
128  or _  an axis of fixed size
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lockstep_export.errors import DescriptionError

BATCH, FIXED = "batch", "_"
NOTATION = 'write one word for each axis, as in "batch words" or "batch words 128"'


@dataclass(frozen=True)
class Axes:
    """The axes of one tensor as its module has them: a name for each that varies, "" for a fixed one."""

    names: tuple[str, ...]

    @property
    def batch(self) -> int:
        """Which axis holds the rows."""
        return self.names.index(BATCH)

    @property
    def lengths(self) -> dict[int, str]:
        """The axes that vary with a named length."""
        return {axis: name for axis, name in enumerate(self.names) if name not in ("", BATCH)}

    @property
    def in_front(self) -> tuple[str, ...]:
        """The same names with the rows in front, as the graph has them."""
        return (BATCH, *(name for name in self.names if name != BATCH))

    def swapped(self) -> "Axes":
        """The first two axes for one another."""
        first, second, *rest = self.names
        return Axes((second, first, *rest))

    def __str__(self) -> str:
        return " ".join(name or FIXED for name in self.names)


def read_axes(text: str, shape: Sequence[int], tensor: str) -> Axes:
    """The axes that `text` names, held against the shape of an example.

    Raises:
        DescriptionError: another number of axes, another fixed size, no or two axes of rows.
    """
    words = text.split()
    if len(words) != len(shape):
        raise DescriptionError(
            f"axes of {tensor!r}: {text!r} names {len(words)}, the example has {len(shape)}"
            f" ({list(shape)}); {NOTATION}"
        )
    for word, size in zip(words, shape, strict=True):
        if word.isdigit() and int(word) != size:
            raise DescriptionError(f"axes of {tensor!r}: {text!r} says {word}, the example has {size} there")
        if not (word.isdigit() or word == FIXED or word.isidentifier()):
            raise DescriptionError(f"axes of {tensor!r}: {word!r} is no name; {NOTATION}")
    if words.count(BATCH) != 1:
        raise DescriptionError(
            f"axes of {tensor!r}: {text!r} has {words.count(BATCH)} axes named {BATCH!r}; name the one that"
            " holds the rows"
        )
    return Axes(tuple("" if word.isdigit() or word == FIXED else word for word in words))

"""The notation for axes: "batch words 128" names each axis of a tensor, in order.

batch      the batch axis: any number of rows, independent of each other
words      any other name: an axis that varies; equal names have equal lengths in all tensors
128  or _  an axis of fixed size
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lockstep_export.errors import DescriptionError

BATCH, FIXED = "batch", "_"
NOTATION = 'write one word per axis, as in "batch words" or "batch words 128"'


@dataclass(frozen=True)
class Axes:
    """The axes of one tensor in the module's order: a name for each that varies, "" for a fixed one."""

    names: tuple[str, ...]

    @property
    def batch(self) -> int:
        """The index of the batch axis."""
        return self.names.index(BATCH)

    @property
    def lengths(self) -> dict[int, str]:
        """The axes that vary with a named length: index → name."""
        return {axis: name for axis, name in enumerate(self.names) if name not in ("", BATCH)}

    @property
    def graph_axes(self) -> tuple[str, ...]:
        """The names with the batch axis first, as in the graph."""
        return (BATCH, *(name for name in self.names if name != BATCH))

    def swapped(self) -> "Axes":
        """The same axes with the first two exchanged."""
        first, second, *rest = self.names
        return Axes((second, first, *rest))

    def __str__(self) -> str:
        return " ".join(name or FIXED for name in self.names)


def read_axes(text: str, shape: Sequence[int], tensor: str) -> Axes:
    """Parses axes and checks them against the shape of an example.

    Raises:
        DescriptionError: the number of axes or a fixed size differs, or there is not exactly one batch axis.
    """
    words = text.split()
    if len(words) != len(shape):
        raise DescriptionError(
            f"axes of {tensor!r}: {text!r} names {len(words)}, but the example has {len(shape)}"
            f" ({list(shape)}); {NOTATION}"
        )
    for word, size in zip(words, shape, strict=True):
        if word.isdigit() and int(word) != size:
            raise DescriptionError(
                f"axes of {tensor!r}: {text!r} has size {word} where the example has {size}"
            )
        if not (word.isdigit() or word == FIXED or word.isidentifier()):
            raise DescriptionError(f"axes of {tensor!r}: {word!r} is not a valid name; {NOTATION}")
    if words.count(BATCH) != 1:
        raise DescriptionError(
            f"axes of {tensor!r}: {text!r} has {words.count(BATCH)} axes named {BATCH!r}; name exactly one,"
            " the one with the rows"
        )
    return Axes(tuple("" if word.isdigit() or word == FIXED else word for word in words))


@dataclass(frozen=True)
class ModuleOutput:
    """One output of a module: its axes in the module's order, and the sizes of the fixed ones."""

    name: str
    axes: Axes
    shape: tuple[int, ...]
    batch_first: bool = True  # in the graph; False keeps the module's axes

    @property
    def batch_axis(self) -> int:
        """The index of the batch axis in the graph."""
        return 0 if self.batch_first else self.axes.batch

    @property
    def graph_axes(self) -> tuple[str, ...]:
        """The names of the axes in the graph, "" for a fixed one."""
        return self.axes.graph_axes if self.batch_first else self.axes.names

    @property
    def width(self) -> int | None:
        """The size of the last axis; None if it varies."""
        return None if self.axes.names[-1] else self.shape[-1]

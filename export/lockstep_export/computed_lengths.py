"""Lengths of outputs that follow from those of inputs, such as the frames that strided convolutions make.

sizes that the module returns for inputs of many sizes → `fit` → "ceil(samples / 4)", the name of the axis, as
the manifest writes it → `value`: the size for a row of a given length
"""

import math
import re
from collections.abc import Callable, Mapping

_STRIDED = re.compile(r"(?:\((?P<sum>\w+) (?P<sign>[+-]) (?P<added>\d+)\)|(?P<name>\w+)) // (?P<stride>\d+)")
_CEILING = re.compile(r"ceil\((?P<name>\w+) / (?P<stride>\d+)\)")
_LINEAR = re.compile(r"(?:(?P<factor>\d+) \* )?(?P<name>\w+)(?: (?P<sign>[+-]) (?P<added>\d+))?")


def fit(name: str, size_of: Callable[[int], int], longest: int) -> str:
    """A formula of the length `name` that gives the sizes of an output; "" if none does.

    It finds `size // k`, `ceil(size / k)` and `(size + a) // k`, which are the sizes after any convolutions
    and poolings, and `f * size + a`.

    Args:
        size_of: the size of the output for an input of so many elements.
        longest: the longest input that may be tried.
    """
    one = _next_change(size_of, 1, longest)
    two = one and _next_change(size_of, one, longest)
    if one is None:
        return ""
    stride, step = (two or one + 1) - one, size_of(one) - size_of(one - 1)
    if step == 1 and two is not None and stride > 1:
        added = size_of(one) * stride - one
        found = _strided(name, stride, added)
    else:
        found = _linear(name, step, size_of(one) - step * one)
    tried = {1, longest, *(min(one + stride * part // 3, longest) for part in range(20))}
    return found if found and all(value(found, {name: n}) == size_of(n) for n in sorted(tried)) else ""


def _next_change(size_of: Callable[[int], int], start: int, longest: int) -> int | None:
    """The smallest length above `start` with another size than it has; None if there is none."""
    first, step, below = size_of(start), 1, start
    while size_of(min(start + step, longest)) == first:
        if start + step >= longest:
            return None
        below, step = start + step, step * 2
    above = min(start + step, longest)
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if size_of(middle) == first else (below, middle)
    return above


def _strided(name: str, stride: int, added: int) -> str:
    if added == stride - 1:
        return f"ceil({name} / {stride})"
    return f"({_linear(name, 1, added)}) // {stride}" if added else f"{name} // {stride}"


def _linear(name: str, factor: int, added: int) -> str:
    scaled = name if factor == 1 else f"{factor} * {name}"
    return (scaled + (f" {'+' if added > 0 else '-'} {abs(added)}" if added else "")) if factor > 0 else ""


def value(axis: str, lengths: Mapping[str, int]) -> int | None:
    """The size of an axis in a row of these lengths; None if it is fixed, or follows none of them."""
    if axis in lengths:
        return lengths[axis]
    if found := _CEILING.fullmatch(axis):
        size = lengths.get(found["name"])
        return None if size is None else math.ceil(size / int(found["stride"]))
    if found := _STRIDED.fullmatch(axis):
        inner = value(
            f"{found['sum']} {found['sign']} {found['added']}" if found["sum"] else found["name"], lengths
        )
        return None if inner is None else inner // int(found["stride"])
    if (found := _LINEAR.fullmatch(axis)) and found["name"] in lengths:
        added = int(found["added"] or 0)
        return int(found["factor"] or 1) * lengths[found["name"]] + (
            -added if found["sign"] == "-" else added
        )
    return None

"""Lengths that are computed from others, such as the frames that a strided model makes of samples.

`"ceil(samples / 320)"` → `parse` → `Formula` → `Formula.value({"samples": 1000})` → 4

Numbers are exact: a quotient is a fraction until `//`, `ceil` or `floor` makes an integer of it.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Number = int | Fraction
    Value = Callable[[Mapping[str, int]], Number]

_MAX_CHARACTERS = 200
_LARGEST = 2**31
_EXPECTED = "use +, -, *, /, //, ceil, floor, min and max of numbers and lengths, such as ceil(samples / 320)"

_FUNCTIONS: Mapping[str, tuple[Callable[..., Number], int, int]] = {
    "ceil": (math.ceil, 1, 1),
    "floor": (math.floor, 1, 1),
    "min": (min, 1, 8),
    "max": (max, 1, 8),
}
"""A function, and its fewest and most arguments."""

_OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: lambda one, other: one + other,
    ast.Sub: lambda one, other: one - other,
    ast.Mult: lambda one, other: one * other,
    ast.Div: lambda one, other: Fraction(one) / other,
    ast.FloorDiv: lambda one, other: one // other,
}


@dataclass(frozen=True)
class Formula:
    """A length as a function of others, whose names are `names`."""

    text: str
    names: frozenset[str]
    compute: Value

    def value(self, lengths: Mapping[str, int]) -> int:
        """
        Raises:
            ValueError: it divides by zero, or is no integer.
        """
        try:
            found = self.compute(lengths)
        except ZeroDivisionError:
            raise ValueError("it divides by zero") from None
        if found.denominator != 1:
            raise ValueError(f"it is {float(found):g}, not an integer; use //, ceil or floor")
        return int(found)


@lru_cache(maxsize=1024)
def parse(text: str) -> Formula:
    """
    Raises:
        ValueError: it is no formula. Says what is allowed.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"use at most {_MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(_EXPECTED) from None
    names: set[str] = set()
    compute = _value(tree, names)
    return Formula(text, frozenset(names), compute)


def _value(node: ast.expr, names: set[str]) -> Value:
    match node:
        case ast.Name(name):
            names.add(name)
            return lambda lengths: lengths[name]
        case ast.Constant(int() | float() as constant) if type(constant) is not bool:
            if not abs(constant) <= _LARGEST:
                raise ValueError(f"use numbers up to {_LARGEST}")
            exact = constant if isinstance(constant, int) else Fraction(str(constant))
            return lambda _: exact
        case ast.UnaryOp(ast.USub(), operand):
            inner = _value(operand, names)
            return lambda lengths: -inner(lengths)
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            combine = _OPERATORS[type(operator)]
            one, other = _value(left, names), _value(right, names)
            return lambda lengths: combine(one(lengths), other(lengths))
        case ast.Call(ast.Name(called), list(given), []) if called in _FUNCTIONS:
            function, fewest, most = _FUNCTIONS[called]
            if not fewest <= len(given) <= most:
                counts = f"{fewest}" if fewest == most else f"{fewest} to {most}"
                raise ValueError(f"{called} has {len(given)} arguments; give it {counts}")
            arguments = [_value(argument, names) for argument in given]
            return lambda lengths: function(*(argument(lengths) for argument in arguments))
    raise ValueError(_EXPECTED)


def fit(name: str, size_of: Callable[[int], int], shortest: int, longest: int) -> str:
    """A simple formula of the length `name` that gives the sizes that a graph's output has; "" if none does.

    It finds `size // stride`, `ceil(size / stride)`, `(size + a) // stride`, which is the size after any
    convolutions and poolings, and `factor * size + a`.

    Args:
        size_of: the size of the output for an input of so many elements.
        shortest, longest: the lengths that may be tried.
    """
    first = size_of(shortest)
    one = next_change(size_of, shortest, longest)
    if one is None:
        return ""
    step = size_of(one) - first
    two = next_change(size_of, one, longest)
    stride = (two or one + 1) - one
    found = ""
    if stride == 1 and one == shortest + 1:
        found = _linear(name, step, first - step * shortest)
    elif step == 1 and two is not None:
        found = _strided(name, stride, size_of(one) * stride - one)
    if not found:
        return ""
    formula = parse(found)
    tried = {one + stride * part // 3 for part in range(20)} | {shortest + 1}
    fits = all(formula.value({name: n}) == size_of(n) for n in tried if shortest <= n <= longest)
    return found if fits else ""


def next_change(size_of: Callable[[int], int], start: int, longest: int) -> int | None:
    """The smallest length above `start` with another size than it has; None if there is none."""
    first, step = size_of(start), 1
    below = start
    while size_of(min(start + step, longest)) == first:
        if start + step >= longest:
            return None
        below, step = start + step, step * 2
    above = min(start + step, longest)
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if size_of(middle) == first else (below, middle)
    return above


def _linear(name: str, factor: int, added: int) -> str:
    scaled = name if factor == 1 else f"{factor} * {name}"
    return scaled + (f" + {added}" if added > 0 else f" - {-added}" if added < 0 else "")


def _strided(name: str, stride: int, added: int) -> str:
    if added == stride - 1:
        return f"ceil({name} / {stride})"
    inner = _linear(name, 1, added)
    return f"({inner}) // {stride}" if added else f"{name} // {stride}"

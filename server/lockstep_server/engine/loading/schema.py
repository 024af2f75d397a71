"""Checked reading of TOML tables.

A value type is a function that converts a TOML value, such as `count` or `boolean`; it raises ValueError
with the values that it accepts. Every LoadError names the file, the full key and how to fix it.
"""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from ...durations import LARGEST_COUNT, bounded_s
from ...errors import LoadError
from ...model import lengths

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MAX_THREADS = 256
_INT64 = 2**63
_MAX_AXIS_DIGITS = 4


class TomlTable:
    """A TOML table that remembers which keys were read, to reject the others.

    `prefix` is the table's key in the file, with a trailing dot. All methods raise LoadError.
    """

    def __init__(self, content: Any, file: str, prefix: str) -> None:
        self.file, self.prefix = file, prefix
        self.content: dict[str, Any] = content
        self.known: set[str] = set()

    def error(self, key: str, why: str) -> LoadError:
        return LoadError(f"{self.file}: {self.prefix}{key}: {why}")

    def optional(self, key: str, convert: Callable[[Any], T]) -> T | None:
        self.known.add(key)
        if key not in self.content:
            return None
        try:
            return convert(self.content[key])
        except ValueError as error:
            raise self.error(key, f"invalid value {self.content[key]!r}; {error}") from None

    def get(self, key: str, convert: Callable[[Any], T], default: T) -> T:
        value = self.optional(key, convert)
        return default if value is None else value

    def require(self, key: str, convert: Callable[[Any], T]) -> T:
        value = self.optional(key, convert)
        if value is None:
            raise self.error(key, "missing; add this key")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.get(key, string, default)
        if value not in choices and value != default:
            raise self.error(key, f"invalid value {value!r}; use one of {', '.join(choices)}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value: Any = self.optional(key, anything) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, 'invalid value; use a list of strings: ["negative", "positive"]')
        return tuple(value)

    def table(self, key: str, build: Callable[[TomlTable], T]) -> T | None:
        """Build the value of the table `[key]`; None if there is no such table."""
        self.known.add(key)
        return self._build(key, self.content[key], build) if key in self.content else None

    def tables(self, key: str, build: Callable[[TomlTable], T]) -> dict[str, T]:
        """Build the value of every table `[key.NAME]`, by name."""

        def build_all(table: TomlTable) -> dict[str, T]:
            table.known.update(table.content)
            return {name: table._build(name, value, build) for name, value in table.content.items()}

        return self.table(key, build_all) or {}

    def array(self, key: str, build: Callable[[TomlTable], T]) -> tuple[T, ...]:
        """Build the value of every table of the array `[[key]]`."""
        self.known.add(key)
        items = self.content.get(key, [])
        if not isinstance(items, list):
            raise self.error(key, f"not an array of tables; write [[{self.prefix}{key}]] for each item")
        return tuple(self._build(f"{key}[{i}]", item, build) for i, item in enumerate(items))

    def _build(self, key: str, value: Any, build: Callable[[TomlTable], T]) -> T:
        if not isinstance(value, dict):
            raise self.error(key, f"{value!r} is not a table; write [{self.prefix}{key}]")
        table = TomlTable(value, self.file, f"{self.prefix}{key}.")
        built = build(table)
        table.reject_unknown_keys()
        return built

    def reject_unknown_keys(self) -> None:
        """Raise LoadError if the table has a key that was never read."""
        for key in self.content:
            if key not in self.known:
                close = difflib.get_close_matches(key, self.known, 1)
                known = ", ".join(sorted(self.known))
                hint = f"did you mean {close[0]!r}?" if close else f"available here: {known}"
                raise self.error(key, f"unknown key; {hint}")


# --- value types ------------------------------------------------------------------------------------


def string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("use a non-empty string")
    return value


def relative_path(value: Any) -> str:
    name = string(value)
    if name.startswith(("/", "\\")) or "://" in name:
        raise ValueError("use a path relative to this file, inside the model repository")
    return name


def formula(value: Any) -> str:
    """A length that is computed from others."""
    return lengths.parse(string(value)).text


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("use true or false")  # noqa: TRY004
    return value


def integer(value: Any, minimum: int, maximum: int = LARGEST_COUNT) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"use a whole number of {minimum} or more")
    if value > maximum:
        raise ValueError(f"use a whole number of at most {maximum}")
    return value


def count(value: Any) -> int:
    return integer(value, 1)


def index(value: Any) -> int:
    return integer(value, 0)


def position(value: Any) -> int:
    return integer(value, -LARGEST_COUNT)


def ids(value: Any) -> tuple[int, ...]:
    """An id, or a list of them."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("use an id, or a list of ids: [2, 7]")
    return tuple(map(index, values))


def threads(value: Any) -> int:
    """Threads of a session. ONNX Runtime starts them all, and ends the process if it cannot."""
    return integer(value, 1, _MAX_THREADS)


def number(value: Any) -> float:
    if not isinstance(value, bool | int | float):
        raise ValueError("use a number, true or false")  # noqa: TRY004
    if isinstance(value, int) and abs(value) > 2**53:
        raise ValueError("use an integer from -2^53 to 2^53")
    return float(value)


def positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ValueError("use a finite number above 0")
    return float(value)


def truth(value: Any) -> float:
    if value not in (0, 1):
        raise ValueError("use true or false")
    return float(value)


def seconds(value: Any) -> float:
    """A duration; more than a year counts as a year."""
    return bounded_s(positive(value))


def milliseconds(value: Any) -> float:
    """A duration in milliseconds; more than a year counts as a year."""
    return bounded_s(positive(value) / 1000) * 1000


def id_range(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int for v in value):
        raise ValueError("use [FIRST, END], two whole numbers, END excluded")
    if not all(-_INT64 <= v < _INT64 for v in value):
        raise ValueError("use [FIRST, END], two 64-bit integers")
    if value[0] >= value[1]:
        raise ValueError("use [FIRST, END] with FIRST below END")
    return value[0], value[1]


def axes(value: Any) -> dict[int, str]:
    if not isinstance(value, dict):
        raise ValueError('use a table from axis to named length: {1 = "words"}')  # noqa: TRY004
    return {_axis(axis, '{1 = "words"}'): string(name) for axis, name in value.items()}


def sizes(value: Any) -> dict[int, int]:
    if not isinstance(value, dict):
        raise ValueError("use a table from axis to size: {1 = 1}")  # noqa: TRY004
    return {_axis(axis, "{1 = 1}"): integer(size, 0) for axis, size in value.items()}


def _axis(key: str, example: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < _MAX_AXIS_DIGITS):
        raise ValueError(f"axis {key!r} is not a number; use {example}")
    return int(key)


def anything(value: Any) -> Any:
    return value

"""Reading TOML by a schema: tables that hand out each key once, and the kinds of value they hold.

Every error names the file, the key with its place, and the remedy. A kind is a function from what
TOML gave to the value wanted; it raises ValueError with the remedy.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class TomlTable:
    """A TOML table that knows its place, hands out each key once, and refuses what is left over."""

    def __init__(self, content: Any, file: str, place: str) -> None:
        self.file, self.place = file, place
        self.content: dict[str, Any] = content
        self.known: set[str] = set()

    def fault(self, key: str, why: str) -> LoadError:
        return LoadError(f"{self.file}: {self.place}{key}: {why}")

    def optional(self, key: str, kind: Callable[[Any], T]) -> T | None:
        self.known.add(key)
        if key not in self.content:
            return None
        try:
            return kind(self.content[key])
        except ValueError as error:
            raise self.fault(key, f"{self.content[key]!r} does not fit; {error}") from None

    def get(self, key: str, kind: Callable[[Any], T], default: T) -> T:
        value = self.optional(key, kind)
        return default if value is None else value

    def need(self, key: str, kind: Callable[[Any], T]) -> T:
        value = self.optional(key, kind)
        if value is None:
            raise self.fault(key, "is missing; add it")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.get(key, string, default)
        if value not in choices and value != default:
            raise self.fault(key, f"{value!r} is not known; write one of {', '.join(choices)}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value: Any = self.optional(key, anything) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.fault(key, 'write a list of strings: ["negative", "positive"]')
        return tuple(value)

    def table(self, key: str, build: Callable[[TomlTable], T]) -> T | None:
        self.known.add(key)
        return self._build(key, self.content[key], build) if key in self.content else None

    def tables(self, key: str, build: Callable[[TomlTable], T]) -> dict[str, T]:
        def named(table: TomlTable) -> dict[str, T]:
            table.known.update(table.content)
            return {name: table._build(name, value, build) for name, value in table.content.items()}

        return self.table(key, named) or {}

    def rows(self, key: str, build: Callable[[TomlTable], T]) -> tuple[T, ...]:
        self.known.add(key)
        items = self.content.get(key, [])
        if not isinstance(items, list):
            raise self.fault(key, f"write [[{self.place}{key}]], once for each")
        return tuple(self._build(f"{key}[{i}]", item, build) for i, item in enumerate(items))

    def _build(self, key: str, value: Any, build: Callable[[TomlTable], T]) -> T:
        if not isinstance(value, dict):
            raise self.fault(key, f"{value!r} is not a table; write [{self.place}{key}]")
        table = TomlTable(value, self.file, f"{self.place}{key}.")
        built = build(table)
        table.done()
        return built

    def done(self) -> None:
        for key in self.content:
            if key not in self.known:
                close = difflib.get_close_matches(key, self.known, 1)
                hint = (
                    f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(self.known))}"
                )
                raise self.fault(key, f"unknown key; {hint}")


def string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("write a string that is not empty")
    return value


def file(value: Any) -> str:
    name = string(value)
    if name.startswith(("/", "\\")) or "://" in name:
        raise ValueError("write a path relative to this file, inside the model repository")
    return name


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("write true or false")  # noqa: TRY004
    return value


def integer(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"write a whole number of {least} or more")
    return value


def count(value: Any) -> int:
    return integer(value, 1)


def index(value: Any) -> int:
    return integer(value, 0)


def number(value: Any) -> float:
    if not isinstance(value, bool | int | float):
        raise ValueError("write a number, true or false")  # noqa: TRY004
    return value


def positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError("write a number above 0")
    return float(value)


def id_range(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int for v in value):
        raise ValueError("write [FIRST, END], two whole numbers, END excluded")
    if value[0] >= value[1]:
        raise ValueError("write [FIRST, END] with FIRST below END")
    return value[0], value[1]


def axes(value: Any) -> dict[int, str]:
    if not isinstance(value, dict):
        raise ValueError('write a table of axes and named lengths: {1 = "words"}')  # noqa: TRY004
    axes = {}
    for axis, name in value.items():
        if not axis.isdigit():
            raise ValueError(f'axis {axis!r} is not a number; write {{1 = "words"}}')
        axes[int(axis)] = string(name)
    return axes


def anything(value: Any) -> Any:
    return value

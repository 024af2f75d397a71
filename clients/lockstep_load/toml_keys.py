"""Typed access to the keys of one [[run]]. Errors name the file, run, key and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from lockstep_load import lengths_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_load.lengths import Lengths

T = TypeVar("T")


@dataclass(frozen=True)
class TomlKeys:
    """The keys of one [[run]]. Methods raise ValueError if a key is missing or has the wrong type."""

    where: str
    keys: dict[str, Any]

    def wrong(self, key: str, remedy: str) -> ValueError:
        return ValueError(f"{self.where}: {key} = {self.keys[key]!r}: {remedy}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.keys.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "use a string")
        return value

    def number(self, key: str, default: float | None = None, *, minimum: float | None = None) -> float:
        value = self.keys.get(key, default)
        if not _is_number(value) or not (value > 0 if minimum is None else value >= minimum):
            raise self.wrong(key, "use a number above 0" if minimum is None else f"use {minimum:g} or more")
        return float(value)

    def whole(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        value = self.keys.get(key, default)
        if type(value) is not int or value < minimum:
            raise self.wrong(key, f"use an integer of {minimum} or more")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        values = self.keys[key]
        if not isinstance(values, list) or not values:
            raise self.wrong(key, "use a list of numbers")
        for value in values:
            if (
                type(value) not in (int, float)
                or not 0 <= value < float("inf")
                or (key == "rates" and value == 0)
            ):
                raise self.wrong(key, "use a list of numbers above 0")
        return tuple(values)

    def one_of(self, key: str, choices: Sequence[T], default: T | None = None) -> T:
        value = self.keys.get(key, default)
        for one in choices:
            if value == one:
                return one
        if key not in self.keys:
            raise ValueError(f"{self.where}: {key!r} is missing; use one of {', '.join(map(str, choices))}")
        raise self.wrong(key, f"use one of {', '.join(map(str, choices))}")

    def lengths(self, key: str, default: str = "") -> Lengths:
        value = self.keys.get(key, default)
        try:
            return lengths_file.resolve_lengths(str(value))
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None

    def named(self, key: str) -> dict[str, str]:
        value = self.keys.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "use a table of inputs")
        return {name: str(one) for name, one in value.items()}


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < float("inf")

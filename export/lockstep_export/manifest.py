"""Writes model.toml: how the server feeds the graphs and what their outputs mean.

The manifest and the files beside it are all that the server knows of this package. A trade puts it together
from plain tables; this file gives them names and writes them down.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Table = dict[str, Any]

BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that need no quotes


def tensor(*lengths: tuple[int, str], batch_axis: int = 0, **more: Any) -> Table:
    """One input or output: the axis of the rows, and the axes that grow with a named length."""
    axes: Table = {"lengths": dict(lengths)} if lengths else {}
    return {"batch_axis": batch_axis, **axes, **more}


def ids(vocabulary: int, *lengths: tuple[int, str]) -> Table:
    """An input of token ids in [0, vocabulary), padded with 0 where it grows."""
    padding: Table = {"pad": 0} if lengths else {}
    return tensor(*lengths, **padding, range=[0, vocabulary])


def lengths_of(name: str) -> Table:
    """The input that tells how long each row is; the server fills it in."""
    return tensor(generated="lengths", of=name)


def mask_of(name: str) -> Table:
    """The input [rows, name] that is true on real elements; the server fills it in."""
    return tensor((1, name), generated="mask", of=name, real=True)


def write(about: str, table: Mapping[str, Any]) -> str:
    """The whole file; `about` becomes one line."""
    return f"# {' '.join(about.split())}. Written by lockstep-export.\n{_body(table)}{_tables(table, '')}"


def _tables(table: Mapping[str, Any], path: str) -> str:
    text = ""
    for key, value in table.items():
        name = f"{path}.{_key(key)}" if path else _key(key)
        if _is_table(value):
            body = _body(value)
            text += (f"\n[{name}]\n{body}" if body else "") + _tables(value, name)
        elif _is_rows(value):
            text += "".join(f"\n[[{name}]]\n{_body(row)}" for row in value)
    return text


def _body(table: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in table.items() if not _is_table(value) and not _is_rows(value)}
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in plain.items())


def _is_table(value: Any) -> bool:
    """A mapping of axes to lengths is none: it is written within its tensor's line."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, -inf, nan: JSON has other words for them
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: Any) -> str:
    text = str(key)
    return text if BARE.fullmatch(text) else _value(text)

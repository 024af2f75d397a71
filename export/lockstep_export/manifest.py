"""Writes model.toml: the tensors of the graphs and their roles.

The server knows only the manifest and the files beside it. Tables are built by model_toml.py and by the tasks
of the zoo; this module names their parts and formats them as TOML.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

Table = dict[str, Any]

TASKS = ("tensor", "classify", "token-classification", "encode", "generate", "translate")
"""What a graph that others exported may do."""

Kind = Literal["fp16", "int8", "int8-dynamic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The narrower numbers of a variant (precision.py)."""

BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that need no quotes


def tensor(*lengths: tuple[int, str], batch_axis: int = 0, **more: Any) -> Table:
    """One input or output: its batch axis, and the axes that vary with a named length."""
    axes: Table = {"lengths": dict(lengths)} if lengths else {}
    return {"batch_axis": batch_axis, **axes, **more}


def ids(vocabulary: int, *lengths: tuple[int, str]) -> Table:
    """An input of token ids in [0, vocabulary); axes that vary are padded with 0."""
    padding: Table = {"pad": 0} if lengths else {}
    return tensor(*lengths, **padding, range=[0, vocabulary])


def lengths_of(name: str) -> Table:
    """The input [rows] with the length of each row; the server generates it."""
    return tensor(generated="lengths", of=name)


def mask_of(name: str) -> Table:
    """The input [rows, name] that is true for real elements; the server generates it."""
    return tensor((1, name), generated="mask", of=name, real=True)


def write(about: str, table: Mapping[str, Any]) -> str:
    """The whole file; `about` becomes its first line."""
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
    """False for a mapping of axes to lengths, which is written inline."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, -inf, nan: JSON spells them differently
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: Any) -> str:
    text = str(key)
    return text if BARE.fullmatch(text) else _value(text)

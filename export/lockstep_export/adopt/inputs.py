"""What the inputs of a graph mean that are no states: ids, masks, positions, lengths, constants, data.

name, type and axes → `Meaning`, and with the graph's role → its table in model.toml
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lockstep_export.adopt.graph import FLOATS, INTEGERS, Graph, GraphTensor
from lockstep_export.adopt.report import Report
from lockstep_export.adopt.source import Source
from lockstep_export.manifest import Table

Meaning = Literal["ids", "mask", "types", "positions", "lengths", "constant", "data"]

_IDS = re.compile(
    r"^(decoder_)?(input_?ids|ids|inputs?|tokens?|token_?ids|text|words?|chars?|src(_tokens)?|source|x|y|prev_output_tokens)$",
    re.IGNORECASE,
)
_LENGTHS = re.compile(r"(^|_)(lengths?|lens?)$|_lens?gths?$|^x_?lens$", re.IGNORECASE)
_KNOWN_VALUES = {"sr": 16000, "sample_rate": 16000, "sampling_rate": 16000}
_GUESS = "the usual one of speech models; nothing says it"


@dataclass(frozen=True)
class Described:
    """An input and what it means."""

    tensor: GraphTensor
    meaning: Meaning
    why: str


def describe_inputs(graph: Graph, states: Iterable[str]) -> dict[str, Described]:
    """What each input means that is no state, by name."""
    carried = set(states)
    found = {}
    for tensor in graph.inputs:
        if tensor.name not in carried:
            meaning, why = _meaning(graph, tensor)
            found[tensor.name] = Described(tensor, meaning, why)
    return found


def _meaning(graph: Graph, tensor: GraphTensor) -> tuple[Meaning, str]:
    name, is_integer = tensor.name.lower(), tensor.kind in INTEGERS
    if tensor.is_scalar or tensor.shape == ():
        return "constant", "it is one number"
    if "mask" in name and tensor.rank == 2:
        return "mask", "its name"
    if is_integer and re.search(r"token_?type|segment", name):
        return "types", "its name"
    if is_integer and re.search(r"position", name):
        return "positions", "its name"
    if is_length(tensor):
        return "lengths", "its name"
    if is_integer and tensor.rank <= 2 and tensor.name in graph.tables:
        return "ids", f"it selects from a table of {graph.tables[tensor.name]} rows"
    if is_integer and tensor.rank <= 2 and _IDS.match(tensor.name):
        return "ids", "its name"
    return "data", f"{'numbers' if tensor.kind in FLOATS else tensor.kind} that callers send"


def is_length(tensor: GraphTensor) -> bool:
    """Whether it has the length of each row, by its name, type and axes."""
    return tensor.kind in INTEGERS and tensor.rank == 1 and bool(_LENGTHS.search(tensor.name))


def ids_of(found: dict[str, Described]) -> GraphTensor | None:
    """The input of token ids, if there is exactly one."""
    ids = [one.tensor for one in found.values() if one.meaning == "ids"]
    return ids[0] if len(ids) == 1 else None


def vocabulary(graph: Graph, ids: GraphTensor, source: Source, report: Report) -> int | None:
    """The number of ids that an input takes."""
    rows, config = graph.tables.get(ids.name), source.number("vocab_size")
    if rows is not None:
        report.decide(ids.name, f"ids 0 to {rows - 1}", f"its table has {rows} rows")
        return rows
    if config is not None:
        report.decide(ids.name, f"ids 0 to {config[0] - 1}", "vocab_size of config.json")
        return config[0]
    return None


def constant_table(tensor: GraphTensor, section: str, source: Source, report: Report) -> Table:
    """The table of a constant: {} if its value is unknown, so that callers send it."""
    name = tensor.name.lower()
    if name in _KNOWN_VALUES:
        rate = source.preprocessor.get("sampling_rate")
        value = int(rate) if isinstance(rate, int) else _KNOWN_VALUES[name]
        why = "sampling_rate of preprocessor_config.json" if isinstance(rate, int) else _GUESS
        report.decide(tensor.name, f"the constant {value}", why)
        if not isinstance(rate, int):
            text = f"{tensor.name}: {value} is a guess."
            report.ask(text, f"{section}.inputs.{tensor.name}", f"value = {value}")
        return {"value": value}
    example = "true" if tensor.kind == "BOOL" else "1"
    report.ask(
        f"{tensor.name} is one number; callers must send it unless it has a value.",
        f"{section}.inputs.{tensor.name}",
        f"value = {example}",
    )
    return {}

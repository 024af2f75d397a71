"""Exports of sample modules that several test files need. Each is made once per test run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from made_once import made_once
from torch import nn
from unit.export.sample_modules import (
    LENGTHS,
    STEP,
    TOKENS,
    WITH_LENGTHS,
    WITHOUT,
    Decoder,
    Language,
    Last,
    Prompt,
    Reader,
    Step,
    cached,
    prefilled,
)

from lockstep_export import Generate, export_oneshot, export_stepwise

RECURRENT = ("RNN-2", "GRU-1", "LSTM-2")
"""Kinds and numbers of layers."""
PROMPTED = ("prefilled", "cached", "cached-prefilled")
"""Language models whose steps are written by their author."""
OTHERS = ("language", "step", "wide", "second")
"""A derived language model; a step that its author wrote; an LSTM whose weights are shared by its graphs; a
one-shot module with its batch axis second, which takes one row at a time."""


class SampleExport(NamedTuple):
    """An export: the folder with model.toml, which is shared and not to be changed, and its proof."""

    folder: Path
    worst: float
    comparisons: set[str]
    training: bool  # whether the module was in training mode afterwards


def arguments(name: str) -> dict[str, Any]:
    """The arguments of the export without the folder; the module has the same weights each time."""
    torch.manual_seed(4)
    if name == "prefilled":
        return prefilled(Prompt())
    if name in PROMPTED:
        return cached(Decoder(), prefill=name == "cached-prefilled")
    if name == "language":
        task = Generate(max_tokens=90)
        more = {"axes": "batch words", "task": task, "report": lambda _: None}
        return {"module": Language(), "example": TOKENS, **more}
    if name == "step":
        return {"module": Step(), **STEP, "initial": {"c": 0.5}}
    if name == "wide":
        module = Reader("LSTM")
        module.recurrence, module.head = nn.LSTM(6, 64, batch_first=True), nn.Linear(64, 2)
        return {"module": module, "example": (TOKENS, LENGTHS), **WITH_LENGTHS}
    if name == "second":
        return {"module": Last(), "example": TOKENS, **WITHOUT, "axes": "words batch", "max_rows": 1}
    kind, layers = name.split("-")
    return {"module": Reader(kind, int(layers)), "example": (TOKENS, LENGTHS), **WITH_LENGTHS}


def sample_export(name: str) -> SampleExport:
    """The export of one of RECURRENT, PROMPTED and OTHERS."""
    folder = made_once(f"export-{name}", lambda folder: _export(name, folder))
    found = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    return SampleExport(folder / "model", found["worst"], set(found["comparisons"]), found["training"])


def _export(name: str, folder: Path) -> None:
    given = arguments(name)
    export = export_oneshot if name == "second" else export_stepwise
    parity = export(folder=folder / "model", **given)
    found = {
        "worst": parity.worst,
        "comparisons": sorted({gap.comparison for gap in parity.differences}),
        "training": given["module"].training,
    }
    (folder / "proof.json").write_text(json.dumps(found), encoding="utf-8")

"""The step-wise face: one element and the states in, an answer and the next states out.

with `states`   the module is one step, as its author wrote it → step.onnx
without         the module reads whole sequences: both faces are made of it, with the same weights on disk
                → model.onnx, step.onnx, weights.bin
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from lockstep_export import manifest
from lockstep_export.checks import check_module
from lockstep_export.contract import Example, InputContract
from lockstep_export.derive_step import OTHERWISE, DerivedStep, check_derivable, derive
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.graph_module import GraphModule
from lockstep_export.model_toml import table, words
from lockstep_export.oneshot import ONESHOT, about, evaluated, graph_spec, tell
from lockstep_export.onnx import export_onnx
from lockstep_export.options import ServingOptions
from lockstep_export.parity import Difference, Parity
from lockstep_export.parity import table as told
from lockstep_export.parse_spec import parse_spec
from lockstep_export.proof import COMPANY, prove
from lockstep_export.publication import drafting, publish
from lockstep_export.samples import draw
from lockstep_export.step_module import EXAMPLE_ROWS, STEP, StepModule
from lockstep_export.step_proof import LENGTHS, WHOLE, ProofBatch, alone, at_once, elements, prove_steps
from lockstep_export.tracer_fallback import opened, proven, traced
from lockstep_export.tracing import Tracer
from lockstep_export.written_step import written_step


def export_stepwise(
    module: nn.Module,
    example: Example,
    folder: Path | str,
    *,
    axes: str | Sequence[str] | Mapping[str, str],
    states: Mapping[str, str] | None = None,
    initial: Mapping[str, float] | None = None,
    outputs: str | Sequence[str] = (),
    **serving: Unpack[ServingOptions],
) -> Parity:
    """Exports the step-wise face of a model, proves it and publishes it in `folder`.

    Without `states`, `module` reads whole sequences with nn.RNN, nn.GRU or nn.LSTM, and everything is said as
    for `export_oneshot`: both faces are published. With `states`, `module` is one step: `states` names, for
    each input that is carried, the output that takes its place in the next step, and `initial` what it
    starts as, where that is not 0.

    Raises:
        As `export_oneshot`.
    """
    twin = evaluated(module)
    contract = parse_spec(twin, example, axes, outputs, serving)
    if states is not None:
        return _step_alone(twin, contract, states, initial or {}, Path(folder))
    if initial:
        raise DescriptionError("initial: the module's own layers say what they start from; leave it out")
    return _both(twin, contract, Path(folder))


def _both(module: nn.Module, contract: InputContract, folder: Path) -> Parity:
    check_derivable(module, contract)
    face = GraphModule(module, contract, check_module(module, contract))
    derived = derive(module, contract, face.outputs)
    batches = _sequences(contract, derived, face)
    _check_derived(module, contract, derived, batches)

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        steps = derived.graph_spec(_example(batches[1], derived))
        export_onnx([graph_spec(traced(face, tracer)), steps], draft, tracer)
        oneshot, step = opened(draft / ONESHOT), opened(draft / STEP)
        return prove(contract, face.outputs, oneshot.run, face.answer) + [
            gap
            for batch in batches
            for gap in prove_steps(WHOLE, derived, step.run, batch, contract.choices.tolerance)
        ]

    with drafting(folder) as draft:
        parity = proven(folder.name, module, draft, attempt)
        text = table(contract, face.outputs) | {"stepwise": derived.table(contract.choices)}
        _publish(draft, folder, module, contract, text)
    return tell(parity, contract, folder)


def _sequences(contract: InputContract, derived: DerivedStep, face: GraphModule) -> list[ProofBatch]:
    """Ragged sequences in elements, and what the module says to each of their beginnings."""
    chance = torch.Generator().manual_seed(9)
    most = contract.longest[derived.time]
    found = []
    for lengths in LENGTHS:
        rows = [draw(contract, {derived.time: min(size, most)}, chance) for size in lengths]
        found.append(
            ProofBatch([elements(row, contract, derived.time) for row in rows], at_once(rows, face, derived))
        )
    return found


def _check_derived(
    module: nn.Module, contract: InputContract, derived: DerivedStep, batches: list[ProofBatch]
) -> None:
    """Steps equal the whole, in PyTorch already."""
    gaps = [
        gap
        for batch in batches
        for gap in prove_steps(WHOLE, derived, derived.answer, batch, contract.choices.tolerance)
    ]
    failed = Parity("", gaps).failed
    if failed:
        what = f"{type(module).__name__}: its own forward, one element at a time, answers otherwise"
        raise ModuleError(
            "\n  ".join([what, *told(failed)])
            + "\nBeside its recurrent layers, something in the module looks"
            " at more than one element: attention, a mean or maximum over time, a convolution, positions. A"
            f" step is given its element and the last states, so this cannot be stepped: {OTHERWISE}"
        )


def _step_alone(
    module: nn.Module,
    contract: InputContract,
    states: Mapping[str, str],
    initial: Mapping[str, float],
    folder: Path,
) -> Parity:
    face = written_step(module, contract, states, initial)
    chance = torch.Generator().manual_seed(9)
    batches = []
    for lengths in LENGTHS:
        rows = [[dict(draw(face.contract, {}, chance).inputs) for _ in range(size)] for size in lengths]
        batches.append(ProofBatch(rows, alone(face, rows)))

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        export_onnx([face.graph_spec(_example(batches[1], face))], draft, tracer)
        step = opened(draft / STEP)
        return [
            gap
            for batch in batches
            for gap in prove_steps(COMPANY, face, step.run, batch, contract.choices.tolerance)
        ]

    with drafting(folder) as draft:
        parity = proven(folder.name, module, draft, attempt)
        text = words(contract) | {"stepwise": face.table(contract.choices)}
        _publish(draft, folder, module, contract, text)
    return tell(parity, contract, folder)


def _example(batch: ProofBatch, face: StepModule) -> dict[str, torch.Tensor]:
    """The first elements of a few rows, and the states before them."""
    rows = batch.rows[:EXAMPLE_ROWS]
    element = {one.name: torch.cat([row[0][one.name] for row in rows]) for one in face.inputs}
    return element | face.start(len(rows))


def _publish(
    draft: Path, folder: Path, module: nn.Module, contract: InputContract, text: manifest.Table
) -> None:
    choices = contract.choices
    publish(draft, folder, choices.version, manifest.write(about(module, contract), text), choices.tokenizer)

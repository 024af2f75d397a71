"""Exports the step-wise form: one element and the states in, a result and the next states out.

with `states`   the module is one step, written by its author → step.onnx
without         the module reads whole sequences; both forms are exported and share their weights
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
from lockstep_export.derive_step import ALTERNATIVES, DerivedStep, check_derivable, derive
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.graph_module import GraphModule
from lockstep_export.model_toml import model_table, oneshot_table
from lockstep_export.oneshot import ONESHOT, evaluation_copy, graph_spec, manifest_title, report_parity
from lockstep_export.onnx import export_onnx
from lockstep_export.options import ServingOptions
from lockstep_export.parity import Difference, Parity, table
from lockstep_export.parse_spec import parse_spec
from lockstep_export.proof import BATCHED, prove
from lockstep_export.publication import drafting, publish
from lockstep_export.samples import draw
from lockstep_export.step_module import EXAMPLE_ROWS, STEP, StepModule
from lockstep_export.step_proof import (
    LENGTHS,
    WHOLE,
    ProofBatch,
    elements,
    prefix_results,
    prove_steps,
    unbatched_results,
)
from lockstep_export.tracer_fallback import open_graph, prove_with_fallback, traceable
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
    """Exports the step-wise form of a model, proves it and publishes it in `folder`.

    Without `states`, `module` reads whole sequences with nn.RNN, nn.GRU or nn.LSTM and is declared as for
    `export_oneshot`; both forms are published. With `states`, `module` is one step: `states` maps each input
    that is carried to the output that replaces it in the next step, and `initial` gives its start value, 0 by
    default.

    Raises:
        As `export_oneshot`.
    """
    module = evaluation_copy(module)
    contract = parse_spec(module, example, axes, outputs, serving)
    if states is not None:
        return _export_step(module, contract, states, initial or {}, Path(folder))
    if initial:
        raise DescriptionError("initial: the module's own layers define their initial states; omit it")
    return _export_both(module, contract, Path(folder))


def _export_both(module: nn.Module, contract: InputContract, folder: Path) -> Parity:
    check_derivable(module, contract)
    graph_module = GraphModule(module, contract, check_module(module, contract))
    derived = derive(module, contract, graph_module.outputs)
    batches = _sequences(contract, derived, graph_module)
    _check_derived(module, contract, derived, batches)

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        steps = derived.graph_spec(_example(batches[1], derived))
        export_onnx([graph_spec(traceable(graph_module, tracer)), steps], draft, tracer)
        oneshot, step = open_graph(draft / ONESHOT), open_graph(draft / STEP)
        return prove(contract, graph_module.outputs, oneshot.run, graph_module.answer) + [
            difference
            for batch in batches
            for difference in prove_steps(WHOLE, derived, step.run, batch, contract.options.tolerance)
        ]

    with drafting(folder) as draft:
        parity = prove_with_fallback(folder.name, module, draft, attempt)
        text = oneshot_table(contract, graph_module.outputs) | {"stepwise": derived.table(contract.options)}
        _publish(draft, folder, module, contract, text)
    return report_parity(parity, contract, folder)


def _sequences(contract: InputContract, derived: DerivedStep, graph_module: GraphModule) -> list[ProofBatch]:
    """Sequences of different lengths, and the module's results on their prefixes."""
    rng = torch.Generator().manual_seed(9)
    most = contract.max_lengths[derived.time]
    found = []
    for lengths in LENGTHS:
        rows = [draw(contract, {derived.time: min(size, most)}, rng) for size in lengths]
        found.append(
            ProofBatch(
                [elements(row, contract, derived.time) for row in rows],
                prefix_results(rows, graph_module, derived),
            )
        )
    return found


def _check_derived(
    module: nn.Module, contract: InputContract, derived: DerivedStep, batches: list[ProofBatch]
) -> None:
    """Steps must equal the whole sequence in PyTorch."""
    gaps = [
        difference
        for batch in batches
        for difference in prove_steps(WHOLE, derived, derived.answer, batch, contract.options.tolerance)
    ]
    failed = Parity("", gaps).failed
    if failed:
        what = f"{type(module).__name__}: its own forward, one element at a time, gives different results"
        raise ModuleError(
            "\n  ".join([what, *table(failed)])
            + "\nBeside its recurrent layers, something in the module looks"
            " at more than one element: attention, a mean or maximum over time, a convolution, positions. A"
            f" step has only its element and the previous states; {ALTERNATIVES}"
        )


def _export_step(
    module: nn.Module,
    contract: InputContract,
    states: Mapping[str, str],
    initial: Mapping[str, float],
    folder: Path,
) -> Parity:
    step_module = written_step(module, contract, states, initial)
    rng = torch.Generator().manual_seed(9)
    batches = []
    for lengths in LENGTHS:
        rows = [[dict(draw(step_module.contract, {}, rng).inputs) for _ in range(size)] for size in lengths]
        batches.append(ProofBatch(rows, unbatched_results(step_module, rows)))

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        export_onnx([step_module.graph_spec(_example(batches[1], step_module))], draft, tracer)
        step = open_graph(draft / STEP)
        return [
            difference
            for batch in batches
            for difference in prove_steps(BATCHED, step_module, step.run, batch, contract.options.tolerance)
        ]

    with drafting(folder) as draft:
        parity = prove_with_fallback(folder.name, module, draft, attempt)
        text = model_table(contract) | {"stepwise": step_module.table(contract.options)}
        _publish(draft, folder, module, contract, text)
    return report_parity(parity, contract, folder)


def _example(batch: ProofBatch, step_module: StepModule) -> dict[str, torch.Tensor]:
    """The first elements of several rows, and the initial states."""
    rows = batch.rows[:EXAMPLE_ROWS]
    element = {input_.name: torch.cat([row[0][input_.name] for row in rows]) for input_ in step_module.inputs}
    return element | step_module.start(len(rows))


def _publish(
    draft: Path, folder: Path, module: nn.Module, contract: InputContract, text: manifest.Table
) -> None:
    options = contract.options
    publish(
        draft,
        folder,
        options.version,
        manifest.write(manifest_title(module, contract), text),
        options.tokenizer,
    )

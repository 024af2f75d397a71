"""Exports the one-shot form of a module: a whole sequence in, its result out.

module → parse_spec → checks → tracer → graph, compared with the module → publication
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from lockstep_export import manifest
from lockstep_export.checks import check_module
from lockstep_export.contract import Example, InputContract
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.graph_module import GraphModule
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.model_toml import oneshot_table
from lockstep_export.onnx import export_onnx
from lockstep_export.options import ServingOptions
from lockstep_export.parity import Difference, Parity
from lockstep_export.parse_spec import parse_spec
from lockstep_export.proof import prove
from lockstep_export.publication import drafting, publish
from lockstep_export.samples import draw, stack
from lockstep_export.tasks import Generate
from lockstep_export.tracer_fallback import open_graph, prove_with_fallback, traceable
from lockstep_export.tracing import Tracer

ONESHOT = "model.onnx"
EXAMPLE_ROWS, EXAMPLE_LENGTH = 3, 7


def export_oneshot(
    module: nn.Module,
    example: Example,
    folder: Path | str,
    *,
    axes: str | Sequence[str] | Mapping[str, str],
    outputs: str | Sequence[str] = (),
    **serving: Unpack[ServingOptions],
) -> Parity:
    """Exports `module` as the model `folder`, proves it and publishes it: `folder`/1/model.onnx and
    `folder`/model.toml. `module` is not modified.

    `example` is what forward takes: a tensor, several in order, or tensors by name. `axes` names the axes of
    each input: "batch words" (see axes.py). `outputs` names what forward returns if it is not a dict, or
    selects from a dict. `serving` takes the fields of `ServingOptions`.

    Raises:
        DescriptionError: the declaration does not match the module.
        ModuleError: the module cannot be served; the message names the remedy.
        ParityError: the graph's results differ from the module's. Nothing is published.
    """
    copied = evaluation_copy(module)
    contract = parse_spec(copied, example, axes, outputs, serving)
    if isinstance(contract.options.task, Generate):
        raise DescriptionError("task: a model that generates needs a step-wise form; use export_stepwise")
    return publish_oneshot(copied, contract, Path(folder))


def publish_oneshot(module: nn.Module, contract: InputContract, folder: Path) -> Parity:
    """As `export_oneshot`, for a parsed contract."""
    graph_module = GraphModule(module, contract, check_module(module, contract))

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        export_onnx([graph_spec(traceable(graph_module, tracer))], draft, tracer)
        return prove(contract, graph_module.outputs, open_graph(draft / ONESHOT).run, graph_module.answer)

    options = contract.options
    with drafting(folder) as draft:
        parity = prove_with_fallback(folder.name, module, draft, attempt)
        text = manifest.write(manifest_title(module, contract), oneshot_table(contract, graph_module.outputs))
        publish(draft, folder, options.version, text, options.tokenizer)
    return report_parity(parity, contract, folder)


def evaluation_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU, in float32 if its weights are float16 or bfloat16 (`variant`
    makes float16 graphs from proven ones).

    Raises:
        ModuleError: it cannot be copied.
    """
    try:
        copied = copy.deepcopy(module).cpu().eval()
        halves = any(weight.dtype in (torch.float16, torch.bfloat16) for weight in copied.parameters())
        return copied.float() if halves else copied
    except Exception as error:  # depends on what the module holds
        raise ModuleError(
            f"{type(module).__name__} cannot be copied: {error}; do not keep computed tensors as attributes"
        ) from error


def manifest_title(module: nn.Module, contract: InputContract) -> str:
    """The manifest's first line."""
    return contract.options.about or f"{type(module).__name__}"


def report_parity(parity: Parity, contract: InputContract, folder: Path) -> Parity:
    """Reports a successful proof."""
    compared = f"{len(parity.differences)} comparisons, worst {parity.worst:.1e}"
    contract.options.report(f"{folder}/{contract.options.version}: parity holds: {compared}")
    return parity


def graph_spec(graph_module: GraphModule) -> GraphSpec:
    """The one-shot graph of a module."""
    contract = graph_module.contract
    rng = torch.Generator().manual_seed(1)
    lengths = {
        name: min(EXAMPLE_LENGTH + 2 * k, most) for k, (name, most) in enumerate(contract.max_lengths.items())
    }
    rows = [draw(contract, lengths, rng) for _ in range(EXAMPLE_ROWS)]
    return GraphSpec(
        ONESHOT,
        graph_module,
        stack(contract, rows),
        {input_.name: input_.axes.graph_axes for input_ in contract.inputs},
        tuple(output.name for output in graph_module.outputs),
        {output.name: output.axes.graph_axes for output in graph_module.outputs},
        positional=True,
    )

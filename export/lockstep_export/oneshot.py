"""One face: a whole sequence in, its answer out.

module → contract → examination → tracer → graph, proven against the module → publication
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
from lockstep_export.model_toml import table
from lockstep_export.onnx import export_onnx
from lockstep_export.options import ServingOptions
from lockstep_export.parity import Difference, Parity
from lockstep_export.parse_spec import parse_spec
from lockstep_export.proof import prove
from lockstep_export.publication import drafting, publish
from lockstep_export.samples import draw, stack
from lockstep_export.tasks import Generate
from lockstep_export.tracer_fallback import opened, proven, traced
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
    """Exports `module` as the model `folder` names, proves it and publishes it: `folder`/1/model.onnx and
    `folder`/model.toml. The module itself is left as it is.

    `example` is what its forward takes: a tensor, several in order, or tensors by name. `axes` names the
    axes of each: "batch words" (see own/axes.py). `outputs` names what forward gives, where it gives no
    dict, or chooses from a dict. What else may be said of it is in `Serving`.

    Raises:
        DescriptionError: what is said does not fit the module.
        ModuleError: the module cannot be served, with the remedy.
        ParityError: the graph does not answer as the module does. Nothing is published.
    """
    twin = evaluated(module)
    contract = parse_spec(twin, example, axes, outputs, serving)
    if isinstance(contract.choices.task, Generate):
        raise DescriptionError("task: a model that generates goes step by step: use export_stepwise")
    return publish_oneshot(twin, contract, Path(folder))


def publish_oneshot(module: nn.Module, contract: InputContract, folder: Path) -> Parity:
    """As `export_oneshot`, for a contract that has been read."""
    face = GraphModule(module, contract, check_module(module, contract))

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        export_onnx([graph_spec(traced(face, tracer))], draft, tracer)
        return prove(contract, face.outputs, opened(draft / ONESHOT).run, face.answer)

    choices = contract.choices
    with drafting(folder) as draft:
        parity = proven(folder.name, module, draft, attempt)
        text = manifest.write(about(module, contract), table(contract, face.outputs))
        publish(draft, folder, choices.version, text, choices.tokenizer)
    return tell(parity, contract, folder)


def evaluated(module: nn.Module) -> nn.Module:
    """A copy for evaluation on the CPU, in float32 where its numbers are halves: `variant` makes halves of a
    graph that was proven.

    Raises:
        ModuleError: it cannot be copied.
    """
    try:
        twin = copy.deepcopy(module).cpu().eval()
        halves = any(weight.dtype in (torch.float16, torch.bfloat16) for weight in twin.parameters())
        return twin.float() if halves else twin
    except Exception as error:  # of whatever the module holds
        raise ModuleError(
            f"{type(module).__name__} cannot be copied: {error}; keep what it computes out of its attributes"
        ) from error


def about(module: nn.Module, contract: InputContract) -> str:
    """The manifest's first line."""
    return contract.choices.about or f"{type(module).__name__}"


def tell(parity: Parity, contract: InputContract, folder: Path) -> Parity:
    """Says what was proven."""
    compared = f"{len(parity.differences)} comparisons, worst {parity.worst:.1e}"
    contract.choices.report(f"{folder}/{contract.choices.version}: parity holds: {compared}")
    return parity


def graph_spec(face: GraphModule) -> GraphSpec:
    """The one-shot graph of a face."""
    contract = face.contract
    chance = torch.Generator().manual_seed(1)
    lengths = {
        name: min(EXAMPLE_LENGTH + 2 * k, most) for k, (name, most) in enumerate(contract.longest.items())
    }
    rows = [draw(contract, lengths, chance) for _ in range(EXAMPLE_ROWS)]
    return GraphSpec(
        ONESHOT,
        face,
        stack(contract, rows),
        {one.name: one.axes.in_front for one in contract.inputs},
        tuple(one.name for one in face.outputs),
        {one.name: one.axes.in_front for one in face.outputs},
        positional=True,
    )

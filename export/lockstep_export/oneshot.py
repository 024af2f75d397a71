"""Exports the one-shot form of a module: a whole sequence in, its result out.

module → parse_spec → forms → checks → tracer → graph, compared with the module → publication
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from lockstep_export.checks import find_outputs
from lockstep_export.contract import Example
from lockstep_export.errors import DescriptionError, ModuleError
from lockstep_export.forms import ONESHOT, ModelForms, WholeForm, export_and_report
from lockstep_export.graph_module import GraphModule
from lockstep_export.options import ServingOptions
from lockstep_export.parity import Parity
from lockstep_export.parse_spec import parse_spec
from lockstep_export.tasks import Generate, Translate


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
    forms = oneshot_forms(module, example, axes=axes, outputs=outputs, **serving)
    return export_and_report(forms, Path(folder))


def oneshot_forms(
    module: nn.Module,
    example: Example,
    *,
    axes: str | Sequence[str] | Mapping[str, str],
    outputs: str | Sequence[str] = (),
    **serving: Unpack[ServingOptions],
) -> ModelForms:
    """The form that `export_oneshot` exports, without the checks that need many runs."""
    module = evaluation_copy(module)
    contract = parse_spec(module, example, axes, outputs, serving)
    if isinstance(contract.options.task, Generate | Translate):
        raise DescriptionError("task: a model that generates needs a step-wise form; use export_stepwise")
    form = WholeForm(ONESHOT, GraphModule(module, contract, find_outputs(module, contract)))
    return ModelForms(module, contract, form)


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

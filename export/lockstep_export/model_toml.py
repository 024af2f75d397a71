"""Builds the tables of model.toml for an exported module; manifest.py formats them."""

from typing import Any

from lockstep_export import manifest
from lockstep_export.axes import BATCH, ModuleOutput
from lockstep_export.contract import InputContract, ModuleInput
from lockstep_export.manifest import Table
from lockstep_export.options import ExportOptions
from lockstep_export.tasks import Classify, ClassifyTokens, Encode, Generate, Transcribe, Translate

TOKENIZER, SOURCE, TARGET = "tokenizer.json", "source.json", "target.json"


def model_table(contract: InputContract) -> Table:
    """The keys that apply to the whole model: task, labels, tokenizer, roles."""
    options = contract.options
    task = options.task
    labels = list(task.labels) if isinstance(task, Classify | ClassifyTokens | Transcribe) else []
    ends = {"begin": task.begin, "end": task.end} if isinstance(task, Generate | Translate) else {}
    files = dict(zip(("source", "target"), tokenizer_files(options), strict=False))
    text = files | {name: end for name, end in ends.items() if end is not None}
    return {
        "task": task.name,
        **({"labels": labels} if labels else {}),
        **({"blank": task.blank} if isinstance(task, Transcribe) else {}),
        **({"text": text} if files else {}),
        "roles": task.roles(),
        **({"generation": {"beams": task.beams}} if isinstance(task, Translate) and task.beams > 1 else {}),
    }


def tokenizer_files(options: ExportOptions) -> dict[str, Any]:
    """The tokenizers by file name, that of the input first."""
    if options.tokenizer is None:
        return {}
    if isinstance(options.task, Translate):
        return {SOURCE: options.tokenizer, TARGET: options.task.target}
    return {TOKENIZER: options.tokenizer}


def lengths_table(*contracts: InputContract) -> Table:
    """[lengths], if there are any."""
    lengths = {name: {"max": most} for each in contracts for name, most in each.max_lengths.items()}
    return {"lengths": lengths} if lengths else {}


def batching_table(options: ExportOptions) -> Table:
    """[batching]"""
    return {"max_rows": options.max_rows, "max_padded_elements": options.max_padded_elements}


def graph_table(contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> Table:
    """The inputs and outputs of a graph that reads whole sequences."""
    task = contract.options.task
    return {
        "inputs": {input_.name: input_table(input_) for input_ in contract.inputs},
        "outputs": {
            output.name: manifest.tensor(
                *length_axes(output.graph_axes),
                batch_axis=output.batch_axis,
                **(task.output_keys(output.name) if isinstance(task, Encode) else {}),
            )
            for output in outputs
        },
    }


def input_table(input_: ModuleInput) -> Table:
    """One input of a graph."""
    if input_.generated is not None:
        if input_.generated.kind == "lengths":
            return manifest.lengths_of(input_.generated.of)
        return manifest.mask_of(input_.generated.of) | {"real": input_.generated.real}
    lengths = length_axes(input_.axes.graph_axes)
    padding: Table = {"pad": input_.pad} if lengths else {}
    ids: Table = {} if input_.ids is None else {"range": [0, input_.ids]}
    return manifest.tensor(*lengths, **padding, **ids)


def length_axes(axes: tuple[str, ...]) -> list[tuple[int, str]]:
    """The axes that vary with a length, and its name."""
    return [(axis, name) for axis, name in enumerate(axes) if name not in ("", BATCH)]

"""Builds the tables of model.toml for an exported module; manifest.py formats them."""

from lockstep_export import manifest
from lockstep_export.contract import InputContract, ModuleInput
from lockstep_export.graph_module import ModuleOutput
from lockstep_export.manifest import Table
from lockstep_export.publication import TOKENIZER
from lockstep_export.tasks import Classify, Generate


def model_table(contract: InputContract) -> Table:
    """The keys that apply to the whole model: task, labels, tokenizer, roles."""
    options = contract.options
    task = options.task
    labels = list(task.labels) if isinstance(task, Classify) else []
    ends = {"begin": task.begin, "end": task.end} if isinstance(task, Generate) else {}
    source = {} if options.tokenizer is None else {"source": TOKENIZER}
    text = source | {name: end for name, end in ends.items() if end is not None}
    return {
        "task": task.name,
        **({"labels": labels} if labels else {}),
        **({"text": text} if source else {}),
        "roles": task.roles(),
    }


def oneshot_table(contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> Table:
    """model.toml of a model with a one-shot graph."""
    options = contract.options
    return model_table(contract) | {
        "lengths": {name: {"max": most} for name, most in contract.max_lengths.items()},
        "inputs": {input_.name: _input(input_) for input_ in contract.inputs},
        "outputs": {output.name: manifest.tensor(*length_axes(output.axes.graph_axes)) for output in outputs},
        "batching": {"max_rows": options.max_rows, "max_padded_elements": options.max_padded_elements},
    }


def _input(input_: ModuleInput) -> Table:
    if input_.generated is not None:
        if input_.generated.kind == "lengths":
            return manifest.lengths_of(input_.generated.of)
        return manifest.mask_of(input_.generated.of) | {"real": input_.generated.real}
    lengths = length_axes(input_.axes.graph_axes)
    padding: Table = {"pad": input_.pad} if lengths else {}
    ids: Table = {} if input_.ids is None else {"range": [0, input_.ids]}
    return manifest.tensor(*lengths, **padding, **ids)


def length_axes(axes: tuple[str, ...]) -> list[tuple[int, str]]:
    """The axes that vary with a length, batch axis first."""
    return [(axis, name) for axis, name in enumerate(axes) if axis and name]

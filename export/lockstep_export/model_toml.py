"""What model.toml says of a module: ../manifest.py writes it down."""

from lockstep_export import manifest
from lockstep_export.contract import InputContract, ModuleInput
from lockstep_export.graph_module import ModuleOutput
from lockstep_export.manifest import Table
from lockstep_export.publication import TOKENIZER
from lockstep_export.tasks import Classify, Generate


def words(contract: InputContract) -> Table:
    """What model.toml says of the model as a whole."""
    choices = contract.choices
    task = choices.task
    labels = list(task.labels) if isinstance(task, Classify) else []
    ends = {"begin": task.begin, "end": task.end} if isinstance(task, Generate) else {}
    source = {} if choices.tokenizer is None else {"source": TOKENIZER}
    text = source | {name: end for name, end in ends.items() if end is not None}
    return {
        "task": task.name,
        **({"labels": labels} if labels else {}),
        **({"text": text} if source else {}),
        "roles": task.roles(),
    }


def table(contract: InputContract, outputs: tuple[ModuleOutput, ...]) -> Table:
    """model.toml of a model with a one-shot face."""
    choices = contract.choices
    return words(contract) | {
        "lengths": {name: {"max": most} for name, most in contract.longest.items()},
        "inputs": {one.name: _input(one) for one in contract.inputs},
        "outputs": {one.name: manifest.tensor(*named(one.axes.in_front)) for one in outputs},
        "batching": {"max_rows": choices.max_rows, "max_padded_elements": choices.max_padded_elements},
    }


def _input(one: ModuleInput) -> Table:
    if one.filled is not None:
        if one.filled.kind == "lengths":
            return manifest.lengths_of(one.filled.of)
        return manifest.mask_of(one.filled.of) | {"real": one.filled.real}
    lengths = named(one.axes.in_front)
    padding: Table = {"pad": one.pad} if lengths else {}
    ids: Table = {} if one.ids is None else {"range": [0, one.ids]}
    return manifest.tensor(*lengths, **padding, **ids)


def named(axes: tuple[str, ...]) -> list[tuple[int, str]]:
    """The axes that vary with a length, rows in front."""
    return [(axis, name) for axis, name in enumerate(axes) if axis and name]

"""One face: a whole sequence in, its answer out.

module → contract → examination → tracer → graph, proven against the module → publication
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from lockstep_export import manifest
from lockstep_export.errors import DescriptionError, ExportError, FrozenAxisError, ModuleError
from lockstep_export.graph import Graph
from lockstep_export.manifest import Table
from lockstep_export.onnx import export_onnx
from lockstep_export.own.contract import Contract, Example, Input
from lockstep_export.own.examination import examine
from lockstep_export.own.face import Face, Output
from lockstep_export.own.nodes import NodesFace, recurrent
from lockstep_export.own.proof import PYTORCH, prove
from lockstep_export.own.publication import TOKENIZER, drafting, publish
from lockstep_export.own.reading import read_contract
from lockstep_export.own.samples import draw, stack
from lockstep_export.own.serving import Serving
from lockstep_export.own.task import Classify, Generate
from lockstep_export.parity import Difference, Parity
from lockstep_export.sketch import Sketch
from lockstep_export.tracing import Tracer, no_operator

ONESHOT = "model.onnx"
EXAMPLE_ROWS, EXAMPLE_LENGTH = 3, 7


def export_oneshot(
    module: nn.Module,
    example: Example,
    folder: Path | str,
    *,
    axes: str | Sequence[str] | Mapping[str, str],
    outputs: str | Sequence[str] = (),
    **serving: Unpack[Serving],
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
    contract = read_contract(twin, example, axes, outputs, serving)
    if isinstance(contract.choices.task, Generate):
        raise DescriptionError("task: a model that generates goes step by step: use export_stepwise")
    return publish_oneshot(twin, contract, Path(folder))


def publish_oneshot(module: nn.Module, contract: Contract, folder: Path) -> Parity:
    """As `export_oneshot`, for a contract that has been read."""
    face = Face(module, contract, examine(module, contract))

    def attempt(draft: Path, tracer: Tracer) -> list[Difference]:
        export_onnx([sketch(traced(face, tracer))], draft, tracer)
        return prove(contract, face.outputs, opened(draft / ONESHOT).run, face.answer)

    choices = contract.choices
    with drafting(folder) as draft:
        parity = proven(folder.name, module, draft, attempt)
        text = manifest.write(about(module, contract), table(contract, face.outputs))
        publish(draft, folder, choices.version, text, choices.tokenizer)
    return tell(parity, contract, folder)


def evaluated(module: nn.Module) -> nn.Module:
    """A copy for evaluation on the CPU."""
    return copy.deepcopy(module).cpu().eval()


def about(module: nn.Module, contract: Contract) -> str:
    """The manifest's first line."""
    return contract.choices.about or f"{type(module).__name__}"


def tell(parity: Parity, contract: Contract, folder: Path) -> Parity:
    """Says what was proven."""
    compared = f"{len(parity.differences)} comparisons, worst {parity.worst:.1e}"
    contract.choices.report(f"{folder}/{contract.choices.version}: parity holds: {compared}")
    return parity


def tracers(module: nn.Module) -> tuple[Tracer, ...]:
    """Which to try, in order. What one of them gets wrong the other may get right; both are proven."""
    return ("script", "dynamo") if recurrent(module) else ("dynamo", "script")


def proven(
    name: str, module: nn.Module, draft: Path, attempt: Callable[[Path, Tracer], list[Difference]]
) -> Parity:
    """Leaves proven graphs in `draft`: those of the first tracer with which `attempt` finds no difference.

    Raises:
        ModuleError, ParityError: there is none.
    """
    failures: dict[Tracer, ExportError] = {}
    for tracer in tracers(module):
        try:
            parity = Parity(name, attempt(draft, tracer))
            parity.require(_remedy(parity))
        except FrozenAxisError:
            raise  # dynamo tells; the other tracer would freeze it too, and not say so
        except ExportError as error:
            failures[tracer] = error
        else:
            return parity
    raise failures["dynamo"]  # which sees more of what is wrong


def traced(face: Face, tracer: Tracer) -> Face:
    """The face that a tracer can follow."""
    if tracer == "script" or not recurrent(face.module):
        return face
    return NodesFace(face.module, face.contract, face.outputs)


def sketch(face: Face) -> Sketch:
    """The one-shot graph of a face."""
    contract = face.contract
    chance = torch.Generator().manual_seed(1)
    lengths = {
        name: min(EXAMPLE_LENGTH + 2 * k, most) for k, (name, most) in enumerate(contract.longest.items())
    }
    rows = [draw(contract, lengths, chance) for _ in range(EXAMPLE_ROWS)]
    return Sketch(
        ONESHOT,
        face,
        stack(contract, rows),
        {one.name: one.axes.in_front for one in contract.inputs},
        tuple(one.name for one in face.outputs),
        {one.name: one.axes.in_front for one in face.outputs},
        positional=True,
    )


def opened(file: Path) -> Graph:
    """The graph, as ONNX Runtime loads it.

    Raises:
        ModuleError: it has an operator that ONNX Runtime lacks, or is none.
    """
    try:
        return Graph(file)
    except Exception as error:  # what ONNX Runtime raises has no one type
        text = " ".join(str(error).split())
        if "not a registered function" in text or "NOT_IMPLEMENTED" in text:
            raise no_operator(text.split("failed:")[-1].strip()[:120]) from error
        raise ModuleError(f"ONNX Runtime cannot load the graph: {text[:300]}") from error


def _remedy(parity: Parity) -> str:
    """Where only the tracer can be at fault."""
    if all(gap.comparison != PYTORCH and gap.comparison != "run" for gap in parity.failed):
        return ""
    return (
        "The graph does not do what the module does at sizes other than those that it was traced at. Look for"
        " sizes that become Python numbers (int(x.shape[1]), a loop over elements, reshapes to constants) and"
        " for an `if` on values; use tensor operations instead"
    )


# --- manifest ---------------------------------------------------------------------------------------


def words(contract: Contract) -> Table:
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


def table(contract: Contract, outputs: tuple[Output, ...]) -> Table:
    """model.toml of a model with a one-shot face."""
    choices = contract.choices
    return words(contract) | {
        "lengths": {name: {"max": most} for name, most in contract.longest.items()},
        "inputs": {one.name: _input(one) for one in contract.inputs},
        "outputs": {one.name: manifest.tensor(*named(one.axes.in_front)) for one in outputs},
        "batching": {"max_rows": choices.max_rows, "max_padded_elements": choices.max_padded_elements},
    }


def _input(one: Input) -> Table:
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

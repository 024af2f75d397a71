"""Which of torch's tracers a module goes through: the first whose graphs are proven."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from lockstep_export.errors import ExportError, FrozenError, ModuleError
from lockstep_export.graph_module import GraphModule
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Difference, Parity
from lockstep_export.proof import PYTORCH
from lockstep_export.recurrent_nodes import NodesGraphModule, recurrent
from lockstep_export.tracing import Tracer, no_operator


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
        except ExportError as error:
            if tracer == "dynamo" and isinstance(error, FrozenError):
                raise  # the other tracer would freeze it too, and not always say so
            failures[tracer] = error
        else:
            return parity
    raise failures["dynamo"]  # which sees more of what is wrong


def traced(face: GraphModule, tracer: Tracer) -> GraphModule:
    """The face that a tracer can follow."""
    if tracer == "script" or not recurrent(face.module):
        return face
    return NodesGraphModule(face.module, face.contract, face.outputs)


def opened(file: Path) -> OnnxGraph:
    """The graph, as ONNX Runtime loads it.

    Raises:
        ModuleError: it has an operator that ONNX Runtime lacks, or is none.
    """
    try:
        return OnnxGraph(file)
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

"""Tries torch's tracers in turn until the graphs of one of them are proven."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from lockstep_export.errors import ExportError, FrozenError, ModuleError
from lockstep_export.graph_module import GraphModule
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_export.parity import Difference, Parity
from lockstep_export.proof import PYTORCH
from lockstep_export.recurrent_nodes import NodesGraphModule, recurrent_layers
from lockstep_export.tracing import Tracer, missing_operator

TRACERS: tuple[Tracer, ...] = ("dynamo", "script")  # where one is wrong, the other may be right


def prove_with_fallback(
    name: str, module: nn.Module, draft: Path, attempt: Callable[[Path, Tracer], list[Difference]]
) -> Parity:
    """Leaves proven graphs in `draft`: those of the first tracer for which `attempt` finds no difference.

    Raises:
        ModuleError, ParityError: no tracer succeeded.
    """
    failures: dict[Tracer, ExportError] = {}
    for tracer in TRACERS:
        try:
            parity = Parity(name, attempt(draft, tracer))
            parity.require(_remedy(parity))
        except ExportError as error:
            if isinstance(error, FrozenError) and not recurrent_layers(module):
                raise  # the other tracer would freeze it too, possibly without a warning
            failures[tracer] = error
        else:
            return parity
    raise failures["dynamo"]  # its errors are more specific


def traceable(graph_module: GraphModule, tracer: Tracer) -> GraphModule:
    """The module in a form that the tracer can follow."""
    if tracer == "script" or not recurrent_layers(graph_module.module):
        return graph_module
    return NodesGraphModule(graph_module.module, graph_module.contract, graph_module.outputs)


def open_graph(file: Path) -> OnnxGraph:
    """The graph, loaded by ONNX Runtime.

    Raises:
        ModuleError: ONNX Runtime lacks an operator, or the file is not a valid graph.
    """
    try:
        return OnnxGraph(file)
    except Exception as error:  # ONNX Runtime raises various types
        text = " ".join(str(error).split())
        if "not a registered function" in text or "NOT_IMPLEMENTED" in text:
            raise missing_operator(text.split("failed:")[-1].strip()[:120]) from error
        raise ModuleError(f"ONNX Runtime cannot load the graph: {text[:300]}") from error


def _remedy(parity: Parity) -> str:
    """The remedy if only the tracer can be at fault."""
    if all(
        difference.comparison != PYTORCH and difference.comparison != "run" for difference in parity.failed
    ):
        return ""
    return (
        "The graph is wrong at sizes other than those that it was traced with. Look for sizes that become"
        " Python numbers (int(x.shape[1]), a loop over elements, reshapes to constants) and for an `if` on"
        " values; use tensor operations instead"
    )

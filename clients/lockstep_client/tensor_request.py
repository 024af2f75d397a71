"""The message of a ModelInfer: what all calls of a kind share, then the tensors of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lockstep_client import arguments, inference, tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


def begun(
    model: str, version: str, outputs: Sequence[str], priority: int, queue_timeout_s: float
) -> inference.ModelInferRequest:
    """A request that has no inputs yet."""
    return inference.ModelInferRequest(
        model_name=arguments.model(model),
        model_version=version,
        parameters=_waiting(priority, queue_timeout_s),
        outputs=[inference.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
    )


def filled(
    begun: inference.ModelInferRequest, inputs: Mapping[str, npt.ArrayLike]
) -> inference.ModelInferRequest:
    """A copy of it with these inputs; InvalidRequest where one has no place in the protocol."""
    if not isinstance(inputs, Mapping):
        raise arguments.wrong("inputs", f"{type(inputs).__name__} does not fit: give tensors by name")
    request = inference.ModelInferRequest()
    request.CopyFrom(begun)
    for name, value in inputs.items():
        wire = tensors.encode(name, value)
        request.inputs.add(name=name, datatype=wire.datatype, shape=wire.shape)
        request.raw_input_contents.append(wire.raw)
    return request


def _waiting(priority: int, queue_timeout_s: float) -> dict[str, inference.InferParameter]:
    parameters: dict[str, inference.InferParameter] = {}
    if arguments.count("priority", priority):
        parameters["priority"] = inference.InferParameter(uint64_param=priority)
    if arguments.seconds("queue_timeout_s", queue_timeout_s):
        parameters["timeout"] = inference.InferParameter(int64_param=max(1, round(queue_timeout_s * 1e6)))
    return parameters

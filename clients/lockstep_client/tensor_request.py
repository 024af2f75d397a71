"""ModelInfer request messages: a template without inputs, and copies of it with the tensors of one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lockstep_client import arguments, inference, tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


def template(
    model: str, version: str, outputs: Sequence[str], priority: int, queue_timeout_s: float
) -> inference.ModelInferRequest:
    """A request without inputs."""
    return inference.ModelInferRequest(
        model_name=arguments.model(model),
        model_version=version,
        parameters=_scheduling_parameters(priority, queue_timeout_s),
        outputs=[inference.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
    )


def with_inputs(
    template: inference.ModelInferRequest, inputs: Mapping[str, npt.ArrayLike]
) -> inference.ModelInferRequest:
    """A copy of `template` with these inputs. Raises InvalidRequest for a type that the protocol lacks."""
    if not isinstance(inputs, Mapping):
        raise arguments.invalid(
            "inputs", f"expected a mapping of names to arrays, got {type(inputs).__name__}"
        )
    request = inference.ModelInferRequest()
    request.CopyFrom(template)
    for name, value in inputs.items():
        wire = tensors.encode(name, value)
        request.inputs.add(name=name, datatype=wire.datatype, shape=wire.shape)
        request.raw_input_contents.append(wire.raw)
    return request


def _scheduling_parameters(priority: int, queue_timeout_s: float) -> dict[str, inference.InferParameter]:
    parameters: dict[str, inference.InferParameter] = {}
    if arguments.count("priority", priority):
        parameters["priority"] = inference.InferParameter(uint64_param=priority)
    if arguments.seconds("queue_timeout_s", queue_timeout_s):
        parameters["timeout"] = inference.InferParameter(int64_param=max(1, round(queue_timeout_s * 1e6)))
    return parameters

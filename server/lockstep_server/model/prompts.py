"""Prompts of tensors: the prefill graph of a model that does not generate.

Its steps take elements that callers send, such as frames; the prefill graph reads the first elements of a
sequence in one run. So each of its inputs is that of a step with one more axis, and it answers as the step
after the last of these elements does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import LoadError
from .roles import shape_of

if TYPE_CHECKING:
    from .spec import ModelSpec, ModelTensor


def sent_inputs(spec: ModelSpec) -> list[ModelTensor]:
    """The inputs that callers send."""
    return [one for one in spec.inputs if not (one.spec.filled or one.optional)]


def takes_prompt(spec: ModelSpec) -> bool:
    """Whether a caller may begin a sequence with a prompt of tensors."""
    return spec.is_stepwise and spec.prefill is not None and not spec.manifest.generates


def elements_of(spec: ModelSpec) -> list[tuple[ModelTensor, ModelTensor, int]]:
    """Each input of the prefill graph with the input of a step that takes one of its elements, and the axis
    of the elements. They have one name; the only one of each may have two."""
    assert spec.prefill is not None
    prompt, step = sent_inputs(spec.prefill), sent_inputs(spec)
    single = len(prompt) == len(step) == 1
    found = []
    for tensor in prompt:
        one = step[0] if single else next((each for each in step if each.name == tensor.name), None)
        if one is not None and len(tensor.spec.lengths) == 1:
            found.append((tensor, one, next(iter(tensor.spec.lengths))))
    return found


def check_prompt(spec: ModelSpec, file: str) -> None:
    """Check that the prefill graph of a model that does not generate reads what its steps read.

    Raises:
        LoadError: it does not.
    """
    if not takes_prompt(spec):
        return
    assert spec.prefill is not None
    if spec.chunk_lengths or any(tensor.spec.overlap is not None for tensor in spec.inputs):
        raise LoadError(
            f"{file}: prefill: a step takes a chunk or a window of elements, so that it reads a prompt"
            " itself; remove [prefill]"
        )
    prompt, step = sent_inputs(spec.prefill), sent_inputs(spec)
    found = {tensor.name: (one, axis) for tensor, one, axis in elements_of(spec)}
    for tensor in prompt:
        place = f"{file}: prefill.inputs.{tensor.name}"
        if len(tensor.spec.lengths) != 1 or tensor.spec.batch_axis is None:
            raise LoadError(
                f"{place}: shape {shape_of(tensor)} is no sequence of a step's elements; give it a"
                " batch_axis, and name the axis of the elements in lengths; or set generated or value"
            )
        if tensor.name not in found:
            names = ", ".join(one.name for one in step)
            raise LoadError(
                f"{place}: no input of a step has this name; name it as the input that takes one of its"
                f" elements ({names}), or set generated or value"
            )
        _check_element(tensor, *found[tensor.name], place)
    missing = [one.name for one in step if one.name not in {each.name for each, _ in found.values()}]
    if missing:
        raise LoadError(
            f"{file}: prefill.inputs: none takes the elements of the step's input {missing[0]!r}; add it to"
            " the graph, or remove [prefill]"
        )
    for tensor in spec.outputs:
        _check_answer(tensor, spec.prefill, file)


def _check_element(tensor: ModelTensor, step: ModelTensor, axis: int, place: str) -> None:
    if tensor.datatype != step.datatype:
        raise LoadError(
            f"{place}: {tensor.datatype}, but the step's input {step.name!r} is {step.datatype}; make them"
            " equal in the graphs"
        )
    element = [size for at, size in enumerate(tensor.shape) if at not in (tensor.spec.batch_axis, axis)]
    wanted = [size for at, size in enumerate(step.shape) if at != step.spec.batch_axis]
    if element not in (wanted, wanted[1:] if wanted[:1] == [1] else wanted):
        raise LoadError(
            f"{place}: its elements are {element}, but a step takes {wanted} of {step.name!r}; make them"
            " equal in the graphs"
        )


def _check_answer(step: ModelTensor, prefill: ModelSpec, file: str) -> None:
    """The prefill graph answers with this output of a step."""
    place = f"{file}: prefill.outputs.{step.name}"
    tensor = prefill.output(step.name)
    if tensor is None:
        raise LoadError(
            f"{place}: the prefill graph has no such output, but a step answers with it; return that of the"
            " last element, or remove [prefill]"
        )
    if (tensor.datatype, len(tensor.shape), tensor.spec.batch_axis, dict(tensor.spec.lengths)) != (
        step.datatype,
        len(step.shape),
        step.spec.batch_axis,
        dict(step.spec.lengths),
    ):
        raise LoadError(
            f"{place}: {tensor.datatype} {shape_of(tensor)} is not as that of a step, {step.datatype}"
            f" {shape_of(step)}; return that of the last element, with the same batch_axis and lengths"
        )

"""The card of a step-wise form: the step graph's tensors, its states taken out and paired by name.

step graph, prefill graph, manifest -> a `Card` whose inputs and outputs are those of one step, with
its states beside them and the prefill graph's card, if any, inside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import LoadError
from .datatypes import from_onnx
from .spec import GraphTensor, ModelSpec, StateTensor, bind_tensor, infer_batch_axis, refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .manifest import Manifest, StateSection, StepwiseSection
    from .spec import GraphSignature


def make_step_spec(
    name: str,
    version: int,
    graph: GraphSignature,
    prefill: GraphSignature | None,
    manifest: Manifest,
    file: str,
) -> ModelSpec:
    """Join the graphs with the manifest's `[stepwise]` and `[prefill]`. `file` is named in errors.

    Raises:
        LoadError: a state that the graphs do not have as the manifest says, or a type or an axis
            that does not fit.
    """
    stepwise = manifest.stepwise
    assert stepwise is not None
    first = _prefill_spec(name, version, prefill, manifest, file) if prefill else None
    states = _states(graph, stepwise, first, file)
    spec = ModelSpec(
        name,
        version,
        manifest,
        inputs=(),
        outputs=(),
        mode="stepwise",
        model=name,
        states=states,
        prefill=first,
    )
    spec = _with_tensors(spec, graph, stepwise, file)
    _check_roles(spec, file)
    return spec


def _with_tensors(spec: ModelSpec, graph: GraphSignature, stepwise: StepwiseSection, file: str) -> ModelSpec:
    """The step's own inputs and outputs: what is neither a state nor its successor."""
    carried = {state.input for state in stepwise.state}
    given = {state.output for state in stepwise.state if state.output}
    inputs = [tensor for tensor in graph.inputs if tensor.name not in carried]
    outputs = [tensor for tensor in graph.outputs if tensor.name not in given]
    refuse_unknown_names(stepwise.inputs, inputs, f"{file}: stepwise.inputs")
    refuse_unknown_names(stepwise.outputs, outputs, f"{file}: stepwise.outputs")
    taken = tuple(bind_tensor(t, stepwise.inputs, f"{file}: stepwise.inputs") for t in inputs)
    told = tuple(bind_tensor(t, stepwise.outputs, f"{file}: stepwise.outputs") for t in outputs)
    if not stepwise.inputs and not stepwise.outputs:
        taken, told = infer_batch_axis(taken, told)
    carrying = {name for state in spec.states for name in state.spec.lengths.values()}
    for tensor in taken:
        if tensor.spec.of and tensor.spec.of not in carrying:
            raise LoadError(
                f"{file}: stepwise.inputs.{tensor.name}.of: no state has the length {tensor.spec.of!r};"
                f" name one of {', '.join(sorted(carrying)) or 'none'}"
            )
    return replace(spec, inputs=taken, outputs=told)


def _prefill_spec(name: str, version: int, graph: GraphSignature, manifest: Manifest, file: str) -> ModelSpec:
    section = manifest.prefill
    assert section is not None
    refuse_unknown_names(section.inputs, graph.inputs, f"{file}: prefill.inputs")
    refuse_unknown_names(section.outputs, graph.outputs, f"{file}: prefill.outputs")
    spec = ModelSpec(
        name,
        version,
        manifest,
        tuple(bind_tensor(t, section.inputs, f"{file}: prefill.inputs") for t in graph.inputs),
        tuple(bind_tensor(t, section.outputs, f"{file}: prefill.outputs") for t in graph.outputs),
        mode="prefill",
        model=name,
    )
    if not spec.text_input:
        raise LoadError(f"{file}: prefill.inputs: one must take the ids; mark the others as generated")
    return spec


def _states(
    graph: GraphSignature, stepwise: StepwiseSection, prefill: ModelSpec | None, file: str
) -> tuple[StateTensor, ...]:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    if not stepwise.state:
        raise LoadError(f"{file}: stepwise.state: there is none; add a [[stepwise.state]] for each state")
    return tuple(_state(state, inputs, outputs, prefill, file) for state in stepwise.state)


def _state(
    section: StateSection,
    inputs: Mapping[str, GraphTensor],
    outputs: Mapping[str, GraphTensor],
    prefill: ModelSpec | None,
    file: str,
) -> StateTensor:
    place = f"{file}: stepwise.state[{section.name}]"
    if section.input not in inputs:
        raise LoadError(
            f"{place}.input: the step graph has no input {section.input!r}; it has {_names(inputs)}"
        )
    if section.output and section.output not in outputs:
        raise LoadError(
            f"{place}.output: the step graph has no output {section.output!r}; it has {_names(outputs)}"
        )
    tensor = inputs[section.input]
    known = from_onnx(tensor.onnx_type)
    if known is None or known[0] == "BYTES":
        raise LoadError(f"{place}.input: a state of type {tensor.onnx_type} cannot be kept; make it a number")
    _check_axes(tensor, section, place)
    if section.output and outputs[section.output].onnx_type != tensor.onnx_type:
        raise LoadError(
            f"{place}.output: it is {outputs[section.output].onnx_type} and the input {tensor.onnx_type};"
            " make them equal in the graph"
        )
    if section.output:
        _check_successor(tensor, outputs[section.output], section, place)
    if section.prefill and prefill is not None:
        _check_prefill(section, prefill, known[0], place)
    return StateTensor(known[0], tensor.shape, section)


def _check_axes(tensor: GraphTensor, section: StateSection, place: str) -> None:
    rank = len(tensor.shape)
    for axis in (section.batch_axis, *section.lengths):
        if axis >= rank:
            raise LoadError(f"{place}: axis {axis} is not there; the graph gives {tensor.name!r} {rank} axes")
        if isinstance(tensor.shape[axis], int):
            raise LoadError(
                f"{place}: axis {axis} of {tensor.name!r} is fixed to {tensor.shape[axis]} in the graph;"
                " export it with a dynamic axis"
            )
    for axis, size in enumerate(tensor.shape):
        if not isinstance(size, int) and axis != section.batch_axis and axis not in section.lengths:
            raise LoadError(
                f"{place}: axis {axis} of {tensor.name!r} is open; fix its size in the graph,"
                " or name the length that it varies with"
            )


def _check_successor(tensor: GraphTensor, successor: GraphTensor, section: StateSection, place: str) -> None:
    """What comes out of a step must be what the next one takes, as far as the graph tells."""
    for axis, (size, after) in enumerate(zip(tensor.shape, successor.shape, strict=False)):
        varies = axis == section.batch_axis or axis in section.lengths
        if not varies and isinstance(size, int) and isinstance(after, int) and size != after:
            raise LoadError(
                f"{place}.output: axis {axis} of {section.output!r} is {after}, axis {axis} of the input"
                f" {section.input!r} is {size}; make them equal in the graph"
            )
    if len(tensor.shape) != len(successor.shape):
        raise LoadError(
            f"{place}.output: {section.output!r} has {len(successor.shape)} axes, the input {section.input!r}"
            f" {len(tensor.shape)}; make them equal in the graph"
        )


def _check_prefill(section: StateSection, prefill: ModelSpec, datatype: str, place: str) -> None:
    tensor = prefill.output(section.prefill)
    if tensor is None:
        names = ", ".join(one.name for one in prefill.outputs)
        raise LoadError(
            f"{place}.prefill: the prefill graph has no output {section.prefill!r}; it has {names}"
        )
    if tensor.datatype != datatype:
        raise LoadError(f"{place}.prefill: it is {tensor.datatype}, the state is {datatype}; make them equal")
    if tensor.spec.batch_axis != section.batch_axis or dict(tensor.spec.lengths) != dict(section.lengths):
        raise LoadError(
            f"{place}: its batch_axis and lengths differ from those of prefill.outputs.{section.prefill};"
            " write the same in both"
        )


def check_roles_without_oneshot(spec: ModelSpec, file: str) -> None:
    """What a model without a one-shot graph needs: whatever `[roles]` names is in the step graph.

    Raises:
        LoadError: it is not.
    """
    for role in ("scores", "vector", "attention"):
        name = getattr(spec.manifest.roles, role)
        if name and spec.output(name) is None:
            there = ", ".join(tensor.name for tensor in spec.outputs)
            raise LoadError(f"{file}: roles.{role}: the step graph has no output {name!r}; it has {there}")


def _check_roles(spec: ModelSpec, file: str) -> None:
    manifest, roles = spec.manifest, spec.manifest.roles
    if manifest.task in ("generate", "translate"):
        if spec.output(roles.scores) is None:
            names = ", ".join(tensor.name for tensor in spec.outputs)
            raise LoadError(f"{file}: roles.scores: name the step graph's output of scores; it has {names}")
        if not spec.text_input:
            raise LoadError(f"{file}: roles.input: name the step graph's input that takes the token")
        if roles.input and not any(one.input(roles.input) for one in (spec, spec.prefill) if one):
            raise LoadError(f"{file}: roles.input: neither graph has an input {roles.input!r}")
        if roles.attention and spec.output(roles.attention) is None:
            raise LoadError(f"{file}: roles.attention: the step graph has no output {roles.attention!r}")
    begins = manifest.text is not None and manifest.text.begin is not None
    scored = spec.prefill is not None and spec.prefill.output(roles.scores) is not None
    if manifest.task == "generate" and spec.prefill is not None and not (scored or begins):
        raise LoadError(
            f"{file}: text.begin: is missing; the prefill graph gives no {roles.scores!r}, so name the id"
            " that follows a prompt"
        )
    if manifest.task == "translate" and spec.prefill is None:
        raise LoadError(f"{file}: prefill: is missing; a translator takes its source in through it")
    if manifest.task == "translate" and not begins:
        raise LoadError(f"{file}: text.begin: is missing; name the id that a translation starts from")


def _names(tensors: Mapping[str, GraphTensor]) -> str:
    return ", ".join(tensors)

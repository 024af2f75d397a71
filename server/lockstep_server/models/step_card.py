"""The card of a step-wise face: the step graph's tensors, its states taken out and paired by name.

step graph, prefill graph, manifest -> a `Card` whose inputs and outputs are those of one step, with
its states beside them and the prefill graph's card, if any, inside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import LoadError
from .card import Card, GraphTensor, StateCard, checked_tensor, guess_batch_axis, no_strangers
from .datatypes import from_onnx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .card import Graph
    from .manifest import Manifest, State, Stepwise


def make_step_card(
    name: str, version: int, graph: Graph, prefill: Graph | None, manifest: Manifest, file: str
) -> Card:
    """Join the graphs with the manifest's `[stepwise]` and `[prefill]`. `file` is named in errors.

    Raises:
        LoadError: a state that the graphs do not have as the manifest says, or a type or an axis
            that does not fit.
    """
    stepwise = manifest.stepwise
    assert stepwise is not None
    first = _prefill_card(name, version, prefill, manifest, file) if prefill else None
    states = _states(graph, stepwise, first, file)
    card = Card(
        name,
        version,
        manifest,
        inputs=(),
        outputs=(),
        face="stepwise",
        model=name,
        states=states,
        prefill=first,
    )
    card = _with_tensors(card, graph, stepwise, file)
    _check_roles(card, file)
    return card


def _with_tensors(card: Card, graph: Graph, stepwise: Stepwise, file: str) -> Card:
    """The step's own inputs and outputs: what is neither a state nor its successor."""
    carried = {state.input for state in stepwise.state}
    given = {state.output for state in stepwise.state if state.output}
    inputs = [tensor for tensor in graph.inputs if tensor.name not in carried]
    outputs = [tensor for tensor in graph.outputs if tensor.name not in given]
    no_strangers(stepwise.inputs, inputs, f"{file}: stepwise.inputs")
    no_strangers(stepwise.outputs, outputs, f"{file}: stepwise.outputs")
    taken = tuple(checked_tensor(t, stepwise.inputs, f"{file}: stepwise.inputs") for t in inputs)
    told = tuple(checked_tensor(t, stepwise.outputs, f"{file}: stepwise.outputs") for t in outputs)
    if not stepwise.inputs and not stepwise.outputs:
        taken, told = guess_batch_axis(taken, told)
    carrying = {name for state in card.states for name in state.words.lengths.values()}
    for tensor in taken:
        if tensor.words.of and tensor.words.of not in carrying:
            raise LoadError(
                f"{file}: stepwise.inputs.{tensor.name}.of: no state has the length {tensor.words.of!r};"
                f" name one of {', '.join(sorted(carrying)) or 'none'}"
            )
    return replace(card, inputs=taken, outputs=told)


def _prefill_card(name: str, version: int, graph: Graph, manifest: Manifest, file: str) -> Card:
    words = manifest.prefill
    assert words is not None
    no_strangers(words.inputs, graph.inputs, f"{file}: prefill.inputs")
    no_strangers(words.outputs, graph.outputs, f"{file}: prefill.outputs")
    card = Card(
        name,
        version,
        manifest,
        tuple(checked_tensor(t, words.inputs, f"{file}: prefill.inputs") for t in graph.inputs),
        tuple(checked_tensor(t, words.outputs, f"{file}: prefill.outputs") for t in graph.outputs),
        face="prefill",
        model=name,
    )
    if not card.text_input:
        raise LoadError(f"{file}: prefill.inputs: one must take the ids; mark the others as generated")
    return card


def _states(graph: Graph, stepwise: Stepwise, prefill: Card | None, file: str) -> tuple[StateCard, ...]:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    if not stepwise.state:
        raise LoadError(f"{file}: stepwise.state: there is none; add a [[stepwise.state]] for each state")
    return tuple(_state(state, inputs, outputs, prefill, file) for state in stepwise.state)


def _state(
    words: State,
    inputs: Mapping[str, GraphTensor],
    outputs: Mapping[str, GraphTensor],
    prefill: Card | None,
    file: str,
) -> StateCard:
    place = f"{file}: stepwise.state[{words.name}]"
    if words.input not in inputs:
        raise LoadError(
            f"{place}.input: the step graph has no input {words.input!r}; it has {_names(inputs)}"
        )
    if words.output and words.output not in outputs:
        raise LoadError(
            f"{place}.output: the step graph has no output {words.output!r}; it has {_names(outputs)}"
        )
    tensor = inputs[words.input]
    known = from_onnx(tensor.onnx_type)
    if known is None or known[0] == "BYTES":
        raise LoadError(f"{place}.input: a state of type {tensor.onnx_type} cannot be kept; make it a number")
    _check_axes(tensor, words, place)
    if words.output and outputs[words.output].onnx_type != tensor.onnx_type:
        raise LoadError(
            f"{place}.output: it is {outputs[words.output].onnx_type} and the input {tensor.onnx_type};"
            " make them equal in the graph"
        )
    if words.output:
        _check_successor(tensor, outputs[words.output], words, place)
    if words.prefill and prefill is not None:
        _check_prefill(words, prefill, known[0], place)
    return StateCard(known[0], tensor.shape, words)


def _check_axes(tensor: GraphTensor, words: State, place: str) -> None:
    rank = len(tensor.shape)
    for axis in (words.batch_axis, *words.lengths):
        if axis >= rank:
            raise LoadError(f"{place}: axis {axis} is not there; the graph gives {tensor.name!r} {rank} axes")
        if isinstance(tensor.shape[axis], int):
            raise LoadError(
                f"{place}: axis {axis} of {tensor.name!r} is fixed to {tensor.shape[axis]} in the graph;"
                " export it with a dynamic axis"
            )
    for axis, size in enumerate(tensor.shape):
        if not isinstance(size, int) and axis != words.batch_axis and axis not in words.lengths:
            raise LoadError(
                f"{place}: axis {axis} of {tensor.name!r} is open; fix its size in the graph,"
                " or name the length that it varies with"
            )


def _check_successor(tensor: GraphTensor, successor: GraphTensor, words: State, place: str) -> None:
    """What comes out of a step must be what the next one takes, as far as the graph tells."""
    for axis, (size, after) in enumerate(zip(tensor.shape, successor.shape, strict=False)):
        varies = axis == words.batch_axis or axis in words.lengths
        if not varies and isinstance(size, int) and isinstance(after, int) and size != after:
            raise LoadError(
                f"{place}.output: axis {axis} of {words.output!r} is {after}, of the input {words.input!r}"
                f" {size}; make them equal in the graph"
            )
    if len(tensor.shape) != len(successor.shape):
        raise LoadError(
            f"{place}.output: {words.output!r} has {len(successor.shape)} axes, the input {words.input!r}"
            f" {len(tensor.shape)}; make them equal in the graph"
        )


def _check_prefill(words: State, prefill: Card, datatype: str, place: str) -> None:
    tensor = prefill.output(words.prefill)
    if tensor is None:
        names = ", ".join(one.name for one in prefill.outputs)
        raise LoadError(f"{place}.prefill: the prefill graph has no output {words.prefill!r}; it has {names}")
    if tensor.datatype != datatype:
        raise LoadError(f"{place}.prefill: it is {tensor.datatype}, the state is {datatype}; make them equal")
    if tensor.words.batch_axis != words.batch_axis or dict(tensor.words.lengths) != dict(words.lengths):
        raise LoadError(
            f"{place}: its batch_axis and lengths differ from those of prefill.outputs.{words.prefill};"
            " write the same in both"
        )


def check_only_face(card: Card, file: str) -> None:
    """What a model without a one-shot graph needs: whatever `[roles]` names is in the step graph.

    Raises:
        LoadError: it is not.
    """
    for role in ("scores", "vector", "attention"):
        name = getattr(card.manifest.roles, role)
        if name and card.output(name) is None:
            there = ", ".join(tensor.name for tensor in card.outputs)
            raise LoadError(f"{file}: roles.{role}: the step graph has no output {name!r}; it has {there}")


def _check_roles(card: Card, file: str) -> None:
    manifest, roles = card.manifest, card.manifest.roles
    if manifest.task in ("generate", "translate"):
        if card.output(roles.scores) is None:
            names = ", ".join(tensor.name for tensor in card.outputs)
            raise LoadError(f"{file}: roles.scores: name the step graph's output of scores; it has {names}")
        if not card.text_input:
            raise LoadError(f"{file}: roles.input: name the step graph's input that takes the token")
        if roles.input and not any(one.input(roles.input) for one in (card, card.prefill) if one):
            raise LoadError(f"{file}: roles.input: neither graph has an input {roles.input!r}")
        if roles.attention and card.output(roles.attention) is None:
            raise LoadError(f"{file}: roles.attention: the step graph has no output {roles.attention!r}")
    begins = manifest.text is not None and manifest.text.begin is not None
    scored = card.prefill is not None and card.prefill.output(roles.scores) is not None
    if manifest.task == "generate" and card.prefill is not None and not (scored or begins):
        raise LoadError(
            f"{file}: text.begin: is missing; the prefill graph gives no {roles.scores!r}, so name the id"
            " that follows a prompt"
        )
    if manifest.task == "translate" and card.prefill is None:
        raise LoadError(f"{file}: prefill: is missing; a translator takes its source in through it")
    if manifest.task == "translate" and not begins:
        raise LoadError(f"{file}: text.begin: is missing; name the id that a translation starts from")


def _names(tensors: Mapping[str, GraphTensor]) -> str:
    return ", ".join(tensors)

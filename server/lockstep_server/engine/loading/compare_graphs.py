"""Compares single steps with whole graphs: ids through the one-shot or the prefill graph, and one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model.prompts import elements_of, sent_inputs, takes_prompt
from ..runtime.batching import difference, tolerance
from ..stepwise import client_steps, prefill
from ..stepwise.client_prompts import prompt_of_tensors
from ..stepwise.sampler import next_scores
from ..stepwise.sequence import ClientSequence, StepRequest
from ..stepwise.slots import initial_states
from .drawing import Drawing
from .selftest import run_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_COMPARED_LENGTHS = (1, 2, 5, 11)
"""Lengths for which single steps are compared with the one-shot and the prefill graph."""


def prompt_limits(graph: ModelSpec | None) -> list[int]:
    """The longest prompt that the manifest allows, by each of its lengths."""
    if graph is None:
        return []
    named = {name for tensor in sent_inputs(graph.reader) for name in tensor.spec.lengths.values()}
    return [graph.manifest.lengths[name].max for name in sorted(named)]


def draw_prompt(graph: ModelSpec, length: int, rng: np.random.Generator) -> prefill.Prompt:
    """A random prompt of about so many elements: ids, or tensors if the model does not generate."""
    length = max(min((length, *prompt_limits(graph))), 1)
    if not graph.manifest.generates:
        drawing = Drawing(graph, rng)
        return prompt_of_tensors(graph, drawing.inputs(1, drawing.lengths(length)))
    tensor = graph.reader.text_tensor
    assert tensor is not None
    return prefill.prompt_of(graph, rng.integers(*(tensor.spec.range or (0, 2)), size=length).tolist())


def step_all(
    spec: ModelSpec, session: OnnxSession, starts: Sequence[Arrays], inputs: Sequence[Sequence[Arrays]]
) -> list[list[Arrays]]:
    """The answers of each sequence at each of its steps, with all live sequences in one batch."""
    sequences = [ClientSequence(i, 0.0, states=dict(start)) for i, start in enumerate(starts)]
    answers: list[list[Arrays]] = [[] for _ in starts]
    for step in range(max(map(len, inputs))):
        requests = [
            StepRequest(i, inputs[i][step], (), 0.0, None, sequences[i])
            for i in range(len(inputs))
            if step < len(inputs[i])
        ]
        for group in client_steps.group_steps(spec, requests, len(requests)):
            outputs, block = client_steps.run_group(spec, session, group)
            for row, (request, output) in enumerate(zip(group, outputs, strict=True)):
                answers[request.key].append(output)
                request.sequence.states = block.take(row)
    return answers


def compare_graphs(
    spec: ModelSpec,
    session: OnnxSession,
    prefill_session: OnnxSession | None,
    oneshot: tuple[ModelSpec, OnnxSession] | None,
    rng: np.random.Generator,
) -> str:
    """How single steps differ from the one-shot or the prefill graph; empty if they do not."""
    if takes_prompt(spec) and prefill_session is not None:
        return _compare_with_prompts(spec, session, prefill_session, rng)
    others = []
    if oneshot is not None:
        others.append(("the one-shot graph", *oneshot))
    scores = spec.manifest.roles.scores
    if prefill_session is not None and spec.prefill is not None and spec.prefill.output(scores):
        if spec.prefill.encoder is not None:
            return _compare_decoder_graphs(spec, session, prefill_session, rng)
        others.append(("the prefill graph", spec.prefill, prefill_session))
    for graph, other, other_session in others:
        tensor = other.text_tensor
        if tensor is None or len(tensor.shape) != 2 or not spec.text_input:
            continue  # without ids, it is unknown how the input splits into steps
        limits = [other.manifest.lengths[name].max for name in tensor.spec.lengths.values()]
        lengths = sorted({min(n, *limits) for n in _COMPARED_LENGTHS}) if limits else _COMPARED_LENGTHS
        for length in lengths:
            ids = rng.integers(*(tensor.spec.range or (0, 2)), size=length).tolist()
            last_step = _of_last_position(spec, _step_through(spec, session, ids))
            whole = _of_last_position(other, run_ids(other, other_session, ids))
            if found := _first_difference(last_step, whole, other):
                return f"{graph} differs from {length} steps: {found}"
    return ""


def _compare_with_prompts(
    spec: ModelSpec, session: OnnxSession, prefill_session: OnnxSession, rng: np.random.Generator
) -> str:
    """How a prompt of tensors differs from a step for each of its elements, in its answer and in that of the
    next step; empty if it does not. Steps that need a prompt first have no answer to compare."""
    assert spec.prefill is not None
    if any(state.dynamic_axis and not state.spec.grows for state in spec.states):
        return ""
    alone = replace(spec.prefill, batched=False)
    for length in sorted({min((n, *prompt_limits(spec.prefill))) for n in _COMPARED_LENGTHS}):
        prompt = draw_prompt(spec.prefill, length, rng)
        (whole,) = prefill.run(alone, prefill_session, [prompt])
        elements = [_element(spec, prompt, index) for index in range(length)]
        begun = initial_states(spec)
        after = [initial_states(spec, whole), begun]
        stepped, read = step_all(spec, session, after, [elements[:1], [*elements, elements[0]]])
        if found := _first_difference(read[-2], whole, spec):
            return f"the prefill graph differs from {length} steps: {found}"
        if found := _first_difference(read[-1], stepped[0], spec):
            return f"a step after a prompt of {length} differs from one after as many steps: {found}"
    return ""


def _element(spec: ModelSpec, prompt: prefill.Prompt, index: int) -> Arrays:
    """The inputs of the step that reads one element of a prompt."""
    inputs = {}
    for tensor, step, axis in elements_of(spec):
        batch_axis = tensor.spec.batch_axis or 0
        element = prompt.inputs[tensor.name].take(index, axis).take(0, batch_axis - (axis < batch_axis))
        shape = list(step.wire_shape())
        shape[step.spec.batch_axis or 0] = 1
        inputs[step.name] = element.reshape(shape)
    return inputs


def _compare_decoder_graphs(
    spec: ModelSpec, session: OnnxSession, prefill_session: OnnxSession, rng: np.random.Generator
) -> str:
    """How a step differs from the prefill graph with one more id, after a source; empty if it does not."""
    graph, begin = spec.prefill, spec.manifest.begin
    assert graph is not None
    source, token = graph.reader.text_tensor, spec.text_tensor
    assert source is not None
    assert token is not None
    alone = replace(graph, batched=False)
    for length in _COMPARED_LENGTHS[1:]:
        ids = rng.integers(*(source.spec.range or (0, 2)), size=min((length, *prompt_limits(graph)))).tolist()
        more = int(rng.integers(*(token.spec.range or (0, 2))))
        (start,) = prefill.run(alone, prefill_session, [prefill.prompt_of(graph, ids)])
        (whole,) = prefill.run(alone, prefill_session, [prefill.prompt_of(graph, ids, (*begin, more))])
        step = _step_through(spec, session, [more], initial_states(spec, start))
        if found := _first_difference(_of_last_position(spec, step), _of_last_position(graph, whole), graph):
            return f"the prefill graph differs from a step after a source of {len(ids)} ids: {found}"
    return ""


def _of_last_position(spec: ModelSpec, outputs: Arrays) -> Arrays:
    """These outputs of one row; of a model that generates, the scores of the last position."""
    tensor = spec.output(spec.manifest.roles.scores)
    if tensor is None or not spec.manifest.generates:
        return outputs
    section = tensor.spec
    return {
        **outputs,
        tensor.name: next_scores(outputs[tensor.name], section.batch_axis, 1, section.position),
    }


def _step_through(
    spec: ModelSpec, session: OnnxSession, ids: Sequence[int], states: Arrays | None = None
) -> Arrays:
    """The outputs of the last of one step per id, after `states` or from the beginning."""
    tensor = spec.text_tensor
    assert tensor is not None
    dtype = np.int32 if tensor.datatype == "INT32" else np.int64
    shape = [1] * max(len(tensor.shape), 1)
    steps = [{tensor.name: np.full(shape, token, dtype)} for token in ids]
    return step_all(spec, session, [states or initial_states(spec)], [steps])[0][-1]


def _first_difference(steps: Mapping[str, Array], whole: Mapping[str, Array], spec: ModelSpec) -> str:
    for name in steps.keys() & whole.keys():
        if steps[name].shape == whole[name].shape:
            apart, _ = difference(steps[name], whole[name])
            if apart > tolerance(spec, whole[name]):
                return f"output {name!r} by {apart:.2g}"
    return ""

"""The self-test of a step-wise model: batched sequences must answer as unbatched ones do.

random sequences → each stepped unbatched → all stepped together, joining and leaving batches → compare

If the model has a one-shot or prefill graph too, the same ids go through that graph and through single
steps, and the answers must agree.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model.spec import batchable
from ..stepwise import client_steps, prefill
from ..stepwise.sequence import ClientSequence, StepRequest
from ..stepwise.slots import growing_lengths, initial_states, key_of, lengths_of
from .selftest import difference, draw, first_line, run_ids, tolerance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_LENGTHS = (6, 3, 9, 1, 7, 2, 8, 5, 4, 9, 6)
"""Number of steps of each sequence. They differ, so that the batch shrinks as sequences end."""

_COMPARED_LENGTHS = (1, 2, 5, 11)
"""Lengths for which single steps are compared with the one-shot and the prefill graph."""


@dataclass(frozen=True)
class StepSelfTestResult:
    """The result of the self-test of a step-wise model."""

    batched: bool  # batched and unbatched answers are equal within the tolerance
    deterministic: bool = False  # they are bit-identical
    padding_invariant: bool = False  # they stay so for every padding of the states
    reason: str = ""  # why not batched; empty if batched
    disagreement: str = ""  # difference to the one-shot or prefill graph; empty if there is none


def check(
    spec: ModelSpec,
    session: OnnxSession,
    prefill_session: OnnxSession | None,
    oneshot: tuple[ModelSpec, OnnxSession] | None,
    seed: int = 0,
) -> StepSelfTestResult:
    """Run the self-test. Never raises because of the model."""
    rng = np.random.default_rng(seed)
    try:
        disagreement = _compare_graphs(spec, session, prefill_session, oneshot, rng)
    except Exception as error:  # the graphs may fail on random input
        disagreement = f"the graphs could not be compared: {first_line(error)}"
    if not batchable(spec):
        reason = "not every input and output of a step has a batch_axis"
        return StepSelfTestResult(batched=False, reason=reason, disagreement=disagreement)
    try:
        result = _compare_batched(replace(spec, batched=True), session, prefill_session, rng)
    except Exception as error:
        reason = f"the self-test could not run: {first_line(error)}"
        return StepSelfTestResult(batched=False, reason=reason, disagreement=disagreement)
    return replace(result, disagreement=disagreement)


def warm_up(
    spec: ModelSpec, session: OnnxSession, prefill_session: OnnxSession | None, seed: int = 0
) -> None:
    """Run the graphs at the sizes of the self-test, so that no sequence pays for the first run of a size.

    Never raises because of the model.
    """
    rng = np.random.default_rng(seed)
    with suppress(Exception):  # the graphs may fail on random input
        starts = [_start(spec, prefill_session, 3 + 5 * i, rng) for i in range(len(_LENGTHS))]
        inputs = [[_draw_step(spec, rng) for _ in range(count)] for count in _LENGTHS]
        _step_all(spec, session, starts[:1], inputs[:1])
        if spec.batched:
            _step_all(spec, session, starts, inputs)
            if prefill_session is not None and spec.prefill is not None:
                _is_prefill_identical(spec.prefill, prefill_session, rng)


def apply_result(spec: ModelSpec, result: StepSelfTestResult) -> ModelSpec:
    """The spec with the result of the self-test, and with a notice for callers if it failed."""
    notices = [f"sequences are not batched: {result.reason}"] if result.reason else []
    notices += [result.disagreement] if result.disagreement else []
    return replace(
        spec,
        batched=result.batched,
        deterministic=result.deterministic,
        padding_invariant=result.padding_invariant,
        notice="; ".join(notices),
        prefill=replace(spec.prefill, batched=result.batched) if spec.prefill else None,
    )


# --- batched and unbatched ----------------------------------------------------------------------------


def _compare_batched(
    spec: ModelSpec, session: OnnxSession, prefill_session: OnnxSession | None, rng: np.random.Generator
) -> StepSelfTestResult:
    starts = [_start(spec, prefill_session, 3 + 5 * i, rng) for i in range(len(_LENGTHS))]
    inputs = [[_draw_step(spec, rng) for _ in range(count)] for count in _LENGTHS]
    unbatched = [
        _step_all(spec, session, [start], [steps])[0] for start, steps in zip(starts, inputs, strict=True)
    ]
    if reason := _padding_difference(spec, session, starts, inputs, unbatched):
        return StepSelfTestResult(batched=False, reason=reason)
    batched = _step_all(spec, session, starts, inputs)
    identical = True
    for expected_steps, answered_steps in zip(unbatched, batched, strict=True):
        for expected, answer in zip(expected_steps, answered_steps, strict=True):
            for name in expected:
                apart, equal = difference(expected[name], answer[name])
                identical = identical and equal
                if apart > tolerance(spec, expected[name]):
                    reason = f"output {name!r} of a sequence differs by {apart:.2g} in a batch"
                    return StepSelfTestResult(batched=False, reason=reason)
    if prefill_session is not None and spec.prefill is not None:
        identical = identical and _is_prefill_identical(spec.prefill, prefill_session, rng)
    invariant = not identical or _is_padding_invariant(spec, session, starts, inputs, unbatched)
    return StepSelfTestResult(batched=True, deterministic=identical, padding_invariant=invariant)


def _is_padding_invariant(
    spec: ModelSpec,
    session: OnnxSession,
    starts: Sequence[Arrays],
    inputs: Sequence[Sequence[Arrays]],
    answers: Sequence[Sequence[Arrays]],
) -> bool:
    """Whether every step is bit-identical in buckets of 2 and 4 times the sequence's size."""
    for times in (2, 4):
        for start, steps, expected_steps in zip(starts, inputs, answers, strict=True):
            sequence = ClientSequence(0, 0.0, states=dict(start))
            for values, expected in zip(steps, expected_steps, strict=True):
                assert sequence.states is not None
                key = tuple(
                    (name, min(size * times, spec.manifest.lengths[name].max))
                    for name, size in key_of(spec, lengths_of(spec, sequence.states))
                )
                request = StepRequest(0, values, (), 0.0, None, sequence)
                (answer,), (sequence.states,) = client_steps.run_group(spec, session, [request], key)
                if not all(difference(expected[name], answer[name])[1] for name in expected):
                    return False
    return True


def _padding_difference(
    spec: ModelSpec,
    session: OnnxSession,
    starts: Sequence[Arrays],
    inputs: Sequence[Sequence[Arrays]],
    answers: Sequence[Sequence[Arrays]],
) -> str:
    """How the first answers differ if the states are not padded at all; empty if they do not."""
    if not any(state.spec.lengths for state in spec.states) or growing_lengths(spec):
        return ""
    for start, steps, padded in zip(starts, inputs, answers, strict=True):
        request = StepRequest(0, steps[0], (), 0.0, None, ClientSequence(0, 0.0, states=dict(start)))
        exact = tuple(sorted(lengths_of(spec, start).items()))
        (unpadded,), _ = client_steps.run_group(spec, session, [request], exact)
        for name, expected in unpadded.items():
            apart, _ = difference(expected, padded[0][name])
            if apart > tolerance(spec, expected):
                return f"padding changes the answer: output {name!r} differs by {apart:.2g}"
    return ""


def _start(
    spec: ModelSpec, prefill_session: OnnxSession | None, length: int, rng: np.random.Generator
) -> Arrays:
    """The initial states of a sequence, after a random prompt if there is a prefill graph."""
    if spec.prefill is None or prefill_session is None:
        return initial_states(spec)
    (output,) = prefill.run(spec.prefill, prefill_session, [_draw_prompt(spec.prefill, length, rng)])
    return initial_states(spec, output)


def _draw_prompt(prefill_spec: ModelSpec, length: int, rng: np.random.Generator) -> prefill.Prompt:
    tensor = prefill_spec.input(prefill_spec.text_input)
    assert tensor is not None
    limits = [prefill_spec.manifest.lengths[name].max for name in tensor.spec.lengths.values()]
    ids = rng.integers(*(tensor.spec.range or (0, 2)), size=min(length, *limits) if limits else length)
    return prefill.prompt_of(prefill_spec, ids.tolist())


def _is_prefill_identical(prefill_spec: ModelSpec, session: OnnxSession, rng: np.random.Generator) -> bool:
    """Whether batched and unbatched prefill runs are bit-identical."""
    prompts = [_draw_prompt(prefill_spec, length, rng) for length in (3, 17, 1, 9)]
    batched = prefill.run(replace(prefill_spec, batched=True), session, prompts)
    unbatched = [prefill.run(prefill_spec, session, [prompt])[0] for prompt in prompts]
    return all(
        difference(expected[name], answer[name])[1]
        for expected, answer in zip(unbatched, batched, strict=True)
        for name in expected
    )


def _draw_step(spec: ModelSpec, rng: np.random.Generator) -> Arrays:
    return {
        tensor.name: draw(spec, tensor, 1, (1,) * len(spec.length_names), rng)
        for tensor in spec.inputs
        if not tensor.spec.generated and not tensor.optional
    }


def _step_all(
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
            outputs, states = client_steps.run_group(spec, session, group)
            for request, output, state in zip(group, outputs, states, strict=True):
                answers[request.key].append(output)
                request.sequence.states = state
    return answers


# --- steps and whole sequences --------------------------------------------------------------------------


def _compare_graphs(
    spec: ModelSpec,
    session: OnnxSession,
    prefill_session: OnnxSession | None,
    oneshot: tuple[ModelSpec, OnnxSession] | None,
    rng: np.random.Generator,
) -> str:
    """How single steps differ from the one-shot or the prefill graph; empty if they do not."""
    others = []
    if oneshot is not None:
        others.append(("the one-shot graph", *oneshot))
    scores = spec.manifest.roles.scores
    if prefill_session is not None and spec.prefill is not None and spec.prefill.output(scores):
        others.append(("the prefill graph", spec.prefill, prefill_session))
    for graph, other, other_session in others:
        tensor = other.input(other.text_input)
        if tensor is None or len(tensor.shape) != 2 or not spec.text_input:
            continue  # without ids, it is unknown how the input splits into steps
        limits = [other.manifest.lengths[name].max for name in tensor.spec.lengths.values()]
        lengths = sorted({min(n, *limits) for n in _COMPARED_LENGTHS}) if limits else _COMPARED_LENGTHS
        for length in lengths:
            ids = rng.integers(*(tensor.spec.range or (0, 2)), size=length).tolist()
            last_step = _step_through(spec, session, ids)
            if found := _first_difference(last_step, run_ids(other, other_session, ids), other):
                return f"{graph} differs from {length} steps: {found}"
    return ""


def _step_through(spec: ModelSpec, session: OnnxSession, ids: Sequence[int]) -> Arrays:
    """The outputs of the last of one step per id."""
    tensor = spec.input(spec.text_input)
    assert tensor is not None
    dtype = np.int32 if tensor.datatype == "INT32" else np.int64
    shape = [1] * max(len(tensor.shape), 1)
    steps = [{tensor.name: np.full(shape, token, dtype)} for token in ids]
    return _step_all(spec, session, [initial_states(spec)], [steps])[0][-1]


def _first_difference(steps: Mapping[str, Array], whole: Mapping[str, Array], spec: ModelSpec) -> str:
    for name in steps.keys() & whole.keys():
        if steps[name].shape == whole[name].shape:
            apart, _ = difference(steps[name], whole[name])
            if apart > tolerance(spec, whole[name]):
                return f"output {name!r} by {apart:.2g}"
    return ""

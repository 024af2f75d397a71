"""Promise 1 for sequences: in company, each answers as it would alone, bit for bit if it can.

random sequences -> each alone -> several at once, joining and leaving through the engine's own
blocks -> compare. Where a model has two forms, or a prefill graph, the same elements go through
both ways in, and must come to the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model.spec import batchable
from ..stepwise import client_steps, prefill
from ..stepwise.sequence import ClientSequence, StepRequest
from ..stepwise.slots import growing_lengths, initial_states, key_of, lengths_of
from .selftest import NotBatchable, difference, draw, line, tolerance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_LENGTHS = (6, 3, 9, 1, 7, 2, 8, 5, 4, 9, 6)
"""Elements of the sequences that step together: as they end, the company changes."""

_FACE_LENGTHS = (1, 2, 5, 11)


@dataclass(frozen=True)
class Steps:
    """What the self-test of a step-wise form found."""

    batched: bool
    deterministic: bool = False
    padding_invariant: bool = False
    reason: str = ""
    disagreement: str = ""  # how two ways in differ; empty where they agree


def check(
    spec: ModelSpec,
    session: OnnxSession,
    first: OnnxSession | None,
    oneshot: tuple[ModelSpec, OnnxSession] | None,
    seed: int = 0,
) -> Steps:
    """Run the self-test. Never raises for what the model does."""
    rng = np.random.default_rng(seed)
    try:
        disagreement = _compare_ways(spec, session, first, oneshot, rng)
    except Exception as error:  # whatever the graphs may do with random input
        disagreement = f"the two ways in could not be compared: {line(error)}"
    if not batchable(spec):
        return Steps(
            batched=False,
            reason="no batch_axis on every input and output of a step",
            disagreement=disagreement,
        )
    try:
        return replace(
            _compare_company(replace(spec, batched=True), session, first, rng), disagreement=disagreement
        )
    except Exception as error:
        return Steps(
            batched=False, reason=f"the self-test could not run: {line(error)}", disagreement=disagreement
        )


def judged(spec: ModelSpec, found: Steps) -> ModelSpec:
    """The card with what was found, and what callers should know."""
    notes = [f"sequences step alone: {found.reason}"] if found.reason else []
    notes += [found.disagreement] if found.disagreement else []
    first = replace(spec.prefill, batched=found.batched) if spec.prefill else None
    return replace(
        spec,
        batched=found.batched,
        deterministic=found.deterministic,
        padding_invariant=found.padding_invariant,
        notice="; ".join(notes),
        prefill=first,
    )


# --- company ------------------------------------------------------------------------------------------


def _compare_company(
    spec: ModelSpec, session: OnnxSession, first: OnnxSession | None, rng: np.random.Generator
) -> Steps:
    starts = [_start(spec, first, 3 + 5 * i, rng) for i in range(len(_LENGTHS))]
    elements = [[_element(spec, rng) for _ in range(count)] for count in _LENGTHS]
    alone = [_walk(spec, session, [start], [given])[0] for start, given in zip(starts, elements, strict=True)]
    if told := _padding_tells(spec, session, starts, elements, alone):
        return Steps(batched=False, reason=told)
    together = _walk(spec, session, starts, elements)
    same = True
    for one, other in zip(alone, together, strict=True):
        for before, after in zip(one, other, strict=True):
            for name, expected in before.items():
                apart, equal = difference(expected, after[name])
                same = same and equal
                if apart > tolerance(spec, expected):
                    return Steps(
                        batched=False,
                        reason=f"output {name!r} of a sequence differs by {apart:.2g} in company",
                    )
    if first is not None and spec.prefill is not None:
        same = same and _prefill_alike(spec.prefill, first, rng)
    free = not same or _pads_freely(spec, session, starts, elements, alone)
    return Steps(batched=True, deterministic=same, padding_invariant=free)


def _pads_freely(
    spec: ModelSpec,
    session: OnnxSession,
    starts: Sequence[Arrays],
    given: Sequence[Sequence[Arrays]],
    padded: Sequence[Sequence[Arrays]],
) -> bool:
    """Whether a longer bucket than a sequence's own gives the same bits, at every step."""
    for times in (2, 4):
        for start, elements, answers in zip(starts, given, padded, strict=True):
            client_sequence = ClientSequence(0, 0.0, states=dict(start))
            for values, expected in zip(elements, answers, strict=True):
                assert client_sequence.states is not None
                own = key_of(spec, lengths_of(spec, client_sequence.states))
                key = tuple((name, min(size * times, spec.manifest.lengths[name].max)) for name, size in own)
                element = StepRequest(0, values, (), 0.0, None, client_sequence)
                (answer,), (client_sequence.states,) = client_steps.run_group(spec, session, [element], key)
                if not all(difference(expected[name], answer[name])[1] for name in expected):
                    return False
    return True


def _padding_tells(
    spec: ModelSpec,
    session: OnnxSession,
    starts: Sequence[Arrays],
    given: Sequence[Sequence[Arrays]],
    padded: Sequence[Sequence[Arrays]],
) -> str:
    """How answers differ where a memory is not padded at all; empty where they do not."""
    if not any(state.spec.lengths for state in spec.states) or growing_lengths(spec):
        return ""
    for start, elements, answers in zip(starts, given, padded, strict=True):
        element = StepRequest(0, elements[0], (), 0.0, None, ClientSequence(0, 0.0, states=dict(start)))
        exact = tuple(sorted(lengths_of(spec, start).items()))
        (bare,), _ = client_steps.run_group(spec, session, [element], exact)
        for name, expected in bare.items():
            apart, _ = difference(expected, answers[0][name])
            if apart > tolerance(spec, expected):
                return f"padding changes its answers: output {name!r} differs by {apart:.2g}"
    return ""


def _start(spec: ModelSpec, first: OnnxSession | None, length: int, rng: np.random.Generator) -> Arrays:
    if spec.prefill is None or first is None:
        return initial_states(spec)
    (output,) = prefill.run(spec.prefill, first, [_prompt(spec.prefill, length, rng)])
    return initial_states(spec, output)


def _prompt(first: ModelSpec, length: int, rng: np.random.Generator) -> prefill.Prompt:
    tensor = first.input(first.text_input)
    assert tensor is not None
    longest = min((first.manifest.lengths[name].max for name in tensor.spec.lengths.values()), default=length)
    ids = rng.integers(*(tensor.spec.range or (0, 2)), size=min(length, longest))
    return prefill.prompt_of(first, ids.tolist())


def _prefill_alike(first: ModelSpec, session: OnnxSession, rng: np.random.Generator) -> bool:
    """Whether prompts give the same bits together as alone."""
    prompts = [_prompt(first, length, rng) for length in (3, 17, 1, 9)]
    together = prefill.run(replace(first, batched=True), session, prompts)
    alone = [prefill.run(first, session, [prompt])[0] for prompt in prompts]
    return all(
        difference(one[name], other[name])[1]
        for one, other in zip(alone, together, strict=True)
        for name in one
    )


def _element(spec: ModelSpec, rng: np.random.Generator) -> Arrays:
    return {
        tensor.name: draw(spec, tensor, 1, (1,) * len(spec.length_names), rng)
        for tensor in spec.inputs
        if not tensor.spec.generated and not tensor.optional
    }


def _walk(
    spec: ModelSpec, session: OnnxSession, starts: Sequence[Arrays], given: Sequence[Sequence[Arrays]]
) -> list[list[Arrays]]:
    """The answers of every sequence at every step, all that go on stepping together."""
    client_sequences = [ClientSequence(i, 0.0, states=dict(start)) for i, start in enumerate(starts)]
    answers: list[list[Arrays]] = [[] for _ in starts]
    for step in range(max(map(len, given))):
        members = [
            StepRequest(i, given[i][step], (), 0.0, None, client_sequences[i])
            for i in range(len(given))
            if step < len(given[i])
        ]
        for group in client_steps.group_steps(spec, members, len(members)):
            outputs, states = client_steps.run_group(spec, session, group)
            for element, output, state in zip(group, outputs, states, strict=True):
                answers[element.key].append(output)
                element.sequence.states = state
    return answers


# --- two ways in ----------------------------------------------------------------------------------------


def _compare_ways(
    spec: ModelSpec,
    session: OnnxSession,
    first: OnnxSession | None,
    oneshot: tuple[ModelSpec, OnnxSession] | None,
    rng: np.random.Generator,
) -> str:
    """How the step-wise form differs from the one-shot one, or from its prefill; empty if it does not."""
    others = []
    if oneshot is not None:
        others.append(("the one-shot graph", *oneshot))
    if first is not None and spec.prefill is not None and spec.prefill.output(spec.manifest.roles.scores):
        others.append(("the prefill graph", spec.prefill, first))
    for what, other, graph in others:
        tensor = other.input(other.text_input)
        if tensor is None or len(tensor.shape) != 2 or not spec.text_input:
            continue  # no ids: which elements make up its input cannot be told
        bounds = [other.manifest.lengths[name].max for name in tensor.spec.lengths.values()]
        for length in sorted({min(length, *bounds) for length in _FACE_LENGTHS} if bounds else _FACE_LENGTHS):
            ids = rng.integers(*(tensor.spec.range or (0, 2)), size=length).tolist()
            told = _differs(_fed(spec, session, ids), NotBatchable(other, graph).answer(ids), other)
            if told:
                return f"{what} differs from {length} steps: {told}"
    return ""


def _fed(spec: ModelSpec, session: OnnxSession, ids: Sequence[int]) -> Arrays:
    tensor = spec.input(spec.text_input)
    assert tensor is not None
    dtype = np.int32 if tensor.datatype == "INT32" else np.int64
    shape = [1] * max(len(tensor.shape), 1)
    elements = [{tensor.name: np.full(shape, one, dtype)} for one in ids]
    return _walk(spec, session, [initial_states(spec)], [elements])[0][-1]


def _differs(steps: Mapping[str, Array], whole: Mapping[str, Array], spec: ModelSpec) -> str:
    for name in steps.keys() & whole.keys():
        if steps[name].shape == whole[name].shape:
            apart, _ = difference(steps[name], whole[name])
            if apart > tolerance(spec, whole[name]):
                return f"output {name!r} by {apart:.2g}"
    return ""

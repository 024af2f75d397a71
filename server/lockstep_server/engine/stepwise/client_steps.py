"""Steps of client sequences: states of the sequences → one block → step → outputs, states back."""

from __future__ import annotations

from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import messages
from ...errors import ServingError, bad_input
from ..runtime.batching import RowMismatch
from ..runtime.engine_threads import not_after
from ..runtime.padding import value_of
from ..runtime.role_outputs import fault, has_role, with_best_labels
from ..runtime.verification import Recheck, shapes_of
from . import chunks
from .sequence import ClientSequence, StepRequest
from .slots import (
    PoolRow,
    StateBlock,
    StatePool,
    bucket,
    group_of,
    initial_states,
    is_full,
    key_of,
    lengths_of,
    widest,
    without_padding,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor
    from ..recorder import ModelRecorder
    from ..runtime.batching import Batching
    from ..runtime.session import OnnxSession
    from ..runtime.verification import Verifier
    from .device_states import StateGraphs
    from .host_states import Lengths
    from .slots import Key

    Array = np.ndarray[Any, Any]


class StepAnswer(NamedTuple):
    """The result of one step request: outputs or an error."""

    step: StepRequest
    outputs: Arrays | None
    error: Exception | None
    timings: messages.RequestTimings


def run_steps(
    spec: ModelSpec,
    session: OnnxSession,
    steps: Sequence[StepRequest],
    batching: Batching,
    clock: Callable[[], float],
    waited_s: float,
    verifier: Verifier | None = None,
    pool: StatePool | None = None,
    recorder: ModelRecorder | None = None,
) -> tuple[list[StepAnswer], list[messages.Run]]:
    """Run each request as one step of its sequence. The states of a sequence are in `pool`, if there is one.

    A failed run is retried request by request, so that only the request that causes the failure gets
    the error. Its sequence keeps its states.
    """
    runs: list[messages.Run] = []
    answers = [
        StepAnswer(step, None, _too_long_error(spec), messages.NO_TIMINGS)
        for step in steps
        if _is_full(spec, step)
    ]
    runnable = (step for step in steps if not _is_full(spec, step))
    waiting = group_steps(spec, runnable, batching.max_rows, pool)
    while waiting:
        group = waiting.pop()
        begun, rows = clock(), len(group)
        try:
            outputs, block = run_group(spec, session, group)
        except Exception as error:
            if isinstance(error, RowMismatch):
                batching.withdraw(error.message)
            if rows > 1:
                waiting.extend([step] for step in group)
                continue
            answers.append(StepAnswer(group[0], None, error, messages.NO_TIMINGS))
            if skipped := not_after(error):
                answers.extend(
                    StepAnswer(step, None, skipped, messages.NO_TIMINGS) for rest in waiting for step in rest
                )
                break
            continue
        took = clock() - begun
        if verifier is not None and rows > 1 and verifier.is_due(took):
            after = (named_states(block.take(row)) for row in range(rows))
            verifier.collected += [
                recheck(spec, session, step.inputs, _copy_of_states(step), {**answer, **state}, rows)
                for step, answer, state in zip(group, outputs, after, strict=True)
            ]
        _keep_states(group, block)
        runs.append(messages.Run.of_step(rows, bucket(rows), took, waited_s))
        if recorder is not None:
            keys, waited = tuple(step.key for step in group), begun - min(step.accepted for step in group)
            recorder.add("client-step", begun, rows, runs[-1], keys, waited)
        for step, step_outputs in zip(group, outputs, strict=True):
            step.sequence.steps += 1
            timings = messages.RequestTimings(begun - step.accepted, took, 1, float(rows))
            answers.append(answered(spec, step, step_outputs, timings))
    return answers, runs


def answered(
    spec: ModelSpec, step: StepRequest, outputs: Arrays, timings: messages.RequestTimings
) -> StepAnswer:
    """The result of a step that ran: its outputs, or why they cannot be read by their roles."""
    wrong = _fault(spec, step, outputs)
    found = with_best_labels(spec, outputs, step.outputs) if step.by_role else outputs
    return StepAnswer(step, None if wrong else found, wrong, timings)


def _fault(spec: ModelSpec, step: StepRequest, outputs: Arrays) -> ServingError | None:
    """Why the caller cannot read the outputs by their roles; its sequence goes on."""
    if not step.by_role:
        return None
    wanted = (tensor for tensor in spec.outputs if tensor.name in step.outputs and has_role(spec, tensor))
    return next(filter(None, (fault(spec, tensor, outputs[tensor.name]) for tensor in wanted)), None)


def _is_full(spec: ModelSpec, step: StepRequest) -> bool:
    states = step.sequence.states
    return isinstance(states, dict) and is_full(spec, lengths_of(spec, states))


def _too_long_error(spec: ModelSpec) -> ServingError:
    name = min(spec.growing_lengths, key=lambda name: spec.manifest.lengths[name].max)
    longest = spec.manifest.lengths[name].max
    return bad_input(
        name, f"the sequence has reached the model's limit of {longest} steps; start a new sequence"
    )


def group_steps(
    spec: ModelSpec, steps: Iterable[StepRequest], max_rows: int, pool: StatePool | None = None
) -> list[list[StepRequest]]:
    """Groups that can share a run: states of one bucket, inputs of one shape, or chunks of one bucket, equal
    inputs without a batch axis, at most `max_rows`."""
    shared = [tensor.name for tensor in spec.inputs if tensor.spec.batch_axis is None]
    by_key: dict[Hashable, list[StepRequest]] = {}
    for step in steps:
        sequence = step.sequence
        if sequence.states is None:
            sequence.states = initial_states(spec)
        if pool is not None and isinstance(sequence.states, dict):  # it begins, or has read a prompt
            sequence.states = pool.add(sequence.states)
        shapes = chunks.group_key(spec, step.inputs)
        key = group_of(spec, key_of(spec, _lengths(spec, step)))
        values = tuple((name, value_of(step.inputs[name])) for name in shared if name in step.inputs)
        by_key.setdefault((key, shapes, values), []).append(step)
    groups = []
    for group in by_key.values():
        most = chunks.most_rows(spec, group[0].inputs, max_rows)
        groups += [group[start : start + most] for start in range(0, len(group), most)]
    return groups


def run_group(
    spec: ModelSpec, session: OnnxSession, steps: Sequence[StepRequest], key: Key | None = None
) -> tuple[list[Arrays], StateBlock]:
    """Run one step of one group. Returns the outputs of each request, and a block with their new states, in
    order; the sequences still have those before the step.

    Args:
        key: lengths to pad the states to; None is the bucket of the longest.

    Raises:
        Exception: whatever the session raises; no state has changed then.
    """
    lengths, rows = [_lengths(spec, step) for step in steps], bucket(len(steps))
    block = _gather(spec, steps, lengths, key, rows, session.state_graphs)
    own = lengths
    if spec.chunk_lengths:
        chunked = [chunks.chunk_of(spec, step.inputs) for step in steps]
        outputs = block.step(session, chunks.feeds(spec, chunked, rows))
        if len(steps) > 1:
            chunks.check_outputs(spec, outputs, chunks.longest(chunked))
            own = [{**one, **chunks.own_lengths(spec, each)} for one, each in zip(own, chunked, strict=True)]
    else:
        feeds = {
            tensor.name: _stack(tensor, [step.inputs[tensor.name] for step in steps], rows)
            for tensor in spec.inputs
            if tensor.name in steps[0].inputs
        }
        outputs = block.step(session, feeds)
    answers = [
        {tensor.name: cut_row(tensor, outputs[tensor.name], row, rows, own[row]) for tensor in spec.outputs}
        for row in range(len(steps))
    ]
    return answers, block


def _gather(
    spec: ModelSpec,
    steps: Sequence[StepRequest],
    lengths: Sequence[Lengths],
    key: Key | None,
    rows: int,
    graphs: StateGraphs | None,
) -> StateBlock:
    """A block of `rows` rows with copies of the states of these sequences."""
    pooled = _pooled(steps)
    if pooled:
        return pooled[0].pool.gather(pooled, rows)
    key = key or reduce(widest, (key_of(spec, one) for one in lengths))
    block = StateBlock(spec, key, rows, graphs)
    for row, step in enumerate(steps):
        assert isinstance(step.sequence.states, dict)
        block.write(row, step.sequence.states, lengths[row])
    return block


def _keep_states(steps: Sequence[StepRequest], block: StateBlock) -> None:
    """The states that a step left in a block are those of the sequences."""
    pooled = _pooled(steps)
    if pooled:
        pooled[0].pool.scatter(pooled, block)
        return
    for row, step in enumerate(steps):
        step.sequence.states = block.take(row)


def _pooled(steps: Sequence[StepRequest]) -> list[PoolRow]:
    """The rows of the sequences in their pool; none if they have states of their own."""
    return [step.sequence.states for step in steps if isinstance(step.sequence.states, PoolRow)]


def recheck(
    spec: ModelSpec, session: OnnxSession, inputs: Arrays, states: Arrays, answer: Arrays, rows: int
) -> Recheck:
    """How to compute a step again, alone and with unpadded states.

    Args:
        states: those before the step, without padding.
        answer: the outputs of the step and, by `named_states`, the states after it.
        rows: of the shared run.
    """

    def run(spec: ModelSpec, copies: int) -> list[Arrays]:
        steps = [
            StepRequest(i, inputs, (), 0.0, None, ClientSequence(i, 0.0, states=states))
            for i in range(copies)
        ]
        outputs, after = run_group(spec, session, steps)
        return [{**one, **named_states(after.take(row))} for row, one in enumerate(outputs)]

    alone = partial(run, without_padding(spec), 1)
    return Recheck(answer, alone, partial(run, spec, rows), shapes_of({**inputs, **named_states(states)}))


def named_states(states: Arrays) -> Arrays:
    """States by names that no output has."""
    return {f"state {name}": array for name, array in states.items()}


def _copy_of_states(step: StepRequest) -> Arrays:
    """The states of a sequence before a step, which `_keep_states` does not change."""
    states = step.sequence.states
    assert states is not None
    return states.pool.take(states) if isinstance(states, PoolRow) else states


def _lengths(spec: ModelSpec, step: StepRequest) -> Lengths:
    states = step.sequence.states
    return lengths_of(spec, states) if isinstance(states, dict) else {}


def _stack(tensor: ModelTensor, arrays: list[Array], rows: int) -> Array:
    """Join inputs along the batch axis. Vacant rows repeat the first row, which is valid in any range."""
    axis = tensor.spec.batch_axis
    if axis is None or (len(arrays) == 1 and rows == 1):
        return arrays[0]
    return np.concatenate(arrays + [arrays[0]] * (rows - len(arrays)), axis)


def cut_row(tensor: ModelTensor, array: Array, row: int, rows: int, lengths: dict[str, int]) -> Array:
    """One row of a step's output, without the padding of that row's states."""
    axis = tensor.spec.batch_axis
    if axis is None:
        return array
    index: list[slice] = [slice(None)] * array.ndim
    if rows > 1:
        index[axis] = slice(row, row + 1)
    for a, name in tensor.spec.lengths.items():
        if name in lengths:
            index[a] = slice(lengths[name])
    return array[tuple(index)].copy()

"""Prompts of client sequences: the first elements of several sequences → one run of the prefill graph →
states and outputs of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import messages
from ...model.spec import measure_request
from ..runtime.engine_threads import not_after
from .client_steps import StepAnswer, answered
from .prefill import Prompt
from .slots import initial_states

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..recorder import ModelRecorder
    from .prefill import PrefillRunner
    from .sequence import StepRequest


def prompt_of_tensors(prefill: ModelSpec, inputs: Arrays) -> Prompt:
    """The prompt of one sequence, from the inputs of the prefill graph.

    Raises:
        ServingError: BAD_INPUT, its lengths are not allowed.
    """
    return Prompt(inputs, 1, measure_request(prefill, inputs).lengths)


def run_prompts(
    spec: ModelSpec,
    prefill: PrefillRunner,
    steps: Sequence[StepRequest],
    waited_s: float,
    recorder: ModelRecorder | None = None,
) -> tuple[list[StepAnswer], list[messages.Run]]:
    """Read the prompt of each request, as many together as a run may have. If a run fails, its requests run
    one by one, and a sequence whose own fails has not begun."""
    assert spec.prefill is not None
    prompts = [(step, prompt_of_tensors(spec.prefill, step.inputs)) for step in steps]
    waiting = list(_groups(prompts, spec.prefill, prefill.max_rows))
    answers: list[StepAnswer] = []
    runs: list[messages.Run] = []
    while waiting:
        group = waiting.pop(0)
        try:
            outputs, run, begun = prefill.run_prompts([prompt for _, prompt in group], waited_s)
        except Exception as error:
            if len(group) > 1:
                waiting = [[each] for each in group] + waiting
                continue
            answers.append(StepAnswer(group[0][0], None, error, messages.NO_TIMINGS))
            if skipped := not_after(error):
                answers += [
                    StepAnswer(step, None, skipped, messages.NO_TIMINGS)
                    for rest in waiting
                    for step, _ in rest
                ]
                break
            continue
        runs.append(run)
        if recorder is not None:
            begin = [step for step, _ in group]
            keys, waited = tuple(step.key for step in begin), begun - min(step.accepted for step in begin)
            recorder.add("prefill", begun, run.rows, run, keys, waited)
        for (step, prompt), output in zip(group, outputs, strict=True):
            step.sequence.states = initial_states(spec, output)
            step.sequence.steps += prompt.size
            timings = messages.RequestTimings(
                begun - step.accepted, run.compute_s, 1, float(run.rows), run.compute_s
            )
            answers.append(
                answered(spec, step, {one.name: output[one.name] for one in spec.outputs}, timings)
            )
    return answers, runs


def _groups(
    prompts: Sequence[tuple[StepRequest, Prompt]], spec: ModelSpec, max_rows: int
) -> Iterator[list[tuple[StepRequest, Prompt]]]:
    """Prompts that share a run: similar lengths, within the limits of the model's batches."""
    most = spec.manifest.batching.max_padded_elements
    group: list[tuple[StepRequest, Prompt]] = []
    for step, prompt in sorted(prompts, key=lambda each: each[1].size):
        if group and (len(group) >= max_rows or prompt.size * (len(group) + 1) > most):
            yield group
            group = []
        group.append((step, prompt))
    if group:
        yield group

"""The self-test of a step-wise model: batched, padded sequences must answer as each alone does.

random sequences → each stepped alone: states unpadded, states padded → all together → compare every step
random prompts → each prefilled alone → all together → compare

If padding a cache, or any state, changes the answer, only sequences of equal length share a step; a model
whose answers then differ still is stepped one sequence at a time with unpadded states; one whose prompts must
not share a run prefills them one by one. Each has a notice. If the model has a one-shot or prefill graph too,
the same ids go through that graph and through single steps, and the answers must agree.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model.spec import batchable
from ..runtime.batching import compare, is_rounding
from ..runtime.graph_errors import logged_fault
from ..stepwise import client_steps, prefill
from ..stepwise.sequence import ClientSequence, StepRequest
from ..stepwise.slots import (
    initial_states,
    key_of,
    lengths_of,
    without_padding,
)
from .compare_graphs import compare_graphs, draw_prompt, prompt_limits, step_all
from .drawing import Drawing, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..runtime.session import OnnxSession
    from ..stepwise.slots import Key

    Array = np.ndarray[Any, Any]

_LENGTHS = (6, 3, 9, 1, 7, 2, 8, 5, 4, 9, 6)
"""Number of steps of each sequence. They differ, so that the batch shrinks as sequences end."""

_GROWING_LENGTHS = (20, 3, 35, 1, 7, 2, 8, 5, 4, 9, 6)
"""The same for a model with a cache, which outgrows two buckets."""

_EQUAL_PROMPTS = 4
"""Successive sequences with prompts of equal length."""

_KINDS = {1: Kind.QUIET, 4: Kind.LOUD, 6: Kind.ZEROS, 8: Kind.ENDS}
"""The kinds of values of some of these sequences; the others have ordinary ones."""

_MOST_IDS = 1024
"""Ids of the longest prompt to try."""


@dataclass(frozen=True)
class StepSelfTestResult:
    """The result of the self-test of a step-wise model."""

    batched: bool  # batched and unbatched answers are equal within the tolerance
    unpadded: str = ""  # the lengths of states that must not be padded, separated by commas
    prefill_batched: bool = False  # the same for prompts, padded and batched
    deterministic: bool = False  # they are bit-identical
    padding_invariant: bool = False  # they stay so for every padding of the states
    keeps_elements: bool = False  # a step leaves the elements that its caches have as they are
    chunks_padded: bool = False  # also those of chunks of different lengths
    chunk_reason: str = (
        ""  # why only chunks of equal length share a run; empty if others do, or there are none
    )
    reason: str = ""  # why not batched, or only sequences of equal length; empty if neither
    prefill_reason: str = ""  # why prompts are not batched; empty if they are, or there is no prefill graph
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
        result = _StepSelfTest(spec, session, prefill_session, rng).result()
    except Exception as error:  # the graphs may fail on random input
        reason = f"the self-test could not run: {logged_fault(error)}"
        result = StepSelfTestResult(batched=False, reason=reason, unpadded=",".join(spec.unpadded))
    try:
        tested = replace(spec, batched=False, unpadded=_names(result.unpadded))
        disagreement = compare_graphs(tested, session, prefill_session, oneshot, rng)
    except Exception as error:
        disagreement = f"the graphs could not be compared: {logged_fault(error)}"
    return replace(result, disagreement=disagreement)


def warm_up(
    spec: ModelSpec, session: OnnxSession, prefill_session: OnnxSession | None, seed: int = 0
) -> None:
    """Run the graphs at the sizes of the self-test, so that no sequence pays for the first run of a size.

    Never raises because of the model.
    """
    with suppress(Exception):  # the graphs may fail on random input
        _StepSelfTest(spec, session, prefill_session, np.random.default_rng(seed)).run_as(spec)


def apply_result(spec: ModelSpec, result: StepSelfTestResult) -> ModelSpec:
    """The spec with the result of the self-test, and with a notice for callers if it failed."""
    notices = []
    if result.reason and result.batched:
        lengths = result.unpadded.replace(",", " and ")
        notices = [f"only sequences of equal {lengths} share a step: {result.reason}"]
    elif result.reason:
        notices = [f"sequences are not batched: {result.reason}"]
    notices += [f"prompts are not batched: {result.prefill_reason}"] if result.prefill_reason else []
    if result.chunk_reason:
        notices += [f"only chunks of equal length share a run: {result.chunk_reason}"]
    notices += [result.disagreement] if result.disagreement else []
    return replace(
        spec,
        batched=result.batched,
        unpadded=_names(result.unpadded),
        deterministic=result.deterministic,
        padding_invariant=result.padding_invariant,
        keeps_elements=result.keeps_elements,
        chunks_padded=result.chunks_padded,
        notice="; ".join(notices),
        prefill=replace(spec.prefill, batched=result.prefill_batched) if spec.prefill else None,
    )


def _names(lengths: str) -> tuple[str, ...]:
    return tuple(lengths.split(",")) if lengths else ()


class _StepSelfTest:
    """Compares the steps of random sequences: alone and unpadded, alone and padded, and together."""

    def __init__(
        self,
        spec: ModelSpec,
        session: OnnxSession,
        prefill_session: OnnxSession | None,
        rng: np.random.Generator,
    ) -> None:
        self._session, self._prefill_session, self._rng = session, prefill_session, rng
        self._batched = replace(spec, batched=True)
        self._alone = without_padding(spec)
        self._drawing = Drawing(spec, rng)
        self._draw()

    def _draw(self) -> None:
        """Draw the sequences: their prompts and the inputs of their steps."""
        lengths = _GROWING_LENGTHS if self._batched.growing_lengths else _LENGTHS
        self._starts = [self._start(length) for length in self._prompt_lengths(len(lengths))]
        self._drawing.settle(self._try_step)
        self._steps = [
            self._draw_steps(count, _KINDS.get(index, Kind.ORDINARY)) for index, count in enumerate(lengths)
        ]

    def result(self) -> StepSelfTestResult:
        prefill_reason, identical_prefill = self._compare_prompts()
        result = StepSelfTestResult(
            batched=False,
            prefill_batched=self._prefill_session is not None and not prefill_reason,
            prefill_reason=prefill_reason,
        )
        answers, padding_reason = self._settle_padding()
        result = replace(
            result, unpadded=",".join(self._batched.unpadded), keeps_elements=self._keeps_elements()
        )
        if not batchable(self._batched):
            return replace(result, reason="not every output of a step has a batch_axis")
        reason, identical = self._compare_chunks(answers) if self._batched.chunk_lengths else ("", True)
        result = replace(result, chunks_padded=self._batched.chunks_padded, chunk_reason=reason)
        if reason or not self._batched.chunks_padded:
            reason, identical = self._compare_batched(answers)
        if reason:
            return replace(result, reason=reason, chunk_reason="", chunks_padded=False)
        identical = identical and identical_prefill
        invariant = not identical or self._is_padding_invariant(answers)
        return replace(
            result,
            batched=True,
            deterministic=identical,
            padding_invariant=invariant,
            reason=padding_reason,
        )

    def _settle_padding(self) -> tuple[list[list[Arrays]], str]:
        """Find the lengths that must not be padded: none, those of caches, or all. Returns the answers of
        each sequence stepped alone, and why some are not padded, if padding them was tried."""
        answers, first = self._answers(self._batched), ""
        caches = self._batched.growing_lengths
        for unpadded in (caches, self._batched.state_lengths):
            reason = self._padding_difference(answers)
            first = first or reason
            if reason and unpadded != self._batched.unpadded:
                self._batched = replace(self._batched, unpadded=unpadded)
                self._draw()
                answers = self._answers(self._batched)
        if self._batched.unpadded and not first:
            first = "no mask and no lengths among the inputs of a step count their elements"
        return answers, first

    def run_as(self, spec: ModelSpec) -> None:
        """Run the same steps and prompts, batched as `spec` says, without comparing them."""
        if spec.batched:
            step_all(spec, self._session, self._starts, self._steps)
        else:
            self._answers(spec)
        if spec.prefill is not None and spec.prefill.batched and self._prefill_session is not None:
            for prompts in self._draw_prompts():
                prefill.run(spec.prefill, self._prefill_session, prompts)

    # --- sequences ----------------------------------------------------------------------------------

    def _prompt_lengths(self, count: int) -> Iterator[int]:
        """Lengths of prompts: short ones, and one that is nearly as long as the model reads. If lengths are
        not padded, several are equal, so that these sequences share steps."""
        equal = _EQUAL_PROMPTS if self._batched.unpadded else 1
        for index in range(count):
            yield self._longest_prompt() - max(_GROWING_LENGTHS) if index == 2 else 3 + 5 * (index // equal)

    def _longest_prompt(self) -> int:
        return min((*prompt_limits(self._batched.prefill), _MOST_IDS))

    def _start(self, length: int) -> Arrays:
        """The initial states of a sequence, after a random prompt if there is a prefill graph."""
        graph = self._alone.prefill
        if graph is None or self._prefill_session is None:
            return initial_states(self._alone)
        graph = replace(graph, batched=False)
        (output,) = prefill.run(graph, self._prefill_session, [self._draw_prompt(length)])
        return initial_states(self._alone, output)

    def _draw_prompt(self, length: int) -> prefill.Prompt:
        assert self._batched.prefill is not None
        return draw_prompt(self._batched.prefill, length, self._rng)

    def _draw_prompts(self) -> Iterator[list[prefill.Prompt]]:
        """Prompts that share a run: of equal lengths, of different ones, and long ones."""
        longest = self._longest_prompt()
        for lengths in ((7, 7, 7), (3, 17, 1, 9), (longest, longest // 3, 40, longest - 1)):
            yield [self._draw_prompt(length) for length in lengths]

    def _draw_steps(self, count: int, kind: Kind) -> list[Arrays]:
        """The inputs of as many steps. If the graph fails with such values, they are ordinary ones."""
        chunked = bool(self._batched.chunk_lengths)
        steps = [
            self._drawing.inputs(1, self._drawing.spread_lengths(*self._chunk(count, step)), kind)
            if chunked
            else self._drawing.inputs(1, self._drawing.lengths(1), kind)
            for step in range(count)
        ]
        if kind is not Kind.ORDINARY:
            try:
                step_all(self._batched, self._session, [self._starts[0]], [steps[:1]])
            except Exception:
                return self._draw_steps(count, Kind.ORDINARY)
        return steps

    @staticmethod
    def _chunk(count: int, step: int) -> tuple[int, int]:
        """Lengths of a chunk: others for each sequence and step, short ones and longer ones."""
        return 1 + (5 * count + 3 * step) % 11, 1 + (3 * count + 2 * step) % 7

    def _try_step(self) -> None:
        steps = [self._drawing.inputs(1, self._drawing.lengths(1))]
        step_all(self._batched, self._session, [self._starts[0]], [steps])

    def _answers(self, spec: ModelSpec) -> list[list[Arrays]]:
        """The answers of each sequence stepped alone."""
        return [
            step_all(spec, self._session, [start], [steps])[0]
            for start, steps in zip(self._starts, self._steps, strict=True)
        ]

    def _keeps_elements(self) -> bool:
        """Whether the steps of one sequence leave the earlier elements of its caches as they are."""
        caches = [state for state in self._batched.states if state.spec.grows and state.dynamic_axis]
        states = dict(self._starts[0])
        for inputs in self._steps[0] if caches else ():
            request = StepRequest(0, inputs, (), 0.0, None, ClientSequence(0, 0.0, states=states))
            after = client_steps.run_group(self._batched, self._session, [request])[1].take(0)
            for state in caches:
                assert state.dynamic_axis
                axis, before = state.dynamic_axis[0], states[state.spec.name]
                kept = after[state.spec.name].take(range(before.shape[axis]), axis)
                if not np.array_equal(kept, before):
                    return False
            states = after
        return bool(caches)

    # --- comparing ----------------------------------------------------------------------------------

    def _padding_difference(self, answers: Sequence[Sequence[Arrays]]) -> str:
        """How these answers differ from those with unpadded states; empty if they do not."""
        if not any(state.spec.lengths for state in self._batched.states):
            return ""
        try:
            unpadded = self._answers(self._alone)
        except Exception:  # the graph takes no cache without elements, for one
            return ""
        for expected, padded in zip(unpadded, answers, strict=True):
            for step, (one, other) in enumerate(zip(expected, padded, strict=True)):
                found = compare(self._batched, one, other)
                if not found.within:
                    return (
                        f"padding changes the answer: output {found.output!r} of step {step + 1} differs"
                        f" by {found.apart:.2g}"
                    )
        return ""

    def _compare_chunks(self, answers: Sequence[Sequence[Arrays]]) -> tuple[str, bool]:
        """As `_compare_batched`, with chunks of different lengths in one run. If they may not share one,
        later runs have chunks of equal length only."""
        self._batched = replace(self._batched, chunks_padded=True)
        try:
            reason, identical = self._compare_batched(answers)
        except Exception as error:
            reason, identical = f"a run of several fails: {logged_fault(error)}", False
        if reason:
            self._batched = replace(self._batched, chunks_padded=False)
        return reason, identical

    def _compare_batched(self, answers: Sequence[Sequence[Arrays]]) -> tuple[str, bool]:
        """How answers differ in a batch, and whether they are bit-identical."""
        batched = step_all(self._batched, self._session, self._starts, self._steps)
        identical = True
        for index, (expected_steps, answered) in enumerate(zip(answers, batched, strict=True)):
            if _KINDS.get(index) is Kind.ENDS:
                continue  # only its neighbours are of interest: it overflows, or not, by rounding
            for step, (expected, answer) in enumerate(zip(expected_steps, answered, strict=True)):
                found = compare(self._batched, expected, answer)
                identical = identical and found.identical
                if found.within:
                    continue
                if index in _KINDS and is_rounding(found, expected, partial(self._copies, index, step)):
                    continue
                reason = f"output {found.output!r} of a sequence differs by {found.apart:.2g} in a batch"
                return reason, False
        return "", identical

    def _copies(self, index: int, step: int) -> list[Arrays]:
        """The answers at one step of a batch of nothing but copies of one sequence."""
        copies = len(self._starts)
        steps = self._steps[index][: step + 1]
        together = step_all(self._batched, self._session, [self._starts[index]] * copies, [steps] * copies)
        return [answers[-1] for answers in together]

    def _compare_prompts(self) -> tuple[str, bool]:
        """How answers to prompts differ if they share a run, and whether they are bit-identical."""
        graph, session = self._batched.prefill, self._prefill_session
        if graph is None or session is None:
            return "", True
        identical = True
        for prompts in self._draw_prompts():
            alone = [prefill.run(replace(graph, batched=False), session, [prompt])[0] for prompt in prompts]
            try:
                together = prefill.run(replace(graph, batched=True), session, prompts)
            except Exception as error:
                return f"a batch of {len(prompts)} prompts fails: {logged_fault(error)}", False
            for prompt, expected, answer in zip(prompts, alone, together, strict=True):
                found = compare(graph, expected, answer)
                identical = identical and found.identical
                if not found.within:
                    cause = (
                        "padding changes the answer"
                        if len({one.size for one in prompts}) > 1
                        else "prompts are not independent"
                    )
                    return (
                        f"{cause}: output {found.output!r} of a prompt of {prompt.size} elements differs by"
                        f" {found.apart:.2g} in a batch of {len(prompts)} prompts"
                    ), False
        return "", identical

    def _is_padding_invariant(self, answers: Sequence[Sequence[Arrays]]) -> bool:
        """Whether every step is bit-identical in buckets of 2 and 4 times the sequence's size."""
        spec = self._batched
        for times in (2, 4):
            for start, steps, expected_steps in zip(self._starts, self._steps, answers, strict=True):
                sequence = ClientSequence(0, 0.0, states=dict(start))
                for values, expected in zip(steps, expected_steps, strict=True):
                    assert isinstance(sequence.states, dict)
                    key: Key = tuple(
                        (name, _times(spec, name, size, times))
                        for name, size in key_of(spec, lengths_of(spec, sequence.states))
                    )
                    request = StepRequest(0, values, (), 0.0, None, sequence)
                    (answer,), block = client_steps.run_group(spec, self._session, [request], key)
                    sequence.states = block.take(0)
                    if not compare(spec, expected, answer).identical:
                        return False
        return True


def _times(spec: ModelSpec, name: str, size: int, times: int) -> int:
    return size if name in spec.unpadded else min(size * times, spec.manifest.lengths[name].max)

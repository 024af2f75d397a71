"""Prefill: prompts share runs within a budget, and batching changes no output."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import generation_sequence, open_model

from lockstep_server.engine.runtime.batching import Batching
from lockstep_server.engine.stepwise import prefill
from lockstep_server.engine.stepwise.prefill import PrefillRunner, prompt_of
from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.model.manifest import BatchingSection

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import GenerationSequence
    from lockstep_server.model.spec import ModelSpec


def prefill_spec(
    kind: str = "language", *, batched: bool = True, batching: BatchingSection | None = None
) -> ModelSpec:
    spec = open_model(kind).spec.prefill
    assert spec is not None
    manifest = replace(spec.manifest, batching=batching or BatchingSection())
    return replace(spec, batched=batched, manifest=manifest)


def waiting_sequences(*lengths: int) -> list[GenerationSequence]:
    """With prompts of these lengths, no two of them equal."""
    prompts = [(index, *[3] * (length - 1)) for index, length in enumerate(lengths)]
    return [generation_sequence(prompt=prompt) for prompt in prompts]


def choose_count(spec: ModelSpec, sequences: list[GenerationSequence], max_run_s: float | None = None) -> int:
    session = open_model("language").prefill_session
    assert session is not None
    chosen = PrefillRunner(spec, session, Batching(64), lambda: 0.0).choose(sequences, max_run_s)
    assert chosen == sequences[: len(chosen)]  # in their order
    return len(chosen)


@pytest.mark.parametrize("kind", ["language", "translator"])
@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=30), min_size=1, max_size=8))
def test_batching_changes_no_prefill_output(kind: str, prompts: list[list[int]]) -> None:
    spec, session = prefill_spec(kind), open_model(kind).prefill_session
    assert session is not None
    batched_outputs = prefill.run(spec, session, [prompt_of(spec, ids) for ids in prompts])
    for ids, got in zip(prompts, batched_outputs, strict=True):
        (expected,) = prefill.run(spec, session, [prompt_of(spec, ids)])
        assert got.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize(
    ("batching", "lengths", "expected"),
    [
        (BatchingSection(), (5, 5, 5), 3),
        (BatchingSection(max_rows=2), (5, 5, 5), 2),
        (BatchingSection(max_padded_elements=20), (5, 5, 5, 5, 5), 4),
        (BatchingSection(max_padded_elements=20), (5, 11, 5), 1),  # together they would be padded to 22
        (BatchingSection(max_padded_elements=20), (60, 5), 1),  # at least one, whatever its length
    ],
)
def test_as_many_prompts_as_fit_are_chosen(
    batching: BatchingSection, lengths: tuple[int, ...], expected: int
) -> None:
    assert choose_count(prefill_spec(batching=batching), waiting_sequences(*lengths)) == expected


def test_an_unbatched_graph_takes_one_prompt_at_a_time() -> None:
    assert choose_count(prefill_spec(batched=False), waiting_sequences(2, 2, 2)) == 1


def test_equal_prompts_are_run_once() -> None:
    """However few rows a run has: they are one."""
    spec, session = prefill_spec(batching=BatchingSection(max_rows=1)), open_model("language").prefill_session
    assert session is not None
    sequences = [generation_sequence(prompt=(4, 5)) for _ in range(3)] + waiting_sequences(2)
    assert choose_count(spec, sequences) == 3
    outputs, run = PrefillRunner(spec, session, Batching(64), lambda: 0.0).run(sequences, 0.0)
    assert (run.rows, run.elements) == (2, 4)
    assert [array.tolist() for array in outputs[0].values()] == [
        array.tolist() for array in outputs[2].values()
    ]
    assert outputs[0]["logits"].tolist() != outputs[3]["logits"].tolist()


def test_max_run_s_bounds_a_run_by_the_measured_time_per_element() -> None:
    clock = itertools.count(0.0, 0.01).__next__  # a run takes 10 ms
    session = open_model("language").prefill_session
    assert session is not None
    runner = PrefillRunner(prefill_spec(), session, Batching(64), clock)
    runner.run(waiting_sequences(10), 0.0)  # 1 ms per element
    many = waiting_sequences(*[10] * 8)
    assert len(runner.choose(many, 0.035)) == 3
    assert len(runner.choose(many, 0.001)) == 1
    assert len(runner.choose(many, None)) == 8


def test_a_run_reports_its_time_and_its_padding() -> None:
    clock = itertools.count(5.0, 0.25).__next__
    session = open_model("language").prefill_session
    assert session is not None
    sequences = waiting_sequences(3, 10)
    _, run = PrefillRunner(prefill_spec(), session, Batching(64), clock).run(sequences, 0.5)
    assert (run.rows, run.length, run.elements, run.padded_elements) == (2, 10, 13, 20)
    assert (run.compute_s, run.device_wait_s, run.mode) == (0.25, 0.5, "prefill")
    assert [(sequence.first_run_at, sequence.prefill_s) for sequence in sequences] == [(5.0, 0.25)] * 2


def test_a_prompt_longer_than_the_model_accepts_is_rejected() -> None:
    spec = prefill_spec()
    assert prompt_of(spec, [3] * 64).lengths == (64,)
    with pytest.raises(ServingError) as rejected:
        prompt_of(spec, [3] * 65)
    assert rejected.value.code is ErrorCode.BAD_INPUT
    assert "64" in rejected.value.message

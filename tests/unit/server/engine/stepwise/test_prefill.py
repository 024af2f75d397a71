"""Prompts taken in together, within a budget, each as if it were alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import decoding, opened

from lockstep_server.engine.stepwise import prefill
from lockstep_server.engine.stepwise.prefill import PrefillRunner, measure_prompt, prompt_of
from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.model.manifest import BatchingSection

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import GenerationSequence
    from lockstep_server.model.spec import ModelSpec


def first_spec(kind: str = "language", *, batched: bool = True, **batching: Any) -> ModelSpec:
    spec = opened(kind).spec.prefill
    assert spec is not None
    return replace(
        spec, batched=batched, manifest=replace(spec.manifest, batching=BatchingSection(**batching))
    )


def waiting(*lengths: int) -> list[GenerationSequence]:
    return [decoding(prompt=(3,) * length) for length in lengths]


def chosen(spec: ModelSpec, ones: list[GenerationSequence], max_run_s: float | None = None) -> int:
    session = opened("language").first
    assert session is not None
    taken = PrefillRunner(spec, session, lambda: 0.0).choose(ones, max_run_s)
    assert taken == ones[: len(taken)]  # in their order
    return len(taken)


@pytest.mark.parametrize("kind", ["language", "translator"])
@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=30), min_size=1, max_size=8))
def test_a_prompt_gives_the_same_together_as_alone(kind: str, prompts: list[list[int]]) -> None:
    spec, session = first_spec(kind), opened(kind).first
    assert session is not None
    together = prefill.run(spec, session, [prompt_of(spec, ids) for ids in prompts])
    for ids, got in zip(prompts, together, strict=True):
        (expected,) = prefill.run(spec, session, [prompt_of(spec, ids)])
        assert got.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize(
    ("batching", "lengths", "expected"),
    [
        ({}, (5, 5, 5), 3),
        ({"max_rows": 2}, (5, 5, 5), 2),
        ({"max_padded_elements": 20}, (5, 5, 5, 5, 5), 4),
        ({"max_padded_elements": 20}, (5, 11, 5), 1),  # together they would be padded to 22
        ({"max_padded_elements": 20}, (60, 5), 1),  # one at least, whatever its length
    ],
)
def test_as_many_as_fit_are_taken_in(
    batching: dict[str, int], lengths: tuple[int, ...], expected: int
) -> None:
    assert chosen(first_spec(**batching), waiting(*lengths)) == expected


def test_a_graph_that_cannot_share_runs_takes_one_at_a_time() -> None:
    assert chosen(first_spec(batched=False), waiting(2, 2, 2)) == 1


def test_while_others_want_the_device_a_run_is_bounded_by_what_runs_took() -> None:
    clock = itertools.count(0.0, 0.01).__next__  # a run takes 10 ms
    session = opened("language").first
    assert session is not None
    one = PrefillRunner(first_spec(), session, clock)
    one.run(waiting(10), 0.0)  # 1 ms an element
    many = waiting(*[10] * 8)
    assert len(one.choose(many, 0.035)) == 3
    assert len(one.choose(many, 0.001)) == 1
    assert len(one.choose(many, None)) == 8


def test_a_run_tells_what_it_took_and_what_padding_cost() -> None:
    clock = itertools.count(5.0, 0.25).__next__
    session = opened("language").first
    assert session is not None
    ones = waiting(3, 10)
    _, run = PrefillRunner(first_spec(), session, clock).run(ones, 0.5)
    assert (run.rows, run.length, run.elements, run.padded_elements) == (2, 10, 13, 20)
    assert (run.compute_s, run.device_wait_s, run.mode) == (0.25, 0.5, "prefill")
    assert [(one.first_run, one.prefill_s) for one in ones] == [(5.0, 0.25)] * 2


def test_a_prompt_longer_than_the_model_takes_is_refused() -> None:
    spec = first_spec()
    assert measure_prompt(spec, [3] * 64).lengths == (64,)
    with pytest.raises(ServingError) as refused:
        measure_prompt(spec, [3] * 65)
    assert refused.value.code is ErrorCode.BAD_INPUT
    assert "64" in refused.value.message

"""Client steps: each is answered from its own sequence's states, however steps are batched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import FakeSession, StepModel, open_model, step_request

from lockstep_server.engine.runtime.batching import Batching
from lockstep_server.engine.stepwise import client_steps
from lockstep_server.engine.stepwise.slots import PoolRow, StatePool, initial_states

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import ClientSequence, StepRequest

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("kept")


def inputs_of(model: StepModel, number: int) -> dict[str, Array]:
    if model.spec.manifest.task == "tensor":
        return {"x": np.array([[number, -number]], np.float32)}
    return {"token": np.array([number % 21])}


def first_step(model: StepModel, source: int) -> StepRequest:
    """The first step of a sequence; of a translator, after a source of this length."""
    request = step_request(inputs=inputs_of(model, 1))
    if model.spec.prefill is not None:
        rng = np.random.default_rng(source)
        memory = rng.standard_normal((1, source, 16)).astype(np.float32)
        h = rng.standard_normal((1, 16)).astype(np.float32)
        request.sequence.states = initial_states(model.spec, {"memory0": memory, "h0": h})
    return request


def next_step(model: StepModel, earlier: StepRequest, number: int) -> StepRequest:
    request = step_request(inputs=inputs_of(model, number))
    request.sequence = earlier.sequence
    return request


def run(
    model: StepModel, requests: list[StepRequest], max_rows: int = 64, pool: StatePool | None = None
) -> dict[int, client_steps.StepAnswer]:
    answers, _ = client_steps.run_steps(
        model.spec, model.session, requests, Batching(max_rows), lambda: 0.0, 0.0, pool=pool
    )
    assert len(answers) == len(requests)
    return {answer.step.key: answer for answer in answers}


@pytest.mark.parametrize(
    ("kind", "pooled"),
    [("adder", False), ("adder", True), ("forced", True), ("cache", False), ("translator", False)],
)
@settings(max_examples=15)
@given(data=st.data())
def test_stepping_a_different_subset_each_time_changes_no_answer(kind: str, pooled: bool, data: Any) -> None:
    """Sequences without a step in a run keep their states."""
    model = open_model(kind)
    pool = StatePool(model.spec, model.session.state_graphs) if pooled else None
    count = data.draw(st.integers(2, 6))
    sources = [data.draw(st.integers(1, 35)) for _ in range(count)]
    batched = [first_step(model, source) for source in sources]
    unbatched = [first_step(model, source) for source in sources]
    max_rows = data.draw(st.sampled_from([1, 2, 64]))
    for step in range(8):
        subset = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
        answers = run(model, [next_step(model, batched[i], step + i) for i in subset], max_rows, pool)
        in_order = [answer for _, answer in sorted(answers.items())]
        for answer, i in zip(in_order, subset, strict=True):
            (expected,) = run(model, [next_step(model, unbatched[i], step + i)]).values()
            assert answer.outputs is not None
            assert expected.outputs is not None
            for name, array in expected.outputs.items():
                np.testing.assert_array_equal(answer.outputs[name], array)
            assert have_same_states(batched[i].sequence, unbatched[i].sequence)
        if data.draw(st.booleans()):  # another sequence takes the row of one that has ended
            i = data.draw(st.integers(0, count - 1))
            batched[i], unbatched[i] = (first_step(model, sources[i]) for _ in range(2))
    del answer, answers, in_order
    batched.clear()
    assert pool is None or pool.used == 0


def states_of(sequence: ClientSequence) -> dict[str, Array]:
    states = sequence.states
    assert states is not None
    return states.pool.take(states) if isinstance(states, PoolRow) else states


def have_same_states(one: ClientSequence, other: ClientSequence) -> bool:
    ours, theirs = states_of(one), states_of(other)
    return all(np.array_equal(array, theirs[name]) for name, array in ours.items())


def test_attention_is_cut_to_the_sequences_source() -> None:
    model = open_model("translator")
    requests = [first_step(model, source) for source in (1, 9, 14)]
    answers = run(model, requests)
    shapes = [answers[request.key].outputs["attention"].shape for request in requests]  # type: ignore[index]
    assert shapes == [(1, 1), (1, 9), (1, 14)]


def test_inputs_of_different_shapes_do_not_share_a_run() -> None:
    model = open_model("adder")
    narrow = step_request(inputs={"x": np.ones((1, 2), np.float32)})
    wide = step_request(inputs={"x": np.ones((1, 3))})
    assert sorted(map(len, client_steps.group_steps(model.spec, [narrow, wide, narrow], 64))) == [1, 2]


def test_at_most_max_rows_share_a_run() -> None:
    model = open_model("adder")
    requests = [first_step(model, 1) for _ in range(7)]
    answers, runs = client_steps.run_steps(
        model.spec, model.session, requests, Batching(3), lambda: 0.0, 0.25
    )
    assert sorted(run.rows for run in runs) == [1, 3, 3]
    assert sum(run.elements for run in runs) == 7
    assert {run.device_wait_s for run in runs} == {0.25}
    assert {answer.timings.rows for answer in answers} == {1.0, 3.0}


def test_answers_do_not_share_memory_with_states() -> None:
    model = open_model("adder")
    request = first_step(model, 1)
    answer = run(model, [request])[request.key]
    assert answer.outputs is not None
    answer.outputs["y"][:] = 99
    (following,) = run(model, [next_step(model, request, 0)]).values()
    assert following.outputs is not None
    assert following.outputs["y"].tolist() == [[1, -1]]


class Fails(FakeSession):
    """A session that fails if any row contains 13."""

    output_names = open_model("adder").session.output_names

    def answer(self, feeds: dict[str, Array]) -> list[Array]:
        if (feeds["x"] == 13).any():
            raise RuntimeError("13")
        return open_model("adder").session.run(feeds)


@pytest.mark.parametrize("pooled", [False, True])
def test_only_the_request_that_breaks_a_run_fails_and_its_sequence_keeps_its_state(pooled: bool) -> None:
    model = open_model("adder")
    requests = [first_step(model, 1) for _ in range(3)]
    pool = StatePool(model.spec, model.session.state_graphs) if pooled else None
    run(model, requests, pool=pool)
    bad, good = next_step(model, requests[0], 13), [next_step(model, request, 5) for request in requests[1:]]
    answers, runs = client_steps.run_steps(model.spec, Fails(), [bad, *good], Batching(64), lambda: 0.0, 0.0)  # type: ignore[arg-type]
    by_key = {answer.step.key: answer for answer in answers}
    assert "13" in str(by_key[bad.key].error)
    assert [by_key[request.key].outputs["y"].tolist() for request in good] == [[[6, -6]]] * 2  # type: ignore[index]
    assert states_of(requests[0].sequence)["sum"].tolist() == [[1, -1]]
    assert (requests[0].sequence.steps, requests[1].sequence.steps) == (1, 2)
    assert [run.rows for run in runs] == [1, 1]


@pytest.mark.parametrize("dropped", ["y", "sum_out"])
def test_a_step_that_returns_other_rows_is_repeated_for_each_request_alone(dropped: str) -> None:
    """Nobody gets another caller's row, and no later steps share a run."""
    model = open_model("adder")
    reasons: list[str] = []
    names = model.session.output_names

    class Drops(FakeSession):
        """A session that drops the rows that contain 13 from one output."""

        output_names = names

        def answer(self, feeds: dict[str, Array]) -> list[Array]:
            outputs = model.session.run(feeds)
            keep = (feeds["x"] != 13).all(1)
            return [out[keep] if name == dropped else out for name, out in zip(names, outputs, strict=True)]

    batching = Batching(64, reasons.append)
    requests = [step_request(inputs=inputs_of(model, value)) for value in (13, 1, 2)]
    answers, runs = client_steps.run_steps(model.spec, Drops(), requests, batching, lambda: 0.0, 0.0)  # type: ignore[arg-type]
    by_key = {answer.step.key: answer for answer in answers}
    first, *others = (by_key[request.key] for request in requests)
    if dropped == "y":  # the graph's own answer to this caller
        assert first.outputs is not None
        assert first.outputs["y"].shape[0] == 0
    else:
        assert "'sum_out' has shape" in str(first.error)
    assert [one.outputs["y"][:, 0].tolist() for one in others] == [[1], [2]]  # type: ignore[index]
    assert {run.rows for run in runs} == {1}
    assert (batching.allowed, batching.max_rows, len(reasons)) == (False, 1, 1)


def test_a_step_that_adds_several_elements_to_a_cache_is_an_error_and_changes_no_state() -> None:
    model = open_model("cache")

    class Doubles(FakeSession):
        """A session that returns the new element of the cache twice."""

        output_names = model.session.output_names

        def answer(self, feeds: dict[str, Array]) -> list[Array]:
            logits, present = model.session.run(feeds)
            return [logits, np.concatenate([present, present[:, -1:]], 1)]

    request = first_step(model, 1)
    run(model, [request])
    again = next_step(model, request, 2)
    (answer,), _ = client_steps.run_steps(model.spec, Doubles(), [again], Batching(64), lambda: 0.0, 0.0)  # type: ignore[arg-type]
    assert "added 2 elements" in str(answer.error)
    assert "send one element" in str(answer.error)
    assert states_of(again.sequence)["past"].shape[1] == 1

"""Elements that callers sent: each answered from its own sequence's state, whoever steps beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import Opened, element, opened

from lockstep_server.engine.stepwise import client_steps
from lockstep_server.engine.stepwise.slots import initial

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import ClientSequence, StepRequest

Array = np.ndarray[Any, Any]


def inputs_of(model: Opened, number: int) -> dict[str, Array]:
    if model.spec.manifest.task == "tensor":
        return {"x": np.array([[number, -number]], np.float32)}
    return {"token": np.array([number % 21])}


def begin(model: Opened, source: int) -> StepRequest:
    """The first element of a sequence; of a translator, after a source of this length."""
    one = element(inputs=inputs_of(model, 1))
    if model.spec.prefill is not None:
        rng = np.random.default_rng(source)
        memory = rng.standard_normal((1, source, 16)).astype(np.float32)
        h = rng.standard_normal((1, 16)).astype(np.float32)
        one.of.states = initial(model.spec, {"memory0": memory, "h0": h})
    return one


def again(model: Opened, one: StepRequest, number: int) -> StepRequest:
    nxt = element(inputs=inputs_of(model, number))
    nxt.of = one.of
    return nxt


def fed(
    model: Opened, elements: list[StepRequest], most_rows: int = 64
) -> dict[int, client_steps.StepAnswer]:
    answers, _ = client_steps.feed(model.spec, model.session, elements, most_rows, lambda: 0.0, 0.0)
    assert len(answers) == len(elements)
    return {answer.element.key: answer for answer in answers}


@pytest.mark.parametrize("kind", ["adder", "forced", "cache", "translator"])
@settings(max_examples=15)
@given(data=st.data())
def test_a_different_subset_each_time_changes_no_answer(kind: str, data: Any) -> None:
    """Sequences that are not fed are idle, and find their states as they left them."""
    model = opened(kind)
    count = data.draw(st.integers(2, 6))
    sources = [data.draw(st.integers(1, 35)) for _ in range(count)]
    firsts = [begin(model, source) for source in sources]
    lone = [begin(model, source) for source in sources]
    most_rows = data.draw(st.sampled_from([1, 2, 64]))
    for step in range(8):
        subset = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
        together = fed(model, [again(model, firsts[i], step + i) for i in subset], most_rows)
        for answer, i in zip(sorted(together.values(), key=lambda one: one.element.key), subset, strict=True):
            (expected,) = fed(model, [again(model, lone[i], step + i)]).values()
            assert answer.outputs is not None
            assert expected.outputs is not None
            for name, array in expected.outputs.items():
                np.testing.assert_array_equal(answer.outputs[name], array)
            assert same_states(firsts[i].of, lone[i].of)


def same_states(one: ClientSequence, other: ClientSequence) -> bool:
    assert one.states is not None
    assert other.states is not None
    return all(np.array_equal(array, other.states[name]) for name, array in one.states.items())


def test_attention_is_cut_to_the_own_source() -> None:
    model = opened("translator")
    ones = [begin(model, source) for source in (1, 9, 14)]
    answers = fed(model, ones)
    assert [answers[one.key].outputs["attention"].shape for one in ones] == [(1, 1), (1, 9), (1, 14)]  # type: ignore[index]


def test_inputs_of_different_shapes_do_not_share_a_run() -> None:
    model = opened("adder")
    one, other = element(inputs={"x": np.ones((1, 2), np.float32)}), element(inputs={"x": np.ones((1, 3))})
    assert sorted(map(len, client_steps.groups(model.spec, [one, other, one], 64))) == [1, 2]


def test_no_more_than_allowed_share_a_run() -> None:
    model = opened("adder")
    ones = [begin(model, 1) for _ in range(7)]
    answers, runs = client_steps.feed(model.spec, model.session, ones, 3, lambda: 0.0, 0.25)
    assert sorted(run.rows for run in runs) == [1, 3, 3]
    assert sum(run.elements for run in runs) == 7
    assert {run.device_wait_s for run in runs} == {0.25}
    assert {answer.timings.rows for answer in answers} == {1.0, 3.0}


def test_what_an_answer_holds_is_not_the_state_itself() -> None:
    model = opened("adder")
    one = begin(model, 1)
    answer = fed(model, [one])[one.key]
    assert answer.outputs is not None
    answer.outputs["y"][:] = 99
    (following,) = fed(model, [again(model, one, 0)]).values()
    assert following.outputs is not None
    assert following.outputs["y"].tolist() == [[1, -1]]


class Fails:
    """Fails where any row holds 13."""

    output_names = opened("adder").session.output_names

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        if (feeds["x"] == 13).any():
            raise RuntimeError("13")
        return opened("adder").session.run(feeds)


def test_who_breaks_a_run_fails_alone_and_keeps_its_state() -> None:
    model = opened("adder")
    ones = [begin(model, 1) for _ in range(3)]
    fed(model, ones)
    bad, good = again(model, ones[0], 13), [again(model, one, 5) for one in ones[1:]]
    answers, runs = client_steps.feed(model.spec, Fails(), [bad, *good], 64, lambda: 0.0, 0.0)  # type: ignore[arg-type]
    by_key = {answer.element.key: answer for answer in answers}
    assert "13" in str(by_key[bad.key].error)
    assert [by_key[one.key].outputs["y"].tolist() for one in good] == [[[6, -6]]] * 2  # type: ignore[index]
    assert ones[0].of.states is not None
    assert ones[0].of.states["sum"].tolist() == [[1, -1]]
    assert (ones[0].of.steps, ones[1].of.steps) == (1, 2)
    assert [run.rows for run in runs] == [1, 1]

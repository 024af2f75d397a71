"""Decodings that step together make what each makes alone, whoever comes, goes, pauses or fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import Made, Opened, Runner, alone, entering, opened

from lockstep_server.engine.stepwise import sampler

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.sequence import GenerationSequence

Array = np.ndarray[Any, Any]

HOWS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"top_k": 3},
    {"temperature": 1.5, "top_p": 0.7},
)


def drawn(model: Opened, data: Any) -> tuple[list[int], dict[str, Any]]:
    """A prompt and how to go on from it; long ones fill another bucket, and caches reach the next."""
    longest = 30 if model.spec.manifest.lengths.get("source") else 18
    prompt = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=longest))
    how = data.draw(st.sampled_from(HOWS))
    return prompt, {
        **how,
        "seed": data.draw(st.integers(-(2**63), 2**64)),
        "limit": data.draw(st.integers(1, 25)),
    }


@pytest.mark.parametrize(
    ("kind", "pads_freely"),
    [
        ("language", False),
        ("forced", False),
        ("ending", False),
        ("translator", False),
        ("translator", True),
        ("cache", False),
        ("cache", True),
    ],
)
@settings(max_examples=20)
@given(data=st.data())
def test_company_changes_no_token(kind: str, pads_freely: bool, data: Any) -> None:
    """Random joins, cancels, pauses and steps, in runs of few and of many rows; each length in a
    block of its own, or all in one."""
    model = opened(kind)
    model = replace(model, spec=replace(model.spec, pads_freely=pads_freely))
    runner = Runner(model, most_rows=data.draw(st.sampled_from([1, 3, 4, 64])))
    asked: dict[GenerationSequence, tuple[list[int], dict[str, Any]]] = {}
    paused: list[GenerationSequence] = []
    for _ in range(data.draw(st.integers(5, 30))):
        match data.draw(st.sampled_from(["join", "join", "step", "step", "cancel", "pause", "resume"])):
            case "join":
                prompt, how = drawn(model, data)
                one = entering(model, prompt, **how)
                asked[one] = (prompt, how)
                runner.enter(one)
            case "cancel" if runner.running:
                gone = data.draw(st.sampled_from(list(runner.running)))
                runner.drop(gone)
                del asked[gone]
            case "pause" if runner.running:
                paused.append(data.draw(st.sampled_from(list(runner.running))))
                runner.pause(paused[-1])
            case "resume" if paused:
                runner.enter(paused.pop(data.draw(st.integers(0, len(paused) - 1))))
            case _:
                runner.step()
    for one in paused:
        runner.enter(one)
    runner.run()
    runner.batches.tidy()
    assert len(runner.batches) == 0
    assert runner.failed == {}
    for one, (prompt, how) in asked.items():
        assert runner.made[one] == alone(opened(kind), entering(model, prompt, **how))


# --- what a prompt gives ----------------------------------------------------------------------------


def stepped_by_hand(model: Opened, prompt: list[int], seed: int, count: int) -> list[int]:
    """The model called as anybody would: the prompt through the steps, then what was sampled."""
    h = c = np.zeros((1, 1, 16), np.float32)
    ids: list[int] = []
    choices = sampler.SampledTokens.of(1)
    choices.set(0)
    spread = sampler.spread(np.array([seed], np.uint64))
    given_ = list(prompt)
    while len(ids) < count:
        logits, h, c = model.session.run({"token": np.array([given_.pop(0)]), "h_in": h, "c_in": c})
        if not given_:
            u = sampler.uniform(spread, np.array([len(ids)], np.uint64))
            ids.append(int(sampler.sample(logits, u, choices)[0]))
            given_.append(ids[-1])
    return ids


@pytest.mark.parametrize("prompt", [[1], [1, 5, 9], list(range(1, 20))])
def test_a_prompt_without_prefill_is_forced_and_says_nothing_itself(prompt: list[int]) -> None:
    model = opened("forced")
    made = alone(model, entering(model, prompt, seed=7, limit=10))
    assert made == Made(stepped_by_hand(model, prompt, 7, 10), "length")


def test_forced_prompts_of_different_lengths_share_steps() -> None:
    model, runner = opened("forced"), Runner(opened("forced"))
    prompts = [[1], [2, 3, 4], [5] * 9, list(range(1, 20))]
    ones = [entering(model, prompt, seed=i, limit=8) for i, prompt in enumerate(prompts)]
    for one in ones:
        runner.enter(one)
    runner.run()
    for i, (one, prompt) in enumerate(zip(ones, prompts, strict=True)):
        assert runner.made[one].ids == stepped_by_hand(model, prompt, i, 8)


def test_a_pause_within_a_forced_prompt_forces_the_rest_of_it_later() -> None:
    model = opened("forced")
    runner, one = Runner(model), entering(model, [1, 5, 9, 2, 4], seed=3, limit=6)
    runner.enter(one)
    runner.step()
    runner.step()
    runner.pause(one)
    assert one.prompt == (9, 2, 4)
    runner.enter(one)
    runner.run()
    assert runner.made[one].ids == stepped_by_hand(model, [1, 5, 9, 2, 4], 3, 6)


# --- ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_a_limit_ends_after_so_many_tokens(limit: int) -> None:
    model = opened("forced")
    made = alone(model, entering(model, [1, 2], seed=1, limit=limit))
    assert (len(made.ids), made.reason) == (limit, "length")


def test_the_end_token_ends_and_is_the_last() -> None:
    model = opened("ending")
    reasons = set()
    for seed in range(20):
        made = alone(model, entering(model, [3], seed=seed, limit=30))
        reasons.add(made.reason)
        assert (2 in made.ids) == (made.reason == "end")
        assert 2 not in made.ids[:-1]
    assert reasons == {"end", "length"}


def test_an_end_token_in_a_prompt_ends_nothing() -> None:
    model = opened("ending")
    one = entering(model, [2, 2, 2], seed=1, limit=3)
    assert alone(model, one).ids


def test_an_end_token_that_fills_the_limit_is_an_end() -> None:
    model = opened("ending")
    seed, count = next(
        (seed, len(made.ids))
        for seed in range(50)
        if (made := alone(model, entering(model, [3], seed=seed, limit=30))).reason == "end"
    )
    assert alone(model, entering(model, [3], seed=seed, limit=count)).reason == "end"


def test_a_stop_string_ends_its_own_decoding_only() -> None:
    model = opened("forced")
    free = alone(model, entering(model, [1], seed=5, limit=25)).ids
    assert model.vocabulary is not None
    letters = "".join(model.vocabulary.names(free))
    stop = letters[6:8]
    runner = Runner(model)
    stopped = entering(model, [1], seed=5, limit=25, stop=(stop,))
    other = entering(model, [1], seed=5, limit=25)
    runner.enter(stopped)
    runner.enter(other)
    runner.run()
    made = runner.made[stopped]
    assert made == Made(free[: letters.index(stop) + 2], "stop")
    assert stopped.pending.text == letters[: letters.index(stop)]
    assert runner.made[other].ids == free


def test_log_probabilities_are_the_models_own_and_one_a_token() -> None:
    model, runner = opened("forced"), Runner(opened("forced"))
    one = entering(model, [1, 4], seed=2, limit=5, log_probabilities=True, temperature=0.5)
    beside = entering(model, [1, 4], seed=9, limit=9)
    runner.enter(one)
    runner.enter(beside)
    runner.run()
    h = c = np.zeros((1, 1, 16), np.float32)
    expected = []
    for token, made in zip([1, 4, *runner.made[one].ids], [None, *runner.made[one].ids], strict=False):
        logits, h, c = model.session.run({"token": np.array([token]), "h_in": h, "c_in": c})
        if made is not None:
            wide = logits[0].astype(np.float64)
            expected.append(wide[made] - np.log(np.exp(wide).sum()))
    np.testing.assert_allclose(one.pending.log_probabilities, expected, atol=1e-9)
    assert beside.pending.log_probabilities == []


def test_attention_rows_are_over_the_own_source_and_sum_to_one() -> None:
    model, runner = opened("translator"), Runner(opened("translator"))
    ones = [entering(model, [3] * n, seed=n, limit=6, attention=True) for n in (1, 5, 14, 30)]
    for one in ones:
        runner.enter(one)
    runner.run()
    for one, n in zip(ones, (1, 5, 14, 30), strict=True):
        made = runner.made[one]
        assert len(one.pending.attention) == len(made.ids) - (made.reason == "end")
        for row in one.pending.attention:
            assert row.shape == (n,)
            assert row.sum() == pytest.approx(1, abs=1e-5)


def test_a_cache_that_is_full_ends_its_decoding_and_no_other() -> None:
    """The manifest's longest is 40 elements, the prompt among them."""
    model, runner = opened("cache"), Runner(opened("cache"))
    full, other = entering(model, [1] * 30, seed=1, limit=99), entering(model, [1], seed=1, limit=12)
    runner.enter(full)
    runner.enter(other)
    runner.run()
    assert (runner.made[full].reason, len(runner.made[full].ids)) == ("full", 11)
    assert (runner.made[other].reason, len(runner.made[other].ids)) == ("length", 12)


# --- failures ---------------------------------------------------------------------------------------


class Fragile:
    """A session that fails whenever a row holds a certain token."""

    def __init__(self, model: Opened, poison: int) -> None:
        self._session, self._poison = model.session, poison
        self.output_names = model.session.output_names

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        if (feeds["token"] == self._poison).any():
            raise RuntimeError("poisoned")
        return self._session.run(feeds)


POISON = 9


@pytest.mark.parametrize("kind", ["forced", "translator", "cache"])
def test_a_step_that_fails_fails_only_who_fails_alone(kind: str) -> None:
    model = opened(kind)
    runner = Runner(model, session=Fragile(model, POISON))
    asked = {entering(model, [3, 1 + i], seed=i, limit=12): i for i in range(12)}
    for one in asked:
        runner.enter(one)
    runner.run()
    poisoned = 0
    for one, i in asked.items():
        free = alone(model, entering(model, [3, 1 + i], seed=i, limit=12))
        fed = ([3, 1 + i] if kind != "translator" else [1]) + free.ids[:-1]
        if POISON not in fed:
            assert runner.made[one] == free
        else:
            poisoned += 1
            assert one in runner.failed
            assert "poisoned" in str(runner.failed[one])
            assert runner.made[one].ids == free.ids[: len(runner.made[one].ids)]
    assert 0 < poisoned < 12


def test_who_was_split_by_a_failure_comes_together_again() -> None:
    model = opened("forced")
    runner = Runner(model, session=Fragile(model, POISON))
    for i in range(6):
        runner.enter(entering(model, [1], seed=i, temperature=0.0, limit=30))
    bad = entering(model, [1, POISON], seed=0, limit=30)
    runner.enter(bad)
    runner.step()
    runner.step()
    assert list(runner.failed) == [bad]
    if runner.running:
        assert len(runner.batches) == 1


# --- rows -------------------------------------------------------------------------------------------


def rows_of(runner: Runner) -> list[int]:
    return [batch.rows for batch in runner.batches]


def test_rows_grow_with_who_comes_and_shrink_when_clearly_fewer_are_there() -> None:
    model, runner = opened("forced"), Runner(opened("forced"))
    ones = [entering(model, [1], seed=i, limit=999) for i in range(9)]
    for one in ones:
        runner.enter(one)
    assert rows_of(runner) == [16]
    for one in ones[:3]:
        runner.drop(one)
    runner.step()
    assert rows_of(runner) == [8]
    for one in ones[3:8]:
        runner.drop(one)
    for _ in range(3):
        runner.step()
    assert rows_of(runner) == [1]
    runner.drop(ones[8])
    runner.batches.tidy()
    assert rows_of(runner) == []


def test_no_more_rows_than_allowed_share_a_run() -> None:
    model, runner = opened("forced"), Runner(opened("forced"), most_rows=4)
    for i in range(10):
        runner.enter(entering(model, [1], seed=i, limit=5))
    assert max(len(batch) for batch in runner.batches) == 4
    assert len(runner.batches) == 3


def test_lengths_of_different_buckets_do_not_share_a_run() -> None:
    """Nobody's memory is padded for a neighbour."""
    model, runner = opened("translator"), Runner(opened("translator"))
    for n in (2, 10, 16, 17, 30):
        runner.enter(entering(model, [3] * n, limit=5))
    assert sorted(len(batch) for batch in runner.batches) == [2, 3]


def test_where_padding_changes_no_bit_all_lengths_share_a_run() -> None:
    model = opened("translator")
    model = replace(model, spec=replace(model.spec, pads_freely=True))
    runner = Runner(model)
    ones = [entering(model, [3] * n, seed=n, limit=5) for n in (2, 10, 30, 16, 17)]
    for one in ones:
        runner.enter(one)
    assert [len(batch) for batch in runner.batches] == [5]
    runner.run()
    for one, n in zip(ones, (2, 10, 30, 16, 17), strict=True):
        made = alone(opened("translator"), entering(model, [3] * n, seed=n, limit=5))
        assert runner.made[one] == made


def test_once_the_longest_has_long_left_the_block_is_shorter() -> None:
    model = opened("translator")
    spec = replace(model.spec, pads_freely=True, manifest=replace(model.spec.manifest, text=None))
    model = replace(model, spec=spec)  # without an end token it goes on
    runner = Runner(model)
    long, short = (entering(model, [3] * n, seed=n, limit=999) for n in (30, 5))
    runner.enter(long)
    runner.enter(short)
    (batch,) = runner.batches
    assert batch.key == (("source", 32),)
    runner.drop(long)
    for _ in range(100):
        runner.step()
    assert [batch.key for batch in runner.batches] == [(("source", 16),)]


def test_a_run_tells_how_many_rows_were_real() -> None:
    model, runner = opened("forced"), Runner(opened("forced"))
    for i in range(3):
        runner.enter(entering(model, [1], seed=i, limit=5))
    (run,) = runner.batches.step(0.5).runs
    assert (run.rows, run.elements, run.padded_elements, run.device_wait_s) == (3, 3, 4, 0.5)


def test_steps_and_rows_are_counted_for_each_across_its_pauses() -> None:
    model, runner = opened("forced"), Runner(opened("forced"))
    one, other = (entering(model, [1], seed=i, limit=99) for i in range(2))
    runner.enter(one)
    runner.step()
    runner.enter(other)
    runner.step()
    runner.pause(one)
    runner.step()
    runner.enter(one)
    runner.step()
    runner.drop(one)
    assert (one.steps, one.rows) == (3, 1 + 2 + 2)

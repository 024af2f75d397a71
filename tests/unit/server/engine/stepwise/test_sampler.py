"""The sampler against a slow, obvious one, and alone against in company."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lockstep_server.engine.stepwise import sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]


class How(NamedTuple):
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def sampled(scores: Any, u: Sequence[float], hows: Sequence[How]) -> list[int]:
    choices = sampler.SampledTokens.of(len(hows))
    for row, how in enumerate(hows):
        choices.set(row, *how)
    return sampler.sample(np.array(scores, np.float32), np.array(u, np.float64), choices).tolist()


def one(scores: Any, u: float, **how: Any) -> int:
    return sampled([scores], [u], [How(**how)])[0]


def candidates(scores: Any, **how: Any) -> set[int]:
    """Every token that some random number chooses."""
    us = np.linspace(0, 1, 501, endpoint=False)
    return set(sampled([scores] * len(us), us.tolist(), [How(**how)] * len(us)))


def chances(scores: Array, how: How) -> Array:
    """Slow and obvious: the probability of each token, after temperature, top-k and top-p."""
    wide = scores.astype(np.float64) / how.temperature
    chance = np.exp(wide - wide.max())
    chance /= chance.sum()
    best = sorted(range(len(chance)), key=lambda i: -chance[i])
    kept = best[: how.top_k] if how.top_k else best
    total, nucleus = chance[kept].sum(), []
    for token in kept:
        nucleus.append(token)
        if how.top_p < 1 and chance[nucleus].sum() >= how.top_p * total:
            break
    outside = np.setdiff1d(np.arange(len(chance)), nucleus)
    chance[outside] = 0
    return chance / chance.sum()


# --- one row ----------------------------------------------------------------------------------------

SCORES = [0.1, 2.0, -1.0, 1.5, 0.0]


@pytest.mark.parametrize("u", [0.0, 0.3, 0.999999])
def test_greedy_takes_the_best_whatever_the_random_number(u: float) -> None:
    assert one(SCORES, u, temperature=0) == 1


def test_of_equally_good_tokens_greedy_takes_the_first() -> None:
    assert one([1, 3, 3, 3], 0.9, temperature=0) == 1


@pytest.mark.parametrize("u", [0.0, 0.5, 0.999999])
@pytest.mark.parametrize("how", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}])
def test_what_leaves_only_the_best_is_greedy(how: dict[str, Any], u: float) -> None:
    assert one(SCORES, u, **how) == 1


def test_all_tokens_can_come_where_nothing_is_cut() -> None:
    assert candidates(SCORES) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 3}, {0, 1, 3}),
        ({"top_k": 5}, {0, 1, 2, 3, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.5}, {1}),  # the best has 0.5096
        ({"top_p": 0.6}, {1, 3}),
        ({"top_k": 2, "top_p": 0.6}, {1}),  # 0.62 of the two that are left
        ({"top_k": 2, "top_p": 0.7}, {1, 3}),
    ],
)
def test_a_cut_keeps_the_best(how: dict[str, Any], expected: set[int]) -> None:
    assert candidates(SCORES, **how) == expected


def test_who_is_as_good_as_the_last_that_is_kept_is_kept() -> None:
    assert candidates([1, 2, 2, 2, 0], top_k=2) == {1, 2, 3}


def test_the_temperature_comes_before_the_cut() -> None:
    assert candidates(SCORES, top_p=0.6, temperature=4.0) == {0, 1, 3}
    assert candidates(SCORES, top_p=0.6, temperature=0.2) == {1}


@pytest.mark.parametrize("how", [{}, {"top_k": 3}, {"top_p": 0.99}, {"temperature": 0}])
def test_what_cannot_be_is_never_chosen(how: dict[str, Any]) -> None:
    assert candidates([-math.inf, 1.0, -math.inf, 0.5], **how) <= {1, 3}


@pytest.mark.parametrize("how", [{}, {"top_k": 1}, {"top_p": 0.1}, {"temperature": 0}, {"temperature": 3}])
def test_of_one_token_there_is_no_choice(how: dict[str, Any]) -> None:
    assert candidates([7.0], **how) == {0}


def test_the_largest_random_number_still_chooses_what_can_be() -> None:
    largest = np.nextafter(1.0, 0)
    assert one([0.0, 0.0, -math.inf], largest) == 1
    assert one([5.0, *[-100.0] * 50], largest) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_every_floating_type_are_taken(dtype: Any) -> None:
    scores = np.array([[0.5, 3.0, 1.0]], dtype)
    before = scores.copy()
    choices = sampler.SampledTokens.of(1)
    choices.set(0, 0.8, 2, 0.9)
    assert sampler.sample(scores, np.array([0.1]), choices).dtype == np.int64
    np.testing.assert_array_equal(scores, before)  # the model's output is not written to


# --- against the slow one ---------------------------------------------------------------------------

hows = st.builds(
    How,
    st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.5]),
    st.sampled_from([0, 0, 1, 2, 5, 100]),
    st.sampled_from([1.0, 1.0, 0.95, 0.5, 1e-6]),
)
us = st.floats(0, 1, exclude_max=True)
scores_ = st.lists(st.integers(-32, 32), min_size=1, max_size=12, unique=True).map(
    lambda quarters: np.array(quarters, np.float32) / 4
)


@given(scores_, us, hows)
def test_it_chooses_as_the_slow_one_does(scores: Array, u: float, how: How) -> None:
    token = one(scores, u, **how._asdict())
    if how.temperature == 0:
        assert token == scores.argmax()
        return
    chance = chances(scores, how)
    assert chance[token] > 0
    below = chance[:token].sum()
    assert below - 1e-4 <= u <= below + chance[token] + 1e-4


# --- company ----------------------------------------------------------------------------------------


@st.composite
def rows(draw: Any) -> tuple[Array, list[float], list[How]]:
    count, tokens = draw(st.integers(2, 9)), draw(st.integers(1, 30))
    elements = st.floats(-20, 20, width=32) | st.just(-math.inf)
    scores = draw(hnp.arrays(np.float32, (count, tokens), elements=elements))
    scores[:, 0] = np.where(np.isfinite(scores[:, 0]), scores[:, 0], 0)  # one token at least can be
    return scores, draw(st.lists(us, min_size=count, max_size=count)), [draw(hows) for _ in range(count)]


@given(rows())
def test_company_changes_no_choice(given_: tuple[Array, list[float], list[How]]) -> None:
    scores, u, how = given_
    alone = [sampled(scores[i : i + 1], u[i : i + 1], how[i : i + 1])[0] for i in range(len(u))]
    assert sampled(scores, u, how) == alone


@given(rows(), st.randoms(use_true_random=False))
def test_a_rows_place_changes_no_choice(given_: tuple[Array, list[float], list[How]], random: Any) -> None:
    scores, u, how = given_
    order = list(range(len(u)))
    random.shuffle(order)
    moved = sampled(scores[order], [u[i] for i in order], [how[i] for i in order])
    assert moved == [sampled(scores, u, how)[i] for i in order]


def test_a_row_that_changed_hands_keeps_nothing_of_who_was_there() -> None:
    choices = sampler.SampledTokens.of(2)
    choices.set(0, 0.0, 3, 0.5)
    choices.set(0)
    scores, u = np.array([SCORES, SCORES], np.float32), np.array([0.99, 0.99])
    expected = sampled([SCORES] * 2, [0.99] * 2, [How(), How()])
    assert sampler.sample(scores, u, choices).tolist() == expected


def test_a_row_that_nobody_is_in_changes_nothing_of_the_others() -> None:
    choices = sampler.SampledTokens.of(3)
    choices.set(0, 0.0)
    choices.set(1, 0.7, 2)
    choices.set(2, 0.5, 1, 0.1)
    choices.clear(2)
    scores = np.array([SCORES] * 3, np.float32)
    for u in np.linspace(0, 0.99, 20):
        made = sampler.sample(scores, np.full(3, u), choices).tolist()
        assert made[:2] == sampled(scores[:2], [u, u], [How(0.0), How(0.7, 2)])


def test_choices_move_with_their_rows() -> None:
    before, after = sampler.SampledTokens.of(4), sampler.SampledTokens.of(2)
    for row in range(4):
        before.set(row, *(How(0.0), How(0.5, 2), How(2.0, 0, 0.7), How())[row])
    after.take(before, [2, 1])
    scores = np.array([SCORES, SCORES], np.float32)
    for u in np.linspace(0, 0.99, 20):
        two = sampler.sample(scores, np.array([u, u]), after).tolist()
        assert two == sampled(scores, [u, u], [How(2.0, 0, 0.7), How(0.5, 2)])


# --- random numbers ---------------------------------------------------------------------------------


def numbers(seeds: Any, steps: Any) -> Array:
    seeds, steps = np.broadcast_arrays(np.array(seeds, np.uint64), np.array(steps, np.uint64))
    return sampler.uniform(sampler.spread(seeds), steps)


uint64 = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(uint64, uint64), min_size=1, max_size=8))
def test_a_number_lies_in_the_unit_and_hangs_on_its_seed_and_step_alone(pairs: list[Any]) -> None:
    seeds, steps = zip(*pairs, strict=True)
    made = numbers(seeds, steps)
    assert ((made >= 0) & (made < 1)).all()
    assert made.tolist() == [numbers([seed], [step]).item() for seed, step in pairs]


@pytest.mark.parametrize(
    ("seeds", "steps"),
    [(5, range(4096)), (range(4096), 0), (range(4096), 7), (range(4096), range(4096))],
    ids=["one seed", "first steps of near seeds", "later steps of near seeds", "both grow"],
)
def test_numbers_are_even(seeds: Any, steps: Any) -> None:
    """Chi-square over 64 bins: 63 degrees of freedom, 120 is far outside of chance."""
    made = numbers(np.array(seeds), np.array(steps))
    counts = np.histogram(made, 64, (0, 1))[0]
    assert ((counts - 64) ** 2 / 64).sum() < 120
    assert len(set(made.tolist())) == 4096


def test_neighbours_say_nothing_of_one_another() -> None:
    grid = numbers(np.arange(200)[:, None], np.arange(200)[None, :])
    for one_, other in ((grid[:, 1:], grid[:, :-1]), (grid[1:], grid[:-1]), (grid[1:, :-1], grid[:-1, 1:])):
        assert abs(np.corrcoef(one_.ravel(), other.ravel())[0, 1]) < 0.03


def test_tokens_come_as_often_as_they_should() -> None:
    """Through the whole sampler: 20,000 draws against the slow one's chances."""
    how, count = How(0.8, 4, 0.95), 20_000
    u = numbers(3, np.arange(count))
    got = np.bincount(sampled([SCORES] * count, u.tolist(), [how] * count), minlength=5)
    expected = chances(np.array(SCORES), how) * count
    kept = expected > 0
    assert got[~kept].sum() == 0
    assert ((got - expected)[kept] ** 2 / expected[kept]).sum() < 20


# --- log-probabilities ------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (3, 6), elements=st.floats(-50, 50, width=32)), st.integers(0, 5))
def test_log_probabilities_are_those_of_the_model_itself(scores: Array, token: int) -> None:
    made = sampler.log_probabilities(scores, np.array([token, 0, 5]))
    for row, of in enumerate((token, 0, 5)):
        wide = [float(x) for x in scores[row]]
        expected = wide[of] - max(wide) - math.log(math.fsum(math.exp(x - max(wide)) for x in wide))
        assert made[row] == pytest.approx(expected, abs=1e-9)


def test_log_probabilities_of_all_tokens_make_one() -> None:
    scores = np.tile(np.array(SCORES, np.float32), (5, 1))
    assert np.exp(sampler.log_probabilities(scores, np.arange(5))).sum() == pytest.approx(1)

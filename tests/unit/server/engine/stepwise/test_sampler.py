"""The sampler against a slow reference, and batched against unbatched."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
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


class Params(NamedTuple):
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def sample(scores: Any, u: Sequence[float], params_: Sequence[Params]) -> list[int]:
    parameters = sampler.SamplingParameters.of(len(params_))
    for row, params in enumerate(params_):
        parameters.set(row, *params)
    return sampler.sample(np.array(scores, np.float32), np.array(u, np.float64), parameters).tolist()


def sample_one(scores: Any, u: float, **params: Any) -> int:
    return sample([scores], [u], [Params(**params)])[0]


def candidates(scores: Any, **params: Any) -> set[int]:
    """Every token that some random number samples."""
    us = np.linspace(0, 1, 501, endpoint=False)
    return set(sample([scores] * len(us), us.tolist(), [Params(**params)] * len(us)))


def reference_probabilities(scores: Array, params: Params) -> Array:
    """The probability of each token after temperature, top-k and top-p, computed the slow way."""
    wide = scores.astype(np.float64) / params.temperature
    probability = np.exp(wide - wide.max())
    probability /= probability.sum()
    best = sorted(range(len(probability)), key=lambda i: -probability[i])
    kept = best[: params.top_k] if params.top_k else best
    total, nucleus = probability[kept].sum(), []
    for token in kept:
        nucleus.append(token)
        if params.top_p < 1 and probability[nucleus].sum() >= params.top_p * total:
            break
    outside = np.setdiff1d(np.arange(len(probability)), nucleus)
    probability[outside] = 0
    return probability / probability.sum()


# --- one row ----------------------------------------------------------------------------------------

SCORES = [0.1, 2.0, -1.0, 1.5, 0.0]


@pytest.mark.parametrize("u", [0.0, 0.3, 0.999999])
def test_greedy_takes_the_best_whatever_the_random_number(u: float) -> None:
    assert sample_one(SCORES, u, temperature=0) == 1


def test_greedy_takes_the_first_of_equal_tokens() -> None:
    assert sample_one([1, 3, 3, 3], 0.9, temperature=0) == 1


@pytest.mark.parametrize("u", [0.0, 0.5, 0.999999])
@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}])
def test_parameters_that_leave_one_candidate_are_greedy(params: dict[str, Any], u: float) -> None:
    assert sample_one(SCORES, u, **params) == 1


def test_without_cuts_every_token_can_be_sampled() -> None:
    assert candidates(SCORES) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 3}, {0, 1, 3}),
        ({"top_k": 5}, {0, 1, 2, 3, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.5}, {1}),  # the best has 0.5096
        ({"top_p": 0.6}, {1, 3}),
        ({"top_k": 2, "top_p": 0.6}, {1}),  # 0.62 of the two that top-k keeps
        ({"top_k": 2, "top_p": 0.7}, {1, 3}),
    ],
)
def test_cuts_keep_the_best(params: dict[str, Any], expected: set[int]) -> None:
    assert candidates(SCORES, **params) == expected


def test_ties_with_the_last_kept_token_are_kept() -> None:
    assert candidates([1, 2, 2, 2, 0], top_k=2) == {1, 2, 3}


def test_the_temperature_is_applied_before_the_cuts() -> None:
    assert candidates(SCORES, top_p=0.6, temperature=4.0) == {0, 1, 3}
    assert candidates(SCORES, top_p=0.6, temperature=0.2) == {1}


@pytest.mark.parametrize("params", [{}, {"top_k": 3}, {"top_p": 0.99}, {"temperature": 0}])
def test_a_token_of_probability_0_is_never_sampled(params: dict[str, Any]) -> None:
    assert candidates([-math.inf, 1.0, -math.inf, 0.5], **params) <= {1, 3}


@pytest.mark.parametrize("params", [{}, {"top_k": 1}, {"top_p": 0.1}, {"temperature": 0}, {"temperature": 3}])
def test_a_vocabulary_of_one_token_gives_that_token(params: dict[str, Any]) -> None:
    assert candidates([7.0], **params) == {0}


def test_the_largest_random_number_samples_a_possible_token() -> None:
    largest = np.nextafter(1.0, 0)
    assert sample_one([0.0, 0.0, -math.inf], largest) == 1
    assert sample_one([5.0, *[-100.0] * 50], largest) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_every_floating_type_are_accepted(dtype: Any) -> None:
    scores = np.array([[0.5, 3.0, 1.0]], dtype)
    before = scores.copy()
    parameters = sampler.SamplingParameters.of(1)
    parameters.set(0, 0.8, 2, 0.9)
    assert sampler.sample(scores, np.array([0.1]), parameters).dtype == np.int64
    np.testing.assert_array_equal(scores, before)  # the model's output is not modified


# --- against the reference --------------------------------------------------------------------------

params_ = st.builds(
    Params,
    st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.5]),
    st.sampled_from([0, 0, 1, 2, 5, 100]),
    st.sampled_from([1.0, 1.0, 0.95, 0.5, 1e-6]),
)
us = st.floats(0, 1, exclude_max=True)
scores_ = st.lists(st.integers(-32, 32), min_size=1, max_size=12, unique=True).map(
    lambda quarters: np.array(quarters, np.float32) / 4
)


@given(scores_, us, params_)
def test_it_samples_as_the_reference_does(scores: Array, u: float, params: Params) -> None:
    token = sample_one(scores, u, **params._asdict())
    if params.temperature == 0:
        assert token == scores.argmax()
        return
    probability = reference_probabilities(scores, params)
    assert probability[token] > 0
    below = probability[:token].sum()
    assert below - 1e-4 <= u <= below + probability[token] + 1e-4


# --- batching ---------------------------------------------------------------------------------------


@st.composite
def rows(draw: Any) -> tuple[Array, list[float], list[Params]]:
    count, tokens = draw(st.integers(2, 9)), draw(st.integers(1, 30))
    elements = st.floats(-20, 20, width=32) | st.just(-math.inf)
    scores = draw(hnp.arrays(np.float32, (count, tokens), elements=elements))
    scores[:, 0] = np.where(np.isfinite(scores[:, 0]), scores[:, 0], 0)  # at least one possible token
    u = draw(st.lists(us, min_size=count, max_size=count))
    return scores, u, [draw(params_) for _ in range(count)]


@given(rows())
def test_batching_changes_no_token(drawn: tuple[Array, list[float], list[Params]]) -> None:
    scores, u, params = drawn
    unbatched = [sample(scores[i : i + 1], u[i : i + 1], params[i : i + 1])[0] for i in range(len(u))]
    assert sample(scores, u, params) == unbatched


@given(rows(), st.randoms(use_true_random=False))
def test_the_position_of_a_row_changes_no_token(
    drawn: tuple[Array, list[float], list[Params]], random: Any
) -> None:
    scores, u, params = drawn
    order = list(range(len(u)))
    random.shuffle(order)
    moved = sample(scores[order], [u[i] for i in order], [params[i] for i in order])
    assert moved == [sample(scores, u, params)[i] for i in order]


@given(rows(), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_row_without_finite_scores_changes_no_token_of_the_others(
    drawn: tuple[Array, list[float], list[Params]], value: float
) -> None:
    scores, u, params = drawn
    without = np.full((1, scores.shape[1]), value)
    tokens = sample(np.concatenate([scores, without]), [*u, 0.5], [*params, Params(0.7)])
    assert tokens == [*sample(scores, u, params), -1]


def test_a_reused_row_keeps_none_of_its_old_parameters() -> None:
    parameters = sampler.SamplingParameters.of(2)
    parameters.set(0, 0.0, 3, 0.5)
    parameters.set(0)
    scores, u = np.array([SCORES, SCORES], np.float32), np.array([0.99, 0.99])
    expected = sample([SCORES] * 2, [0.99] * 2, [Params(), Params()])
    assert sampler.sample(scores, u, parameters).tolist() == expected


def test_a_vacant_row_does_not_affect_the_others() -> None:
    parameters = sampler.SamplingParameters.of(3)
    parameters.set(0, 0.0)
    parameters.set(1, 0.7, 2)
    parameters.set(2, 0.5, 1, 0.1)
    parameters.clear(2)
    scores = np.array([SCORES] * 3, np.float32)
    for u in np.linspace(0, 0.99, 20):
        tokens = sampler.sample(scores, np.full(3, u), parameters).tolist()
        assert tokens[:2] == sample(scores[:2], [u, u], [Params(0.0), Params(0.7, 2)])


def test_parameters_move_with_their_rows() -> None:
    before, after = sampler.SamplingParameters.of(4), sampler.SamplingParameters.of(2)
    for row in range(4):
        before.set(row, *(Params(0.0), Params(0.5, 2), Params(2.0, 0, 0.7), Params())[row])
    after.take(before, [2, 1])
    scores = np.array([SCORES, SCORES], np.float32)
    for u in np.linspace(0, 0.99, 20):
        two = sampler.sample(scores, np.array([u, u]), after).tolist()
        assert two == sample(scores, [u, u], [Params(2.0, 0, 0.7), Params(0.5, 2)])


# --- random numbers ---------------------------------------------------------------------------------


def numbers(seeds: Any, steps: Any) -> Array:
    seeds, steps = np.broadcast_arrays(np.array(seeds, np.uint64), np.array(steps, np.uint64))
    return sampler.uniform(sampler.spread(seeds), steps)


uint64 = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(uint64, uint64), min_size=1, max_size=8))
def test_a_number_is_in_the_unit_interval_and_depends_only_on_seed_and_step(pairs: list[Any]) -> None:
    seeds, steps = zip(*pairs, strict=True)
    drawn = numbers(seeds, steps)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert drawn.tolist() == [numbers([seed], [step]).item() for seed, step in pairs]


@pytest.mark.parametrize(("seed", "bits"), [(0, 0), (5, 5), (-1, 2**64 - 1), (2**64 + 5, 5)])
def test_the_lowest_64_bits_of_a_seed_count(seed: int, bits: int) -> None:
    assert sampler.spread_one(seed).tolist() == sampler.spread(np.array([bits], np.uint64)).tolist()


@pytest.mark.parametrize(
    ("seeds", "steps"),
    [(5, range(4096)), (range(4096), 0), (range(4096), 7), (range(4096), range(4096))],
    ids=["one seed", "first steps of adjacent seeds", "later steps of adjacent seeds", "both grow"],
)
def test_numbers_are_uniform(seeds: Any, steps: Any) -> None:
    """Chi-square over 64 bins, 63 degrees of freedom; 120 is far beyond chance."""
    drawn = numbers(np.array(seeds), np.array(steps))
    counts = np.histogram(drawn, 64, (0, 1))[0]
    assert ((counts - 64) ** 2 / 64).sum() < 120
    assert len(set(drawn.tolist())) == 4096


def test_adjacent_seeds_and_steps_are_uncorrelated() -> None:
    grid = numbers(np.arange(200)[:, None], np.arange(200)[None, :])
    for left, right in ((grid[:, 1:], grid[:, :-1]), (grid[1:], grid[:-1]), (grid[1:, :-1], grid[:-1, 1:])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.03


def test_token_frequencies_match_the_reference() -> None:
    """20,000 draws through the whole sampler against the reference's probabilities."""
    params, count = Params(0.8, 4, 0.95), 20_000
    u = numbers(3, np.arange(count))
    got = np.bincount(sample([SCORES] * count, u.tolist(), [params] * count), minlength=5)
    expected = reference_probabilities(np.array(SCORES), params) * count
    kept = expected > 0
    assert got[~kept].sum() == 0
    assert ((got - expected)[kept] ** 2 / expected[kept]).sum() < 20


# --- log-probabilities ------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (3, 6), elements=st.floats(-50, 50, width=32)), st.integers(0, 5))
def test_log_probabilities_are_those_of_the_model_itself(scores: Array, token: int) -> None:
    computed = sampler.log_probabilities(scores, np.array([token, 0, 5]))
    for row, of in enumerate((token, 0, 5)):
        wide = [float(x) for x in scores[row]]
        expected = wide[of] - max(wide) - math.log(math.fsum(math.exp(x - max(wide)) for x in wide))
        assert computed[row] == pytest.approx(expected, abs=1e-9)


def test_probabilities_of_all_tokens_sum_to_one() -> None:
    scores = np.tile(np.array(SCORES, np.float32), (5, 1))
    assert np.exp(sampler.log_probabilities(scores, np.arange(5))).sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 1e-7])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    parameters = sampler.SamplingParameters.of(2)
    parameters.set(0, temperature)
    scores = np.array([[0.1, 0.3, 0.2], [0.1, 0.3, 0.2]], np.float32)
    assert sampler.sample(scores, np.full(2, 0.99), parameters).tolist() == [1, 2]


# --- many tokens ------------------------------------------------------------------------------------


def drawn_weights(seed: int, tokens: int, spread: float) -> Array:
    draw = np.random.default_rng(seed)
    scores = (draw.standard_normal((30, tokens)) * spread).astype(np.float32)
    if seed % 2:
        scores = scores.round()  # equal ones
    return np.exp(scores - scores.max(axis=1, keepdims=True))


@given(st.integers(0, 2**32 - 1), st.integers(1, sampler._MANY - 1), st.sampled_from([0.0, 1.0, 6.0, 40.0]))
def test_sums_of_integers_draw_the_tokens_of_exact_sums(seed: int, tokens: int, spread: float) -> None:
    weights, u = drawn_weights(seed, tokens, spread), np.random.default_rng(seed).random(30)
    u[:2] = 0, 1 - 2.0**-52
    expected = []
    for row, number in zip(weights.tolist(), u.tolist(), strict=True):
        sums = list(itertools.accumulate(int(weight * 2**40) for weight in row))
        aim = Fraction(number) * sums[-1]
        expected.append(next(token for token, one in enumerate(sums) if one > aim))
    assert sampler._drawn_of_few(weights, u).tolist() == expected


def test_more_weights_than_one_sum_takes_draw_as_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, u = drawn_weights(3, 66, 1.0), np.random.default_rng(3).random(30)
    expected = sampler._drawn_of_few(weights.copy(), u).tolist()
    monkeypatch.setattr(sampler, "_MOST_SUMMED", 200)
    assert sampler._drawn_of_few(weights, u).tolist() == expected


def test_scores_of_which_the_sum_overflows_have_tokens() -> None:
    largest = float(np.finfo(np.float32).max)
    scores = [[largest, 0.0], [0.0, largest], [-math.inf, largest]]
    assert sample(scores, [0.9] * 3, [Params()] * 3) == [0, 1, 1]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([sampler._MANY, 600, 2000, 2049]),
    st.sampled_from([0.0, 1.0, 6.0, 40.0]),
)
def test_sums_of_parts_draw_the_tokens_of_one_running_sum(seed: int, tokens: int, spread: float) -> None:
    """Half of the numbers are at an edge between two tokens."""
    wide = drawn_weights(seed, tokens, spread).astype(np.float64)
    draw = np.random.default_rng(seed)
    u = draw.random(30)
    sums = np.cumsum(wide[:15], axis=1)
    edges = sums[np.arange(15), draw.integers(0, tokens, 15)] / sums[:, -1]
    u[:15] = np.minimum(edges * (1 + draw.integers(-2, 3, 15) * 2.0**-53), 1 - 2.0**-53)
    expected = sampler._drawn(wide.copy(), u)
    assert sampler._drawn_by_parts(wide, u).tolist() == expected.tolist()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 2.0, 20.0]))
def test_few_sorted_weights_cut_as_all_of_them(seed: int, spread: float) -> None:
    weights, draw = drawn_weights(seed, 5 * sampler._RANKED, spread), np.random.default_rng(seed)
    top_k = np.where(draw.random(30) < 0.5, 0, draw.integers(1, sampler._RANKED, 30))
    top_p = np.where((draw.random(30) < 0.3) & (top_k > 0), 1.0, draw.random(30))
    expected = sampler._least_of(np.sort(weights, axis=1)[:, ::-1], top_k, top_p)
    assert sampler._least_kept(weights, top_k, top_p).tolist() == expected.tolist()


def test_many_scores_that_are_not_finite_have_no_token() -> None:
    scores = np.zeros((2, 2 * sampler._MANY))
    scores[0, 700] = np.nan
    found = sample(scores, [0.3, 0.3], [Params(), Params()])
    assert found[0] == -1
    assert found[1] >= 0

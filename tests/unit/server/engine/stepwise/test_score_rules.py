"""Rules of scores: each by itself, and of rows of a batch as of each row alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import generation_sequence

from lockstep_server.engine.stepwise.score_rules import ScoreRules
from lockstep_server.model.manifest import GenerationSection, Manifest, TextSection

TOKENS = 8
NEVER = -np.inf


def manifest(end: tuple[int, ...] = (), **generation: Any) -> Manifest:
    return Manifest(task="generate", text=TextSection(end=end), generation=GenerationSection(**generation))


def ruled(
    rules: Manifest, params: dict[str, Any], context: tuple[int, ...], chosen: tuple[int, ...], limit: int = 9
) -> Any:
    """Scores 1, 2, …, 8 of one row under rules."""
    sequence = generation_sequence(params=params, context=context, chosen=list(chosen), limit=limit)
    one = ScoreRules(rules, 1)
    one.fill(0, sequence)
    scores = np.arange(1, TOKENS + 1, dtype=np.float32)[None]
    assert one.sequences
    return one.apply(scores, np.array([len(chosen)]))[0].tolist()


RULES: dict[str, tuple[Any, ...]] = {
    "a forbidden id of the model": (manifest(forbidden=(2,)), {}, (), (), [1, 2, NEVER, 4, 5, 6, 7, 8]),
    "an id that is not first": (manifest(forbidden_first=(2,)), {}, (), (), [1, 2, NEVER, 4, 5, 6, 7, 8]),
    "the same id later": (manifest(forbidden_first=(2,)), {}, (), (3,), [1, 2, 3, 4, 5, 6, 7, 8]),
    "an id that is not first after a forced one": (
        manifest(forced_first=5, forbidden_first=(2,)), {}, (), (5,), [1, 2, NEVER, 4, 5, 6, 7, 8],
    ),
    "a forced first id": (manifest(forced_first=5), {}, (), (), [*[NEVER] * 5, 0, NEVER, NEVER]),
    "a forced last id": (manifest(forced_last=5), {}, (), (1,) * 8, [*[NEVER] * 5, 0, NEVER, NEVER]),
    "a forced last id, before": (manifest(forced_last=5), {}, (), (1,) * 7, [1, 2, 3, 4, 5, 6, 7, 8]),
    "no end yet": (manifest((1, 3)), {"min_tokens": 2}, (), (0,), [1, NEVER, 3, NEVER, 5, 6, 7, 8]),
    "an end": (manifest((1, 3)), {"min_tokens": 2}, (), (0, 0), [1, 2, 3, 4, 5, 6, 7, 8]),
    "a bias": (manifest(), {"logit_bias": ((0, -3.0), (7, 2.0))}, (), (), [-2, 2, 3, 4, 5, 6, 7, 10]),
    "a forbidden id": (manifest(), {"forbidden": (0,)}, (), (), [NEVER, 2, 3, 4, 5, 6, 7, 8]),
    "ids that were read or generated": (
        manifest(), {"repetition_penalty": 2.0, "logit_bias": ((0, -3.0),)}, (0, 3), (5,),
        [-4, 2, 3, 2, 5, 3, 7, 8],
    ),
    "ids that were generated": (
        manifest(), {"presence_penalty": 1.5}, (0, 3), (5, 5), [1, 2, 3, 4, 5, 4.5, 7, 8],
    ),
    "a pair again": (manifest(), {"no_repeat": 2}, (4, 1, 4), (2, 4), [1, NEVER, NEVER, 4, 5, 6, 7, 8]),
    "an id again": (manifest(), {"no_repeat": 1}, (4,), (2,), [1, 2, NEVER, 4, NEVER, 6, 7, 8]),
    "three of four": (manifest(), {"no_repeat": 4}, (4, 1), (2,), [1, 2, 3, 4, 5, 6, 7, 8]),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_rule_changes_the_scores_that_it_names(name: str) -> None:
    *given_, expected = RULES[name]
    assert ruled(*given_) == expected


def test_ids_that_the_scores_do_not_have_are_ignored() -> None:
    model = manifest((99,), forbidden=(99,), forbidden_first=(99,))
    params = {"logit_bias": ((99, 1.0),), "forbidden": (99,), "min_tokens": 1, "repetition_penalty": 2.0}
    assert ruled(model, params, (99,), ()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_row_without_rules_needs_none() -> None:
    rules = ScoreRules(manifest((1,)), 2)
    rules.fill(0, generation_sequence())
    assert not rules.sequences


ids = st.integers(0, TOKENS - 1)
rows = st.fixed_dictionaries(
    {
        "repetition_penalty": st.sampled_from([1.0, 1.5]),
        "presence_penalty": st.sampled_from([0.0, 0.5]),
        "no_repeat": st.integers(0, 3),
        "min_tokens": st.integers(0, 3),
        "logit_bias": st.lists(st.tuples(ids, st.floats(-2, 2)), max_size=2).map(tuple),
        "forbidden": st.lists(ids, max_size=1).map(tuple),
    }
)


@given(
    params=st.lists(rows, min_size=1, max_size=4),
    contexts=st.lists(st.lists(ids, max_size=5), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_rows_of_a_batch_are_ruled_as_alone(
    params: list[dict[str, Any]], contexts: list[list[int]], seed: int
) -> None:
    """Rows join one by one, the batch is resized in between, and each row takes its best token."""
    rng = np.random.default_rng(seed)
    model = manifest((1,), forbidden_first=(2,))
    sequences = [
        [generation_sequence(params=p, context=tuple(c)) for p, c in zip(params, contexts, strict=False)]
        for _ in range(2)
    ]  # fmt: skip
    batch, alone = ScoreRules(model, 4), [ScoreRules(model, 1) for _ in params]
    generated = np.zeros(4, np.int64)
    for step in range(len(params) + 4):
        if step < len(params):
            batch.fill(step, sequences[0][step])
            alone[step].fill(0, sequences[1][step])
        if step == len(params):
            batch = batch.resized(4, list(range(len(params))))
        scores = rng.standard_normal((4, TOKENS)).astype(np.float32)
        found = batch.apply(scores, generated)
        tokens = found.argmax(axis=1)
        for row in range(min(step + 1, len(params))):
            one = alone[row].apply(scores[row : row + 1], generated[row : row + 1])
            assert one[0].tolist() == found[row].tolist()
            alone[row].add(tokens[row : row + 1])
        batch.add(tokens)
        generated[: min(step + 1, len(params))] += 1

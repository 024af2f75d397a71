"""The columns of a batch: rows that are filled, cleared and moved, and the token log."""

from __future__ import annotations

import numpy as np
import pytest
from unit.server.engine.stepwise.step_models import generation_sequence

from lockstep_server.engine.stepwise import sampler
from lockstep_server.engine.stepwise.columns import RowColumns, TokenLog

FLAT = np.zeros((4, 50), np.float32)
"""Scores by which all 50 tokens are equally likely, for 4 rows."""


def column_of(seed: int, count: int, generated: int = 0) -> list[int]:
    """The tokens that a row with this seed samples from `FLAT`."""
    parameters = sampler.SamplingParameters.of(1)
    steps = range(generated, generated + count)
    draws = [sampler.uniform(sampler.spread_one(seed), np.array([step], np.uint64)) for step in steps]
    return [int(sampler.sample(FLAT[:1], draw, parameters)[0]) for draw in draws]


def sampled(columns: RowColumns, count: int) -> list[list[int]]:
    """The tokens of `count` steps, by row."""
    return np.stack([columns.sample(FLAT, redraw=False) for _ in range(count)], axis=1).tolist()


# --- rows -------------------------------------------------------------------------------------------


def test_a_row_continues_where_its_sequence_stands() -> None:
    columns = RowColumns(4)
    columns.fill(2, generation_sequence(token=7, generated=5, params={"seed": 3}))
    assert columns.token.tolist() == [0, 0, 7, 0]
    assert sampled(columns, 40)[2] == column_of(3, 40, generated=5)
    assert columns.generated[2] == 45


def test_filling_a_row_changes_no_number_of_the_others() -> None:
    columns, rows = RowColumns(4), []
    for row in range(4):
        columns.fill(row, generation_sequence(params={"seed": row}))
        rows.append(sampled(columns, 3))
    assert [token for step in rows for token in step[0]] == column_of(0, 12)
    assert rows[3][3] == column_of(3, 3)


def test_a_redraw_follows_a_changed_number_of_tokens() -> None:
    columns = RowColumns(4)
    columns.fill(0, generation_sequence(params={"seed": 1}))
    columns.sample(FLAT, redraw=True)
    columns.generated[0] -= 1
    assert columns.sample(FLAT, redraw=True)[0] == column_of(1, 1)[0]


def test_greedy_rows_take_the_best_token() -> None:
    columns = RowColumns(4)
    for row in range(4):
        columns.fill(row, generation_sequence(params={"temperature": 0}))
    assert columns.sample(np.eye(4, 50, k=5, dtype=np.float32), redraw=False).tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("limit", "token", "end", "ended"),
    [(10, 3, (), False), (1, 3, (), True), (10, 3, (5, 3), True), (10, 3, (4,), False)],
)
def test_a_row_ends_at_its_limit_or_its_end_token(
    limit: int, token: int, end: tuple[int, ...], ended: bool
) -> None:
    columns = RowColumns(4)
    columns.fill(1, generation_sequence(limit=limit, params={"temperature": 0}))
    columns.sample(np.eye(4, 50, k=token - 1, dtype=np.float32), redraw=False)
    assert columns.ended(end).tolist() == [False, ended, False, False]


def test_a_vacant_row_never_ends() -> None:
    columns = RowColumns(4)
    columns.fill(1, generation_sequence(limit=1))
    columns.clear(1)
    for _ in range(3):
        columns.sample(FLAT, redraw=False)
    assert not columns.ended((0,)).any()


def test_kept_rows_move_to_the_front_and_go_on() -> None:
    columns = RowColumns(4)
    for row in range(4):
        columns.fill(row, generation_sequence(limit=3 + row, params={"seed": row}))
    sampled(columns, 2)
    resized = columns.resized(4, [1, 3])
    assert resized.token[:2].tolist() == columns.token[[1, 3]].tolist()
    assert sampled(resized, 4)[:2] == [column_of(1, 4, generated=2), column_of(3, 4, generated=2)]
    assert resized.ended(()).tolist() == [True, True, False, False]


# --- log --------------------------------------------------------------------------------------------


def log_of(*steps: tuple[int, ...]) -> TokenLog:
    log = TokenLog(len(steps[0]))
    for tokens in steps:
        log.add(np.array(tokens))
    return log


def test_each_token_is_taken_once_in_order() -> None:
    log = log_of((1, 10), (2, 20))
    assert log.take(0) == [1, 2]
    log.add(np.array((3, 30)))
    assert (log.take(0), log.take(0), log.take(1)) == ([3], [], [10, 20, 30])


def test_skipped_tokens_are_not_taken() -> None:
    log = log_of((1, 10), (2, 20))
    log.skip(0)
    log.add(np.array((3, 30)))
    assert (log.take(0), log.take(1)) == ([3], [10, 20, 30])


def test_all_rows_are_taken_at_once_and_leave_the_log_empty() -> None:
    log = log_of((1, 10, 100), (2, 20, 200))
    log.take(0)
    log.add(np.array((3, 30, 300)))
    log.skip(1)
    assert log.take_all() == [[3], [], [100, 200, 300]]
    log.add(np.array((4, 40, 400)))
    assert log.take_all() == [[4], [40], [400]]


def test_a_full_log_can_be_cleared_and_used_again() -> None:
    log, steps = TokenLog(1), 0
    while not log.is_full():
        log.add(np.array((steps,)))
        steps += 1
    assert log.take(0) == list(range(steps))
    log.clear()
    assert not log.is_full()
    assert log.take(0) == []
    log.add(np.array((9,)))
    assert log.take(0) == [9]


def test_kept_rows_of_the_log_move_to_the_front() -> None:
    log = log_of((1, 10, 100), (2, 20, 200))
    log.take(2)
    log.add(np.array((3, 30, 300)))
    resized = log.resized(4, [1, 2])
    assert (resized.take(0), resized.take(1)) == ([10, 20, 30], [300])

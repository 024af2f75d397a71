"""What a contrast says is what its numbers say."""

from __future__ import annotations

from lockstep_client.load.contrast import FUSED, ONE_SHOT, STEPWISE, Point, finding, points


def lone(way: str, length: int, first: float, last: float, step: float | None = None) -> Point:
    return Point(way, "lone", length, 0.0, first, last, last if step is None else step, last, 10.0, 0)


def rated(way: str, rate: float, p99: float, lost: int = 0) -> Point:
    return Point(way, "rate", 32, rate, 1.0, p99, p99, p99, rate, lost)


POINTS = [
    lone(STEPWISE, 8, 1.0, 4.0, 0.2), lone(FUSED, 8, 2.0, 2.0), lone(ONE_SHOT, 8, 3.0, 3.0),
    lone(STEPWISE, 512, 1.1, 90.0, 0.2), lone(FUSED, 512, 20.0, 20.0), lone(ONE_SHOT, 512, 9.0, 9.0),
    Point(STEPWISE, "full", 8, 0.0, 1.0, 1.0, 1.0, 1.0, 100.0, 0),
    Point(FUSED, "full", 8, 0.0, 1.0, 1.0, 1.0, 1.0, 900.0, 0),
    Point(ONE_SHOT, "full", 8, 0.0, 1.0, 1.0, 1.0, 1.0, 880.0, 0),
    rated(STEPWISE, 100, 60.0), rated(FUSED, 100, 10.0), rated(ONE_SHOT, 100, 20.0, lost=1),
]  # fmt: skip


def test_each_sentence_names_who_wins_where() -> None:
    alone, first, one_more, full, rates = finding(POINTS, 16)
    assert f"8: {FUSED}" in alone
    assert f"512: {ONE_SHOT}" in alone
    assert f"8 to 512: {STEPWISE} (at 512: {STEPWISE} 1.1 ms, {FUSED} 20 ms, {ONE_SHOT} 9 ms)" in first
    assert f"8 to 512: {STEPWISE} (at 512: {STEPWISE} 0.2 ms" in one_more
    assert f"{FUSED} and {ONE_SHOT} alike" in full
    assert f"{STEPWISE} none" in rates
    assert f"{FUSED} 100/s (the most tried)" in rates
    assert f"{ONE_SHOT} none" in rates  # one was not answered


def test_neighbouring_lengths_with_one_winner_are_one() -> None:
    points = [lone(way, n, ms, ms) for n in (8, 32, 128) for way, ms in ((FUSED, 2.0), (ONE_SHOT, 5.0))]
    alone, *_ = finding(points, 16)
    assert f"8 to 128: {FUSED}" in alone


def test_nothing_measured_is_nothing_told() -> None:
    assert finding([], 16) == []


def run(way: str, ms: float, *, valid: bool = True) -> dict:
    return {
        "way": way, "mode": "lone", "length": 8, "valid": valid, "load": {}, "outcomes": {"ok": 9},
        "latency_ms": {"p50": ms, "p99": ms}, "first_token_ms": None, "per_token_ms": None,
        "rates": {"ok": 100.0},
    }  # fmt: skip


def test_the_medians_of_valid_rounds_count() -> None:
    runs = [run(FUSED, 1.0), run(FUSED, 3.0), run(FUSED, 50.0, valid=False), run(ONE_SHOT, 9.0, valid=False)]
    [fused] = points(runs)
    assert (fused.way, fused.last_ms) == (FUSED, 2.0)


def test_what_one_of_two_rounds_lost_is_told() -> None:
    lost = {**run(FUSED, 1.0), "outcomes": {"ok": 9, "overloaded": 1}}
    [fused] = points([run(FUSED, 1.0), lost])
    assert fused.lost == 1


def test_a_rate_is_kept_only_where_all_below_it_were() -> None:
    [told] = finding([rated(FUSED, 100, 10.0), rated(FUSED, 200, 80.0), rated(FUSED, 400, 10.0)], 16)
    assert f"{FUSED} 100/s" in told

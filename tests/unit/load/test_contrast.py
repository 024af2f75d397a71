"""The findings of a contrast follow from its points."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec import structs
from unit.load import sample_runs

from lockstep_client.writing import TOKENS
from lockstep_load.contrast import (
    FUSED,
    ONE_SHOT,
    STEPWISE,
    Contrast,
    ContrastPoint,
    findings,
    is_complete,
    points,
    writing_modes,
)
from lockstep_load.contrast_report import rows
from lockstep_load.lengths import parse
from lockstep_load.plan import ClosedLoop, LoadProfile, Target, Workload
from lockstep_load.results import ReadingMode, RunDocument


def lone(way: str, length: int, first: float, last: float, step: float | None = None) -> ContrastPoint:
    return ContrastPoint(way, "lone", length, 0.0, first, last, last if step is None else step, last, 10.0, 0)


def rated(way: str, rate: float, p99: float, lost: int = 0) -> ContrastPoint:
    return ContrastPoint(way, "rate", 32, rate, 1.0, p99, p99, p99, rate, lost)


POINTS = [
    lone(STEPWISE, 8, 1.0, 4.0, 0.2), lone(FUSED, 8, 2.0, 2.0), lone(ONE_SHOT, 8, 3.0, 3.0),
    lone(STEPWISE, 512, 1.1, 90.0, 0.2), lone(FUSED, 512, 20.0, 20.0), lone(ONE_SHOT, 512, 9.0, 9.0),
    ContrastPoint(STEPWISE, "full", 8, 0.0, 1.0, 1.0, 1.0, 1.0, 100.0, 0),
    ContrastPoint(FUSED, "full", 8, 0.0, 1.0, 1.0, 1.0, 1.0, 900.0, 0),
    ContrastPoint(ONE_SHOT, "full", 8, 0.0, 1.0, 1.0, 1.0, 1.0, 880.0, 0),
    rated(STEPWISE, 100, 60.0), rated(FUSED, 100, 10.0), rated(ONE_SHOT, 100, 20.0, lost=1),
]  # fmt: skip


def test_each_finding_names_the_winner_at_each_length() -> None:
    alone, first, one_more, full, rates = findings(POINTS, 16)
    assert f"8: {FUSED}" in alone
    assert f"512: {ONE_SHOT}" in alone
    assert f"8 to 512: {STEPWISE} (at 512: {STEPWISE} 1.1 ms, {FUSED} 20 ms, {ONE_SHOT} 9 ms)" in first
    assert f"8 to 512: {STEPWISE} (at 512: {STEPWISE} 0.2 ms" in one_more
    assert f"{FUSED} and {ONE_SHOT} equal" in full
    assert f"{STEPWISE} none" in rates
    assert f"{FUSED} 100/s (the highest measured)" in rates
    assert f"{ONE_SHOT} none" in rates  # one request was not answered


def test_neighbouring_lengths_with_the_same_winner_are_merged() -> None:
    points = [lone(way, n, ms, ms) for n in (8, 32, 128) for way, ms in ((FUSED, 2.0), (ONE_SHOT, 5.0))]
    alone, *_ = findings(points, 16)
    assert f"8 to 128: {FUSED}" in alone


def test_no_points_give_no_findings() -> None:
    assert findings([], 16) == []


def run(way: str, ms: float, **more: Any) -> RunDocument:
    base = sample_runs.run([sample_runs.record(0.0, 0.01)] * 9, 1.0)
    load = structs.replace(base.load, rate=None)
    here = {"way": way, "mode": "lone", "length": 8, "load": load, "latency_ms": sample_runs.times(ms)}
    return structs.replace(base, **{**here, **more})


def streamed(ms: float, gap_ms: float, **more: Any) -> RunDocument:
    first, gap = sample_runs.times(1.0), sample_runs.times(gap_ms)
    return run(STEPWISE, ms, **{"first_token_ms": first, "per_token_ms": gap, "gap_ms": gap, **more})


def test_the_cost_of_one_more_element_comes_from_one_by_one_runs() -> None:
    """Replies to a text sent at once arrive closer together than single steps could be answered."""
    runs = [streamed(4.0, 0.1), streamed(9.0, 0.7, mode="next"), run(FUSED, 1.3)]
    stepwise, fused = points(runs)
    assert (stepwise.last_ms, stepwise.next_ms) == (4.0, 0.7)
    assert (fused.last_ms, fused.next_ms) == (1.3, 1.3)
    _, _, one_more = findings([stepwise, fused], 16)
    assert f"8: {STEPWISE} (at 8: {STEPWISE} 0.7 ms, {FUSED} 1.3 ms)" in one_more
    assert is_complete(runs)


@pytest.mark.parametrize("one_by_one", [[], [streamed(9.0, 0.7, mode="next", valid=False)]])
def test_an_unmeasured_cost_of_one_more_element_gives_no_finding(
    one_by_one: list[RunDocument],
) -> None:
    runs = [streamed(4.0, 0.1), *one_by_one, run(FUSED, 1.3)]
    assert math.isinf(points(runs)[0].next_ms)
    assert not any("one more element" in sentence for sentence in findings(points(runs), 16))
    assert is_complete(runs) is not bool(one_by_one)
    assert [row[6] for row in rows(points(runs))] == ["", "1.30"]


def test_only_streams_are_run_one_by_one() -> None:
    made_runs: list[tuple[str, bool, str]] = []

    def record_run(name: str, target: Target, workload: Workload, load: LoadProfile) -> RunDocument:
        made_runs.append((workload.call, workload.one_by_one, name))
        return structs.replace(sample_runs.steady(6, 5.0), name=name)

    ways = (ReadingMode(STEPWISE, "m", "follow"), ReadingMode(FUSED, "m", "classify"))
    Contrast(ways, (1, 8), (), 8, 2, (1, 9)).run(
        record_run, Target("localhost:1", "m"), LoadProfile(ClosedLoop(2), 1.0)
    )
    assert [(kind, name) for kind, one_by_one, name in made_runs if one_by_one] == [
        ("follow", f"{STEPWISE}, 8 elements, one by one")
    ]
    assert len({name for *_, name in made_runs}) == len(made_runs) == 9


def test_writers_write_after_each_context_alone_and_together() -> None:
    made: list[tuple[str, str, Workload]] = []

    def record_run(name: str, target: Target, workload: Workload, load: LoadProfile) -> RunDocument:
        made.append((target.model, name, workload))
        return structs.replace(sample_runs.steady(6, 5.0), name=name)

    writers = writing_modes("lstm, gpt")
    planned = Contrast((), (8,), (), 8, 2, (1, 9), writers=writers, contexts=(10, 100), context_ids=(2, 5))
    document = planned.run(record_run, Target("localhost:1", "m"), LoadProfile(ClosedLoop(2), 1.0))
    assert [name for _, name, _ in made] == [
        f"{model}, {context} elements, {callers} in flight"
        for context in (10, 100)
        for callers in (1, 2)
        for model in ("lstm", "gpt")
    ]
    assert {model for model, *_ in made} == {"lstm", "gpt"}
    assert {(one.call, one.ids, str(one.tokens)) for *_, one in made} == {
        ("generate", (2, 5), str(parse(f"{TOKENS}")))
    }
    assert [way.kind for way in document.ways] == ["generate", "generate"]
    assert writing_modes("") == ()


def wrote(way: str, length: int, gap_ms: float, tokens: float, **more: Any) -> RunDocument:
    base = run(way, 9.0)
    load = structs.replace(base.load, call="generate")
    rates = structs.replace(base.rates, tokens=tokens)
    first, gap = sample_runs.times(1.0), sample_runs.times(gap_ms)
    here = {"load": load, "rates": rates, "length": length, "first_token_ms": first, "per_token_ms": gap}
    return structs.replace(base, **{**here, **more})


def test_the_findings_about_writers_compare_tokens_by_context() -> None:
    runs = [wrote("gpt", 10, 1.0, 0.0), wrote("lstm", 10, 0.5, 0.0), wrote("gpt", 1000, 4.0, 0.0),
            wrote("lstm", 1000, 0.5, 0.0), wrote("gpt", 10, 3.0, 800.0, mode="full"),
            wrote("lstm", 10, 2.0, 2000.0, mode="full")]  # fmt: skip
    token, first, full = findings(points([*runs, run(FUSED, 1.3)]), 16)[-3:]
    assert token == (
        "One caller, fastest next token, by tokens of context: 10 to 1,000: lstm"
        " (at 1,000: gpt 4 ms, lstm 0.5 ms)."
    )
    assert first.startswith(
        "One caller, fastest first token, by tokens of context: 10 to 1,000: gpt and lstm equal"
    )
    assert full == (
        "16 callers, most tokens per second, by tokens of context: 10: lstm (at 10: gpt 800/s, lstm 2,000/s)."
    )
    assert not any("gpt" in one for one in findings(points([*runs, run(FUSED, 1.3)]), 16)[:-3])
    assert [row[4] for row in rows(points(runs))] == ["0", "0", "0", "0", "800", "2,000"]


def test_points_are_medians_of_valid_rounds() -> None:
    runs = [run(FUSED, 1.0), run(FUSED, 3.0), run(FUSED, 50.0, valid=False), run(ONE_SHOT, 9.0, valid=False)]
    [fused] = points(runs)
    assert (fused.way, fused.last_ms) == (FUSED, 2.0)


def test_a_failure_in_one_of_two_rounds_is_reported() -> None:
    lost = run(FUSED, 1.0, outcomes={"ok": 9, "overloaded": 1})
    [fused] = points([run(FUSED, 1.0), lost])
    assert fused.lost == 1


def test_a_rate_is_sustained_only_if_all_lower_rates_are() -> None:
    [sentence] = findings([rated(FUSED, 100, 10.0), rated(FUSED, 200, 80.0), rated(FUSED, 400, 10.0)], 16)
    assert f"{FUSED} 100/s" in sentence

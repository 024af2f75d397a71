"""The HTML page of every kind of document is complete and self-contained."""

from __future__ import annotations

from typing import Any

import pytest
from unit.load import sample_runs

from lockstep_load import report, runner
from lockstep_load.contrast import FUSED, STEPWISE


def named(name: str, latency_ms: float, **more: Any) -> dict[str, Any]:
    return {**sample_runs.steady(6, latency_ms), "name": name, **more}


def experiment_document(kind: str, runs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    head = {key: runs[0][key] for key in ("format", "started_at", "target", "partial")}
    return {**head, "kind": kind, "name": f"the {kind}", "runs": runs, **more}


SWEEP = experiment_document("sweep", [named("10/s", 5.0), named("20/s", 9.0)])
SEARCH = experiment_document(
    "search",
    [named("10/s", 5.0, probe={"rate": 10.0, "holds": True, "confirming": False})],
    search={
        "rate": 10.0, "percentile": 99.0, "bound_ms": 50.0, "confirmations": 2, "within": 0.05, "probes": 3,
        "limit": "the bound",
    },
)  # fmt: skip
SCENARIO = experiment_document("scenario", [named("one", 5.0), SWEEP, SEARCH], about="all kinds")
LONE = {"mode": "lone", "length": 8}
CONTRAST = experiment_document(
    "contrast",
    [named("a", 5.0, way=STEPWISE, **LONE), named("b", 7.0, way=FUSED, **LONE)],
    ways=[
        {"name": STEPWISE, "model": "m", "kind": "follow"},
        {"name": FUSED, "model": "m", "kind": "classify"},
    ],
    finding=["It was so."],
    concurrency=16,
    rate_length=32,
)


@pytest.mark.parametrize(
    ("document", "plots", "text"),
    [
        (named("one", 5.0), 2, "answers/s"),
        (SWEEP, 2 + 2 * 2, "Throughput against latency"),
        (SEARCH, 1, "10.0 requests/s is the highest rate that meets"),
        (SCENARIO, 2 + 6 + 1, "all kinds"),
        (CONTRAST, 4, "It was so."),
    ],
    ids=["run", "sweep", "search", "scenario", "contrast"],
)
def test_every_document_has_a_page_and_a_summary(
    document: dict[str, Any], plots: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = report.page(document)
    assert page.count("<svg") == plots
    assert text in page
    assert "currentColor" in page
    assert "<script" not in page
    runner.show(document)
    assert capsys.readouterr().out


def test_the_page_of_a_run_without_answers_gives_the_reason() -> None:
    nothing = {**sample_runs.run([], 2.0), "name": "nothing"}
    page = report.page(nothing)
    assert "no request in the measured part was answered" in page
    assert runner.exit_code(nothing) == 1


def test_server_messages_are_escaped() -> None:
    run = {**named("one", 5.0), "examples": {"failed": "<b>boom</b>"}}
    assert "<b>boom</b>" not in report.page(run)


def test_exit_codes_depend_on_validity_and_interruption() -> None:
    run = named("one", 5.0)
    assert runner.exit_code(run) == 0
    assert runner.exit_code({**run, "valid": False}) == 3
    assert runner.exit_code({**run, "partial": True}) == 130
    assert (
        runner.exit_code(experiment_document("search", [{**run, "valid": False}])) == 0
    )  # a search goes to the limit

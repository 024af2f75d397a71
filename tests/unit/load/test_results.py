"""The JSON documents: their keys, and the errors of files that are not documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from unit.load import sample_runs
from unit.load.test_report import CONTRAST, SCENARIO, SEARCH, SWEEP

from lockstep_load import documents
from lockstep_load.results import Drift, MetricComparison, ModeMetrics, ScenarioResult, ServerMetrics

if TYPE_CHECKING:
    from pathlib import Path

    from lockstep_load.results import Document

HEAD = {"format", "kind", "started_at", "target", "partial"}
RUN = {
    *HEAD, "load", "valid", "reasons", "notes", "measured_s", "outcomes", "examples", "requests", "rates",
    "latency_ms", "first_token_ms", "per_token_ms", "gap_ms", "by_length", "generator", "histogram",
    "seconds", "machine",
}  # fmt: skip
SUMMARY = {"count", "min", "mean", "p50", "p90", "p99", "p99.9", "max"}
LOAD = {
    "call", "lengths", "ids", "rows", "one_by_one", "max_tokens", "seconds", "warmup_s", "timeout_s", "seed",
    "processes",
}  # fmt: skip
DRIFT = Drift(
    seconds=2, metrics=[MetricComparison("p50", "ms", 1.0, 2.0, 2.0, 1.5, 2.5, "worse")], in_flight=(3, 4)
)
STEADY = sample_runs.steady(6, 20.0)
MEASURED = ServerMetrics(
    faces={"oneshot": ModeMetrics(runs=2.0, rows_per_run=4.0)},
    queue_ms=1.0,
    compute_ms=None,
    padding=0.2,
    refused=0.0,
    seconds=[],
)
SOAK = structs.replace(
    STEADY,
    name="soak",
    drift=DRIFT,
    result=ScenarioResult(scenario="soak", what="p99", value=1.0, unit="ms"),
    server_metrics=MEASURED,
)


def keys(document: Any) -> set[str]:
    return set(documents.to_json(document))


def test_a_run_has_the_keys_of_the_format() -> None:
    made = documents.to_json(STEADY)
    assert set(made) == RUN
    assert (made["kind"], made["format"]) == ("run", "lockstep-load/1")
    assert set(made["latency_ms"]) == set(made["generator"]["lag_ms"]) == SUMMARY
    assert {"from", "to", *SUMMARY} == set(made["by_length"][0])
    assert set(made["load"]) == {"loop", "arrivals", "rate", *LOAD}
    assert set(made["target"]) == {"address", "model", "version"}
    assert set(made["requests"]) == {"sent", "unsent", "warmup"}
    assert set(made["rates"]) == {"sent", "ended", "ok", "elements", "tokens"}
    assert set(made["machine"]) == {"cpus", "system", "python"}
    assert set(made["generator"]) == {
        "processes", "lag_ms", "max_lag_ms", "cpu_share_of_a_core", "parent_cpu_share_of_a_core",
        "cpu_share_of_the_machine",
    }  # fmt: skip
    assert set(made["seconds"][0]) == {
        "second", "sent", "ended", "elements", "tokens", "in_flight", "p50_ms", "p99_ms", "histogram",
    }  # fmt: skip


def test_experiments_add_their_keys() -> None:
    assert keys(SWEEP) == {*HEAD, "name", "runs"}
    assert keys(SEARCH) == {*HEAD, "name", "search", "runs"}
    assert keys(SEARCH.runs[0]) == {*RUN, "name", "probe"}
    assert keys(SEARCH.search) == {
        "rate", "percentile", "bound_ms", "confirmed", "confirmations", "within", "probes", "limit",
    }  # fmt: skip
    assert keys(SCENARIO) == {*HEAD, "name", "about", "runs"}
    assert keys(CONTRAST) == {*HEAD, "ways", "concurrency", "rate_length", "rounds", "finding", "runs"}
    assert keys(CONTRAST.runs[0]) == {*RUN, "name", "way", "mode", "length"}
    assert keys(SOAK) == {*RUN, "name", "result", "drift", "server_metrics"}
    assert keys(structs.replace(SOAK, drift=None)) == keys(SOAK)  # a soak that is too short: null
    assert keys(MEASURED) == {"faces", "queue_ms", "compute_ms", "padding", "refused", "seconds"}
    assert keys(ServerMetrics(note="no metrics")) == {"note"}


@pytest.mark.parametrize("document", [STEADY, SOAK, SWEEP, SEARCH, SCENARIO, CONTRAST])
def test_a_document_survives_a_file(document: Document, tmp_path: Path) -> None:
    documents.write(tmp_path / "a.json", document)
    assert documents.read(tmp_path / "a.json") == document


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda made: made.pop("seconds"), "missing required field `seconds`"),
        (lambda made: made["latency_ms"].update(p50="fast"), r"got `str` - at `\$\.latency_ms\.p50`"),
        (lambda made: made["seconds"][2].pop("sent"), r"`sent` - at `\$\.seconds\[2\]`"),
        (lambda made: made.update(kind="walk"), "Invalid value 'walk' - at `\\$.kind`"),
        (lambda made: made.update(format="other/1"), "expected format lockstep-load/1"),
    ],
)
def test_a_damaged_file_is_named_with_its_key(damage: Any, message: str, tmp_path: Path) -> None:
    made = documents.to_json(STEADY)
    damage(made)
    (file := tmp_path / "damaged.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=message) as error:
        documents.read(file)
    assert str(error.value).startswith(str(file))

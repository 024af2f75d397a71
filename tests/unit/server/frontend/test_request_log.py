"""The request log: which requests are logged, with which fields, and never with request texts."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, ServingError, bad_input, overloaded
from lockstep_server.frontend.audit import Audit
from lockstep_server.frontend.callers import Caller
from lockstep_server.frontend.registry import ModelRegistry
from lockstep_server.frontend.request_log import RequestLog
from lockstep_server.frontend.tracing import RequestSummary, Trace
from lockstep_server.metrics.families import Metrics
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = ModelSpec("lm.step", 3, Manifest(), (), (), model="lm")
TIMINGS = messages.RequestTimings(0.25, 0.5, 3, 8.0)
SECRET = "private text"


class RecordingHandler(logging.Handler):
    """Keeps log records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    handler, log = RecordingHandler(), logging.getLogger("lockstep_server.frontend.request_log")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler.records
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def ended(error: ServingError | None = None, outcome: str = "") -> RequestSummary:
    event = messages.Event(key=1, error=error, timings=TIMINGS, length=12)
    outcome = outcome or (error.code.value if error else "ok")
    return RequestSummary(SPEC, "Classify", "texts[0]", SECRET, False, 0.0, 1.0, outcome, event)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    return found


def test_a_successful_request_is_logged_at_debug(lines: list[logging.LogRecord]) -> None:
    RequestLog().ended(ended(), Trace("ab" * 16))
    (line,) = lines
    assert line.levelno == logging.DEBUG
    assert fields(line) == {
        "model": "lm", "version": "3", "method": "Classify", "outcome": "ok", "seconds": 1.0,
        "queue_seconds": 0.25, "compute_seconds": 0.5, "runs": 3, "rows": 8.0, "length": 12,
        "trace_id": "ab" * 16, "request_id": "0000000000000001",
    }  # fmt: skip


@pytest.mark.parametrize(("outcome", "level"), [("cancelled", logging.DEBUG), ("deadline", logging.INFO)])
def test_failures_are_logged_at_info_and_cancellations_at_debug(
    lines: list[logging.LogRecord], outcome: str, level: int
) -> None:
    error = None if outcome == "cancelled" else ServingError(ErrorCode(outcome), "too late")
    RequestLog().ended(ended(error, outcome), None)
    assert [line.levelno for line in lines] == [level]


def test_a_refusal_is_logged_with_its_reason(lines: list[logging.LogRecord]) -> None:
    RequestLog().refused("lm", "3", "Generate", overloaded("the queue is full", 0.1))
    assert fields(lines[0]) == {
        "model": "lm", "version": "3", "method": "Generate", "code": "overloaded",
        "why": "the queue is full",
    }  # fmt: skip


def test_request_texts_are_not_logged(lines: list[logging.LogRecord]) -> None:
    request_log = RequestLog()
    request_log.ended(ended(), None)
    request_log.ended(ended(bad_input("texts[0]", f"{SECRET!r} is not valid")), None)
    request_log.refused("lm", "3", "Classify", bad_input("texts[0]", f"{SECRET!r} is not valid"))
    assert len(lines) == 3
    assert fields(lines[2])["field"] == "texts[0]"
    assert all(SECRET not in str(fields(line)) + line.getMessage() for line in lines)


def test_unknown_model_names_are_not_logged(lines: list[logging.LogRecord]) -> None:
    async def changed(_: ModelRegistry) -> None: ...

    registry = ModelRegistry(Metrics(), changed, RequestLog())
    asyncio.run(registry.mark_listed())
    with pytest.raises(ServingError):
        registry.resolve(SECRET, SECRET, "Classify")
    assert fields(lines[0])["code"] == "not_found"
    assert SECRET not in str(fields(lines[0])) + lines[0].getMessage()


def test_texts_are_logged_if_enabled_and_are_truncated(lines: list[logging.LogRecord]) -> None:
    request_log = RequestLog(texts=True)
    request_log.ended(ended()._replace(text="x" * 5000), None)
    request_log.refused("lm", "3", "Classify", bad_input("texts[0]", f"{SECRET!r} is not valid"))
    assert fields(lines[0])["text"] == "x" * 400
    assert SECRET in fields(lines[1])["why"]


def test_at_debug_level_no_line_is_dropped(lines: list[logging.LogRecord]) -> None:
    request_log = RequestLog(clock=lambda: 0.0)
    for _ in range(1000):
        request_log.ended(ended(ServingError(ErrorCode.FAILED, "broken")), None)
    assert len(lines) == 1000


def test_an_overload_does_not_flood_the_log(lines: list[logging.LogRecord]) -> None:
    logging.getLogger("lockstep_server.frontend.request_log").setLevel(logging.INFO)
    now = 0.0
    request_log = RequestLog(clock=lambda: now)
    for _ in range(1000):
        request_log.refused("lm", "3", "Classify", overloaded("full", 0.1))
    written = len(lines)
    assert written <= 60
    now = 10.0
    request_log.refused("lm", "3", "Classify", overloaded("full", 0.1))
    assert fields(lines[-1])["unlogged"] == 1000 - written
    request_log.refused("lm", "3", "Classify", overloaded("full", 0.1))
    assert "unlogged" not in fields(lines[-1])


def test_outcomes_below_the_log_level_are_disabled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lockstep_server.frontend.request_log")
    assert not RequestLog().is_enabled_for("ok")
    assert RequestLog().is_enabled_for("failed")


def test_a_flood_of_refused_callers_writes_ten_lines_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    metrics = Metrics()
    audit = Audit(metrics, lambda: now)

    def lines() -> list[dict[str, Any]]:
        written = [vars(record)["fields"] for record in caplog.records]
        caplog.clear()
        return written

    for _ in range(1000):
        audit.refused(Caller("a"), "/m", "unknown")
    assert lines() == [{"caller": "a", "method": "/m", "reason": "unknown"}] * 50
    now = 1.0
    for _ in range(1000):
        audit.refused(Caller("a"), "/m", "unknown")
    first, *others = lines()
    assert first["unlogged"] == 950
    assert len(others) == 9
    value = metrics.registry.get_sample_value("lockstep_auth_refused_total", {"reason": "unknown"})
    assert value == 2000

"""The load generator against servers with known delays, stalls, capacity and outages."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec import structs
from patience import limit_s
from unit.load.fake_server import MODEL, FakeServer, fake_server

from lockstep_load import preflight, report
from lockstep_load.experiments import Experiment
from lockstep_load.lengths import parse
from lockstep_load.plan import ClosedLoop, LoadProfile, Offline, OpenLoop, Target, Workload
from lockstep_load.preflight import TensorOverrides
from lockstep_load.search import LatencyBound, SearchPlan
from lockstep_load.session import LoadSession

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.harness import Served

    from lockstep_load.plan import LoadPattern
    from lockstep_load.results import RunDocument

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def session() -> Iterator[LoadSession]:
    """Worker processes shared by all tests, since starting them takes longer than most runs."""
    with LoadSession(2, [], max_lag_ms=10_000) as session:
        yield session


def drive(
    session: LoadSession,
    server: FakeServer,
    pattern: LoadPattern,
    seconds: float,
    lengths: str = "10",
    **how: Any,
) -> RunDocument:
    drawn = parse(lengths)
    assert drawn is not None
    target = Target(server.address, MODEL, timeout_s=how.pop("timeout_s", 10.0))
    workload = preflight.prepare(target, Workload("infer", drawn, (5, 9)), None, TensorOverrides())
    return session.run(target, workload, LoadProfile(pattern, seconds, **{"warmup_s": 0.2, **how}))


def test_any_open_inference_server_receives_tensors_of_the_requested_lengths(session: LoadSession) -> None:
    with fake_server() as server:
        made = drive(session, server, OpenLoop(100.0, "constant"), 1.0, "uniform:3,6", processes=2)
        sent = server.servicer.requests[1:]  # without the preflight request
    assert made.outcomes == {"ok": 100}
    assert made.load.call == "infer"
    shapes: dict[str, set[tuple[int, ...]]] = {one.name: set() for one in sent[0].inputs}
    for request in sent:
        for one, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            shapes[one.name].add(tuple(one.shape))
            if one.name == "input_ids":
                assert set(np.frombuffer(raw, np.int64)) <= {5, 6, 7, 8}
            if one.name == "attention_mask":
                assert set(np.frombuffer(raw, np.int64)) == {1}
    assert shapes["input_ids"] == {(1, n) for n in (3, 4, 5, 6)}
    assert shapes["weights"] == {(1, 4)}


def test_a_known_delay_is_measured(session: LoadSession) -> None:
    with fake_server(service_s=0.1) as server:
        made = drive(session, server, OpenLoop(50.0), 2.0)
    assert made.latency_ms.min >= 100
    assert 100 <= made.latency_ms.p50 < limit_s(300)
    assert made.requests.unsent == 0


def test_an_open_loop_measures_a_stall_as_independent_callers_see_it(session: LoadSession) -> None:
    """Requests due in 1 of 3 s wait for the end of the stall: a third of all, for 1 s at most."""
    with fake_server() as server:
        stall = server.on_request(1 + 40 + 200, lambda: server.stall(1.0))  # after a second
        made = drive(session, server, OpenLoop(200.0, "constant"), 3.0)
        stall.join()
    latency = made.latency_ms
    assert made.outcomes == {"ok": 600}
    assert latency.p50 < limit_s(500)
    assert latency.p90 > 500  # the slowest tenth
    assert 850 < latency.p99 < limit_s(3000)
    assert max(one.p99_ms or 0 for one in made.seconds) > 850


def test_in_a_closed_loop_few_requests_meet_a_stall_and_the_report_notes_it(session: LoadSession) -> None:
    with fake_server(service_s=0.02) as server:
        stall = server.on_request(1 + 100, lambda: server.stall(1.0))
        made = drive(session, server, ClosedLoop(4), 2.5)
        stall.join()
    assert made.latency_ms.max > 800
    assert made.latency_ms.p90 < limit_s(500)  # hides the stall
    assert any("closed loop" in note for note in made.notes)


def test_rejections_are_counted_as_overloaded(session: LoadSession) -> None:
    with fake_server() as server:
        server.servicer.reject_every = 4
        made = drive(session, server, OpenLoop(100.0, "constant"), 1.0, warmup_s=0)
    assert made.outcomes["overloaded"] == 25
    assert made.ok == 75
    assert made.examples == {"overloaded": "the queue is full"}


def test_timeouts_are_counted_and_every_request_has_an_outcome(session: LoadSession) -> None:
    with fake_server() as server:
        server.on_request(1 + 20 + 30, lambda: server.stall(30.0))
        made = drive(session, server, OpenLoop(100.0, "constant"), 1.0, timeout_s=0.3)
        server.servicer.stalled_until = 0.0
    assert made.ok + made.outcomes["deadline"] == 100


def test_the_load_continues_after_a_server_restart(session: LoadSession) -> None:
    with fake_server() as server:
        before: list[int] = []

        def restart() -> None:
            server.stop()
            time.sleep(1.0)  # the outage
            before.append(len(server.servicer.requests))
            server.start()

        restarted = server.on_request(1 + 10 + 50, restart)  # after a second
        made = drive(session, server, OpenLoop(50.0, "constant"), 5.0)
        restarted.join()
    assert made.outcomes["unavailable"] > 5
    assert sum(made.outcomes.values()) == 250
    assert len(server.servicer.requests) > before[0]
    assert made.ok > 0


def test_offline_answers_every_sample_once(session: LoadSession) -> None:
    with fake_server(service_s=0.01) as server:
        made = drive(session, server, Offline(300, 20), 60.0, warmup_s=0, processes=2)
        assert len(server.servicer.requests) == 301
    assert made.outcomes == {"ok": 300}
    assert made.valid
    assert made.rates.ok == pytest.approx(300 / made.measured_s, rel=0.02)


def test_the_search_finds_a_known_capacity(session: LoadSession) -> None:
    """Two concurrent requests of 20 ms each are a capacity of 100 requests per second. Higher rates miss the
    latency, and lower ones meet it. A slow machine does all of it more slowly."""
    service_s = limit_s(0.02)
    capacity = 2 / service_s
    with fake_server(service_s=service_s, concurrency=2) as server:
        drawn = parse("10")
        assert drawn is not None
        target = Target(server.address, MODEL, timeout_s=limit_s(2.0))
        workload = preflight.prepare(target, Workload("infer", drawn), None, TensorOverrides())
        experiment = Experiment(
            lambda name, *what: structs.replace(session.run(*what), name=name), target, workload
        )
        load = LoadProfile(OpenLoop(1.0), limit_s(1.0), warmup_s=limit_s(0.1))
        plan = SearchPlan(LatencyBound(limit_s(200.0), 80.0), 0.6 * capacity, 0.3, 1)
        made = experiment.search(load, plan)
    probes = [one.probe for one in made.runs]
    assert max(one.rate for one in probes if one.holds) < 1.25 * capacity
    assert min(one.rate for one in probes if not one.holds) < 4 * capacity


def test_a_rate_above_the_generators_capacity_is_invalid_and_unsent_requests_are_counted(
    session: LoadSession,
) -> None:
    with fake_server() as server:
        made = drive(session, server, OpenLoop(200_000.0), 0.3, warmup_s=0, max_in_flight=100, timeout_s=5.0)
    assert not made.valid
    assert made.requests.unsent > 10_000
    assert made.requests.sent == sum(made.outcomes.values())


def test_a_worker_that_dies_is_reported_and_the_others_continue() -> None:
    before = multiprocessing.active_children()
    with fake_server() as server, LoadSession(2, [], max_lag_ms=10_000) as session:
        worker, _ = (one for one in multiprocessing.active_children() if one not in before)
        death = server.on_request(1 + 20 + 80, worker.kill)
        made = drive(session, server, OpenLoop(100.0, "constant"), 2.0, processes=2)
        death.join()
    assert not made.valid
    assert "a worker process failed" in made.reasons[0]
    assert made.ok >= 100


def test_every_kind_of_call_can_be_measured(session: LoadSession, shipped: Served) -> None:
    """A short closed loop for each kind: all requests are answered, and tokens of streams are timed."""
    kinds = {
        "classify": "sentiment-lstm", "encode": "sentiment-transformer", "follow": "sentiment-lstm",
        "generate": "shakespeare-char-lstm", "translate": "translate-en-fr",
        "infer": "sentiment-bilstm", "steps": "sentiment-lstm.step",
    }  # fmt: skip
    for kind, model in kinds.items():
        drawn, tokens = parse("uniform:3,8"), parse("12")
        assert drawn is not None
        target = Target(shipped.address, model)
        arguments = Workload("infer", drawn, (1, 60), tokens=tokens)
        workload = preflight.prepare(target, arguments, kind, TensorOverrides())  # type: ignore[arg-type]
        made = session.run(target, workload, LoadProfile(ClosedLoop(2), 0.4, warmup_s=0))
        assert set(made.outcomes) == {"ok"}, (kind, made.examples)
        assert made.ok > 0
        streamed = kind in ("generate", "translate", "follow", "steps")
        assert (made.first_token_ms is not None) == streamed, kind
        assert (made.rates.tokens > 0) == streamed, kind


def test_one_by_one_every_element_is_answered(session: LoadSession, shipped: Served) -> None:
    drawn = parse("6")
    assert drawn is not None
    workload = Workload("follow", drawn, (1, 60), one_by_one=True)
    target = Target(shipped.address, "sentiment-lstm")
    made = session.run(target, workload, LoadProfile(ClosedLoop(1), 0.4, warmup_s=0))
    assert set(made.outcomes) == {"ok"}, made.examples
    assert made.gap_ms.count == 5 * made.ok
    assert made.per_token_ms.p50 < made.latency_ms.p50
    refused = session.run(
        Target(shipped.address, "nosuch"), workload, LoadProfile(ClosedLoop(1), 0.4, warmup_s=0)
    )
    assert set(refused.outcomes) == {"ok", "not_found"}
    assert refused.ok == 0


def test_preflight_finds_the_call_that_a_model_supports(shipped: Served) -> None:
    drawn = parse("5")
    assert drawn is not None
    expected = {
        "sentiment-lstm": "classify", "translate-en-fr": "translate", "shakespeare-char-lstm": "generate",
        "sentiment-lstm.step": "steps",
    }  # fmt: skip
    for model, kind in expected.items():
        target = Target(shipped.address, model)
        assert preflight.prepare(target, Workload("infer", drawn), None, TensorOverrides()).call == kind


def chromium(page: Path, folder: Path, *what: str) -> str:
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        " --disable-component-update --disable-sync --window-size=1200,1400"
    )
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={folder / 'profile'}", *what, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(110), check=True)
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_report_renders_in_a_browser_with_its_plots(session: LoadSession, tmp_path: Path) -> None:
    from matplotlib.image import imread

    with fake_server() as server:
        made = drive(session, server, OpenLoop(200.0), 2.0, "uniform:3,60")
    page = tmp_path / "report.html"
    report.write(page, made)
    assert "http://" not in page.read_text().replace("http://www.w3.org/", "")  # nothing is fetched
    dom = chromium(page, tmp_path, "--dump-dom", f"--screenshot={tmp_path / 'page.png'}")
    if not dom:
        dom = chromium(page, tmp_path, "--dump-dom")
    for title in ("Latency by percentile", "Latency over time", "Answers over time", "Latency by length"):
        assert title in dom
    assert dom.count("<svg") == 4
    if not (tmp_path / "page.png").exists():
        chromium(page, tmp_path, f"--screenshot={tmp_path / 'page.png'}")
    pixels = imread(tmp_path / "page.png")[:, :, :3]
    line = np.array([0x1F, 0x9E, 0x89]) / 255  # the colour of the first line
    assert (np.abs(pixels - line).max(axis=2) < 0.05).sum() > 200

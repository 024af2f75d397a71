"""The comparison with other servers: its arithmetic and page, its loads, and the 60 lines."""

from __future__ import annotations

import http.server
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import patience
import pytest

from bench.graphs import SHIPPED
from bench.peers import answers, catalogue, environments, load, server, table
from bench.peers.catalogue import LOCKSTEP, REFERENCE, Peer
from bench.peers.http_calls import read_status
from bench.peers.perf_analyzer import read_report
from bench.peers.served import onnx_model
from bench.peers.table import OWN_LOAD, Bar, Cell, Ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "sentiment-bilstm"
AT_64, ALONE = Cell(False, OWN_LOAD, MODEL, 64), Cell(False, OWN_LOAD, MODEL, 1)


def rounds(*measured: tuple[float, float, float]) -> list[dict[str, float]]:
    """Rounds of these rates, medians and 99th percentiles."""
    return [
        {"rate": rate, "p50_ms": p50, "p99_ms": p99, "failed": 0, "calls": 9, "server_us": 1, "load_us": 2}
        for rate, p50, p99 in measured
    ]


MEASURED = {
    AT_64: {
        LOCKSTEP: rounds((130, 10, 90), (150, 10, 110), (140, 10, 100)),
        REFERENCE: rounds((100, 10, 100), (100, 10, 100), (100, 10, 100)),
        "mosec": rounds((140, 9, 80), (150, 9, 80), (160, 9, 80)),
    },
    ALONE: {LOCKSTEP: rounds((1, 6, 9)), REFERENCE: rounds((1, 4, 9))},
}


def bar(cell: Cell, title: str) -> Bar:
    (found,) = [one for one in table.bars(MEASURED) if one.cell == cell and one.title.startswith(title)]
    return found


def test_ratio_is_of_medians_with_the_spread_of_rounds() -> None:
    found = table.ratio(MEASURED[AT_64][LOCKSTEP], MEASURED[AT_64]["mosec"], "rate")
    assert found == Ratio(140 / 150, 140 / 160, 1.0)
    assert str(found) == "0.93 (0.88 to 1.00)"


def test_ratio_wants_as_many_rounds_of_both() -> None:
    with pytest.raises(ValueError, match="zip"):
        table.ratio(rounds((1, 1, 1)), rounds((1, 1, 1), (1, 1, 1)), "rate")


@pytest.mark.parametrize(
    ("cell", "title", "against", "holds"),
    [
        (AT_64, "rate, to the best peer's", "mosec", False),
        (AT_64, "p99, to the least peer's", "mosec", False),
        (AT_64, "rate, to the 60 lines'", REFERENCE, True),
        (AT_64, "p99, to the 60 lines'", REFERENCE, True),
        (ALONE, "median, to the 60 lines'", REFERENCE, False),
    ],
)
def test_each_bar_is_compared_with_whom_it_names(cell: Cell, title: str, against: str, holds: bool) -> None:
    found = bar(cell, title)
    assert (found.against, found.holds) == (against, holds)


def test_a_lone_caller_has_no_bar_for_its_rate() -> None:
    assert [one.title for one in table.bars(MEASURED) if one.cell == ALONE] == ["median, to the 60 lines'"]


def document() -> dict[str, Any]:
    return {
        "run": {"processor": "2 cores of a test", "rounds": 3},
        "servers": {
            name: {"settings": "none", "versions": {"numpy": "2.0"}, "memory_mb": 1234.5}
            for name in (LOCKSTEP, REFERENCE, "mosec")
        },
        "missing": {"Triton": "no Python 3.11"},
        "measured": [
            {
                "busy": cell.busy,
                "load": cell.load,
                "model": cell.model,
                "inflight": cell.inflight,
                "server": name,
                "rounds": found,
            }
            for cell, servers in MEASURED.items()
            for name, found in servers.items()
        ],
    }


def test_the_page_says_what_was_measured_held_missed_and_left_out() -> None:
    assert table.cells(document()) == MEASURED
    page = table.markdown(document())
    assert "2 of 5 hold" in page
    assert "- Triton could not be measured: no Python 3.11" in page
    assert "| Lockstep | none | numpy 2.0 | 1,234 |" in page
    assert "| 64 | mosec | **150** | 140 to 160 | **9.0** | **80.0** | 80.0 to 80.0 | 1 | 2 |" in page
    assert "1.40 (1.30 to 1.50) | ≥ 1.3 | held |" in page
    assert "1.50 (1.50 to 1.50) | ≤ 1.2 | **missed** |" in page


def test_calls_that_failed_are_named() -> None:
    made = document()
    made["measured"][0]["rounds"][0]["failed"] = 7
    assert "Lockstep (7 calls failed)" in table.markdown(made)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("data", "status"),
    [(ANSWER, 200), (ANSWER[:-1], None), (ANSWER[:20], None), (ANSWER.replace(b"200", b"503"), 503)],
)
def test_status_of_an_http_answer(data: bytes, status: int | None) -> None:
    assert read_status(data) == status


def test_http_answer_without_a_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        read_status(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")


def test_report_of_perf_analyzer() -> None:
    head = "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency"
    assert read_report(f"{head}\n64,521.3,3,101169,176054,275502,396497\n") == {
        "rate": 521.3, "p50_ms": 101.169, "p99_ms": 396.497,
    }  # fmt: skip


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path) -> None:
    peer = Peer("none", "json", "", packages=("numpy",), python=str(tmp_path / "python"))
    with pytest.raises(environments.NotInstalledError, match=f"there is no {tmp_path}/python"):
        environments.python_of(peer, tmp_path)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        codec: Any = msgspec.msgpack if "msgpack" in self.headers["Content-Type"] else msgspec.json
        asked = codec.decode(self.rfile.read(int(self.headers["Content-Length"])))
        answer = codec.encode({"output": asked["tokens"][:2]})
        self.send_response(200 if self.path == f"/{MODEL}" else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def measured(spec: dict[str, Any]) -> dict[str, float]:
    """What a load reports, once it was long enough for this machine."""
    found: dict[str, float] = {}

    def has_calls() -> bool:
        found.update(load.run(spec))
        return found["calls"] > 0

    patience.wait_until(has_calls, "a call that begins and ends")
    return found


def spec(address: str, kind: str, model: str = MODEL) -> dict[str, Any]:
    return {
        "address": address, "kind": kind, "models": [model], "inflight": 4, "seconds": 0.1, "lead_s": 0.0,
        "pids": [os.getpid()],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_load_over_http(http_address: str, kind: str) -> None:
    found = measured(spec(http_address, kind))
    assert found["failed"] == 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_answers_over_http(http_address: str, kind: str) -> None:
    running = server.Running(Peer("echo", kind, ""), http_address, os.getpid())
    assert answers.ask(running, MODEL, np.array([7, 8, 9])).tolist() == [7, 8]


def test_load_counts_calls_that_fail(http_address: str) -> None:
    found = measured(spec(http_address, "json", "unknown"))
    assert found["failed"] >= found["calls"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("peers") / "models"
    shutil.copytree(SHIPPED / MODEL, root / MODEL)
    return root


@pytest.fixture(scope="module")
def sixty_lines(repository: Path) -> Iterator[server.Running]:
    peer = catalogue.BY_NAME[REFERENCE]
    with server.running(peer, Path(sys.executable), repository, [MODEL]) as running:
        yield running


def test_the_60_lines_answer_as_the_model_does(sixty_lines: server.Running, repository: Path) -> None:
    answers.check(sixty_lines, repository, [MODEL])


def test_a_wrong_answer_is_found(
    sixty_lines: server.Running, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = answers.ask
    monkeypatch.setattr(answers, "ask", lambda *asked: right(*asked) + (len(asked[2]) == 50))
    with pytest.raises(answers.WrongAnswerError, match=f"{MODEL}, 50 ids: the answer begins with"):
        answers.check(sixty_lines, repository, [MODEL])


def test_the_60_lines_under_load_and_what_they_use(sixty_lines: server.Running) -> None:
    found = measured({**spec(sixty_lines.address, "open-inference"), "pids": sixty_lines.pids()})
    assert found["failed"] == 0
    assert sixty_lines.memory_mb() > 20


def test_peers_pad_without_changing_answers(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "MODELS", repository)
    assert onnx_model.names() == [MODEL]
    model = onnx_model.OnnxModel(MODEL, repository)
    sequences = [[5], [7, 8, 9], list(range(1, 20))]
    alone = [model.run([one])[0] for one in sequences]
    np.testing.assert_allclose(model.run(sequences), alone, rtol=1e-4, atol=1e-6)


def test_a_server_that_exits_is_said_with_its_last_words(repository: Path) -> None:
    peer = Peer("broken", "json", "", script="with_mosec.py", polls=True)  # mosec is not in this environment
    with (
        pytest.raises(
            server.ProcessError, match=r"(?s)the broken exited with code 1.*No module named 'mosec'"
        ),
        server.running(peer, Path(sys.executable), repository, [MODEL]),
    ):
        pass

"""Server metrics of a run, read from /metrics."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from lockstep_client.metrics_text import Scrape, samples
from lockstep_load.plan import Target
from lockstep_load.results import ModeMetrics, ServerMetrics
from lockstep_load.server_metrics import Scraper, difference, restarted

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = """# HELP lockstep_batch_rows Rows.
# TYPE lockstep_batch_rows histogram
lockstep_batch_rows_bucket{{mode="oneshot",le="1.0",model="m"}} 1.0
lockstep_batch_rows_count{{mode="oneshot",model="m"}} {runs}
lockstep_batch_rows_sum{{mode="oneshot",model="m"}} {rows}
lockstep_batch_rows_count{{mode="oneshot",model="other"}} 77
lockstep_queue_seconds_count{{mode="oneshot",model="m"}} {rows}
lockstep_queue_seconds_sum{{mode="oneshot",model="m"}} 0.5
lockstep_elements_total{{model="m"}} {rows}
lockstep_padded_elements_total{{model="m"}} {padded}
odd{{label="a \\"quoted\\" \\\\ one"}} 3
broken line
"""


def scrape(runs: float, rows: float, padded: float) -> Scrape:
    return Scrape(samples(TEXT.format(runs=runs, rows=rows, padded=padded)))


def test_a_run_gets_the_difference_of_the_counters() -> None:
    added = difference(scrape(10, 20, 30), scrape(20, 60, 80), "m")
    assert added.faces == {"oneshot": ModeMetrics(runs=10, rows_per_run=4.0)}
    assert added.padding == 0.2  # 40 real elements of 50
    assert added.queue_ms == 0.0


def test_a_step_model_uses_the_metrics_of_its_base_name() -> None:
    assert difference(scrape(10, 20, 30), scrape(20, 60, 80), "m.step").faces


def test_a_server_without_lockstep_metrics_gives_an_empty_result() -> None:
    assert difference(Scrape({}), Scrape(samples("up 1\n")), "m") == ServerMetrics()


def test_a_port_with_another_protocol_has_no_metrics() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def settle() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n")

        answering = threading.Thread(target=settle)
        answering.start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        scraper = Scraper(address, Target("localhost:1", "m"))
        assert scraper.result() == ServerMetrics(note=f"no metrics at http://{address}/metrics")
        answering.join()


class MetricsServer:
    """Answers /metrics with one text after another, then repeats the last one."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                text = (self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]).encode()
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(text)))
                handler.end_headers()
                handler.wfile.write(text)

            def log_message(handler, *_: Any) -> None: ...  # noqa: N805

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def metrics_server(*texts: str) -> Iterator[str]:
    one = MetricsServer(*texts)
    try:
        yield one.address
    finally:
        one.close()


def text(runs: float, rows: float, started: float = 7.0) -> str:
    return TEXT.format(runs=runs, rows=rows, padded=rows) + f"process_start_time_seconds {started}\n"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (text(1500, 9000), False),
        (text(1000, 8000), False),
        (text(1500, 9000, started=9.0), True),
        (text(1500, 7999), True),  # a server without a start time
        ("", True),
    ],
    ids=["counted", "idle", "new start time", "counter decreased", "no metrics"],
)
def test_a_restart_is_detected(after: str, expected: bool) -> None:
    assert restarted(Scrape(samples(text(1000, 8000))), Scrape(samples(after)), "m") is expected


def test_counters_of_another_model_do_not_indicate_a_restart() -> None:
    other = Scrape(samples(text(1000, 8000).replace('model="m"', 'model="gone"')))
    assert not restarted(other, Scrape(samples(text(10, 10))), "m")


def test_a_restarted_server_gives_a_note_instead_of_numbers() -> None:
    with (
        metrics_server(text(1000, 8000), text(1500, 3000, started=9.0)) as address,
        Scraper(address, Target("localhost:1", "m")) as scraper,
    ):
        assert "restarted" in scraper.result().note


class WarmingUp:
    """Counts of a run whose measured part begins when its time is read for the third time."""

    def __init__(self) -> None:
        self.left = [-0.5, -0.1, 0.0]

    @property
    def now_s(self) -> float:
        return self.left.pop(0)


def test_the_warm_up_is_excluded() -> None:
    with metrics_server(text(10, 10), text(60, 110), text(80, 190)) as address:
        scraper, counts = Scraper(address, Target("localhost:1", "m")), WarmingUp()
        scraper.observe(counts)  # type: ignore[arg-type]
        scraper._wait_for_warmup()
        assert not counts.left
        assert scraper.result().faces == {"oneshot": ModeMetrics(runs=20, rows_per_run=4.0)}

"""The server's own count, from its /metrics."""

from __future__ import annotations

import socket
import threading

from lockstep_client.load.metrics import Scrape, Scraper, between, samples

TEXT = """# HELP lockstep_batch_rows Rows.
# TYPE lockstep_batch_rows histogram
lockstep_batch_rows_bucket{{face="oneshot",le="1.0",model="m"}} 1.0
lockstep_batch_rows_count{{face="oneshot",model="m"}} {runs}
lockstep_batch_rows_sum{{face="oneshot",model="m"}} {rows}
lockstep_batch_rows_count{{face="oneshot",model="other"}} 77
lockstep_queue_seconds_count{{face="oneshot",model="m"}} {rows}
lockstep_queue_seconds_sum{{face="oneshot",model="m"}} 0.5
lockstep_elements_total{{model="m"}} {rows}
lockstep_padded_elements_total{{model="m"}} {paid}
odd{{label="a \\"quoted\\" \\\\ one"}} 3
broken line
"""


def scrape(runs: float, rows: float, paid: float) -> Scrape:
    return Scrape(samples(TEXT.format(runs=runs, rows=rows, paid=paid)))


def test_a_run_is_what_it_added() -> None:
    added = between(scrape(10, 20, 30), scrape(20, 60, 80), "m")
    assert added["faces"] == {"oneshot": {"runs": 10, "rows_per_run": 4.0}}
    assert added["padding"] == 0.2  # 40 real elements of 50
    assert added["queue_ms"] == 0.0


def test_a_step_model_has_the_metrics_of_its_name() -> None:
    assert between(scrape(10, 20, 30), scrape(20, 60, 80), "m.step")["faces"]


def test_a_server_without_these_metrics_adds_nothing() -> None:
    assert between(Scrape({}), Scrape(samples("up 1\n")), "m") == {}


def test_labels_may_hold_anything() -> None:
    [(name, labels)] = samples('odd{label="a \\"b\\", c=\\"d"} 3')
    assert name == "odd"
    assert dict(labels) == {"label": 'a \\"b\\", c=\\"d'}


def test_a_port_that_speaks_another_protocol_has_no_metrics() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def settle() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n")

        answering = threading.Thread(target=settle)
        answering.start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert Scraper(address, "m").found() == {"note": f"no metrics at http://{address}/metrics"}
        answering.join()

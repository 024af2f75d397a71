"""Why a request was slow: tables of runs, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_client import EndedRequest, Run, Timings
from lockstep_client.explanation import explain

MINE, OTHER = "00000000000000aa", "00000000000000bb"


def request(seconds: float = 0.1, length: int = 17, **times: Any) -> EndedRequest:
    timings = Timings(**{"queue_s": 0.0, "compute_s": 0.0, "steps": 1, "batch_rows": 1.0, **times},
                      request_id=MINE)  # fmt: skip
    return EndedRequest("m", "1", "Classify", "ok", 1000.0, seconds, 0.001, timings, length)


def run(
    number: int, begun: float, compute_s: float, requests: tuple[str, ...] = (OTHER,), **more: Any
) -> Run:
    usual: dict[str, Any] = {
        "model": "m", "version": "1", "kind": "ONE_SHOT", "rows": 1, "padded_rows": 1, "length": 8,
        "elements": 8, "padded_elements": 8, "queue_s": 0.0, "device_wait_s": 0.0, "input_s": 0.0,
        "output_s": 0.0, "joined": (), "left": (), "cold": False, "failed": False,
    }  # fmt: skip
    return Run(number=number, begun=1000 + begun, compute_s=compute_s, requests=requests, **usual | more)


def findings(request: EndedRequest, *runs: Run) -> str:
    return "; ".join(explain(request, runs).findings)


def test_a_request_that_waited_names_the_runs_that_it_waited_behind() -> None:
    runs = [run(n, 0.001 + 0.03 * (n - 1), 0.03) for n in (1, 2)]
    runs.append(run(3, 0.061, 0.02, model="gpt", kind="PREFILL"))
    runs.append(run(4, 0.081, 0.01, (MINE, OTHER), rows=2, padded_rows=2, length=128, elements=145,
                    padded_elements=256, device_wait_s=0.02, cold=True))  # fmt: skip
    found = explain(request(queue_s=0.081, compute_s=0.01), runs)
    assert found.runs == (runs[3],)
    assert {part.name: round(part.seconds, 6) for part in found.parts} == {
        "admission": 0.001, "queue": 0.08, "runs": 0.01, "other": 0.009,
    }  # fmt: skip
    assert found.findings == (
        "80% of the time went by waiting for its first run",
        "for 80 ms before its first run, it waited behind 2 one-shot runs of m (60 ms), 1 prefill run of gpt"
        " (20 ms)",
        "the device was not free for 20 ms of that",
        "it ran with 1 other request in a run of 2 rows of 128 elements, 43% of them padding; its own length"
        " is 17",
        "its run was cold: the first of its shape since the model was loaded",
    )


def test_a_run_that_took_longer_than_its_like_is_named() -> None:
    like = [run(n, -n, 0.01) for n in range(5, 0, -1)]
    mine = run(9, 0.001, 0.08, (MINE,))
    assert "run 9 took 80 ms; others of its shape take 10 ms (median of 5)" in findings(
        request(queue_s=0.001, compute_s=0.08), *like, mine
    )
    assert "others of its shape" not in findings(request(queue_s=0.001, compute_s=0.08), *like[:4], mine)


def test_a_stream_is_told_what_went_on_between_its_steps() -> None:
    step = {"kind": "STEP", "length": 1}
    runs = [
        run(1, 0.001, 0.01, (MINE,), kind="PREFILL"),
        run(2, 0.02, 0.001, (MINE, OTHER), rows=2, **step),
        run(3, 0.03, 0.05, kind="PREFILL"),
        run(4, 0.09, 0.002, (MINE, OTHER), rows=2, **step),
    ]
    found = findings(request(0.1, queue_s=0.001, compute_s=0.013, prefill_s=0.01, steps=2), *runs)
    assert (
        "2 of its 2 steps are remembered: 2.0 rows on average, median 1.5 ms, slowest 2 ms (run 4)" in found
    )
    assert "78 ms went by between its runs, 69 ms at most at one time" in found
    assert "meanwhile there were 1 prefill run of m (50 ms)" in found
    assert "its prompt ran alone in a run of 1 row of 8 elements" in found


def test_what_is_forgotten_is_said() -> None:
    assert "its runs are forgotten: the server remembers those of m since" in findings(
        request(queue_s=0.05), run(7, 50, 0.01)
    )
    late = findings(request(queue_s=0.01, steps=9), run(7, 0.05, 0.001, (MINE,), kind="STEP"))
    assert "its first runs are forgotten" in late
    assert "waited behind" not in late


def test_a_request_that_never_ran_waited_until_it_ended() -> None:
    found = explain(request(0.5, steps=0, batch_rows=0.0), [run(1, 0.1, 0.1)])
    assert {part.name: round(part.seconds, 6) for part in found.parts if part.seconds} == {
        "admission": 0.001, "queue": 0.499,
    }  # fmt: skip
    assert "it took part in no run: ok" in found.findings


TIMES = st.floats(0, 10)
RUNS = st.lists(
    st.tuples(
        st.floats(-1, 10), st.floats(0, 2), st.booleans(), st.sampled_from(["ONE_SHOT", "STEP", "PREFILL"])
    ),
    max_size=20,
)


@given(seconds=TIMES, queue_s=TIMES, compute_s=TIMES, prefill_s=TIMES, steps=st.integers(0, 9), runs=RUNS)
def test_the_parts_add_up_whatever_the_clocks_say(
    seconds: float, queue_s: float, compute_s: float, prefill_s: float, steps: int, runs: list[Any]
) -> None:
    remembered = [
        run(number, begun, took, (MINE,) if mine else (OTHER,), kind=kind)
        for number, (begun, took, mine, kind) in enumerate(sorted(runs), start=1)
    ]
    found = explain(
        request(seconds, queue_s=queue_s, compute_s=compute_s, prefill_s=prefill_s, steps=steps), remembered
    )
    assert sum(part.seconds for part in found.parts) == pytest.approx(seconds)
    assert all(part.seconds >= 0 for part in found.parts)
    assert found.findings

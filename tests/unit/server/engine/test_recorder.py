"""The ring of runs: what is kept, and what a reader gets piece by piece."""

from __future__ import annotations

import threading
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from unit.server import sample_models

from lockstep_server.engine.recorder import RunRecorder
from lockstep_server.messages import Run

STEP = Run.of_step(3, 4, 0.001, 0.0)
SPEC = replace(sample_models.plain(), name="m.step", model="m")
OTHER = replace(sample_models.plain(), name="other", model="other")


def numbers(recorder: RunRecorder, after: int = 0, model: str = "", most: int = 3) -> list[int]:
    """The numbers of all runs above `after`, read in pieces of `most`."""
    found: list[int] = []
    while True:
        piece, more = recorder.read(after, model, most)
        assert len(piece) <= most
        found += [run.number for run in piece]
        if not more:
            return found
        after = piece[-1].number


@given(
    added=st.lists(st.tuples(st.booleans(), st.sampled_from(["one-shot", "step"])), max_size=40),
    after=st.integers(0, 40),
    size=st.integers(1, 10),
)
def test_a_reader_gets_the_latest_runs_of_each_model_and_kind_once_and_in_order(
    added: list[tuple[bool, str]], after: int, size: int
) -> None:
    recorder = RunRecorder(size)
    models = {True: recorder.of(SPEC), False: recorder.of(OTHER)}
    kept: dict[tuple[bool, str], list[int]] = {}
    for number, (which, kind) in enumerate(added, start=1):
        models[which].add(kind, 0.0, 3, STEP, (7,))
        kept.setdefault((which, kind), []).append(number)
    if after > len(added):  # a number of an engine process that has ended
        after = 0
    latest = sorted(n for of in kept.values() for n in of[-size:] if n > after)
    assert numbers(recorder, after) == latest
    mine = sorted(n for (which, _), of in kept.items() if which for n in of[-size:] if n > after)
    assert numbers(recorder, after, "m") == numbers(recorder, after, "m.step") == mine
    assert numbers(recorder, after, "nobody") == []


def test_the_first_run_of_a_shape_is_cold_again_when_its_model_is_loaded_again() -> None:
    recorder = RunRecorder(10)
    for _ in range(2):
        loaded = recorder.of(SPEC)
        loaded.add("step", 0.0, 3, STEP, (1,))
        loaded.add("step", 0.0, 2, STEP, (1,))
        loaded.add("step", 0.0, 3, Run.of_step(5, 8, 0.001, 0.0), (1,))
    runs, more = recorder.read(0, "", 10)
    assert [run.cold for run in runs] == [True, False, True] * 2
    assert not more


def test_a_recorder_of_no_runs_keeps_none() -> None:
    recorder = RunRecorder(0)
    recorder.of(SPEC).add("step", 0.0, 3, STEP, (1,))
    assert recorder.read(0, "", 10) == ([], False)


def test_no_run_is_missed_while_several_threads_record() -> None:
    recorder, each, threads = RunRecorder(100_000), 2000, 3
    added = [
        threading.Thread(target=lambda model: [model.add("step", 0.0, 3, STEP, ()) for _ in range(each)],
                         args=(recorder.of(replace(SPEC, name=f"m{n}")),))
        for n in range(threads)
    ]  # fmt: skip
    for thread in added:
        thread.start()
    seen: list[int] = []
    while len(seen) < each * threads:
        piece, _ = recorder.read(seen[-1] if seen else 0, "", 64)
        seen += [run.number for run in piece]
    for thread in added:
        thread.join()
    assert seen == list(range(1, each * threads + 1))

"""The engine's side of several front ends: each gets its own results, and all know of the models."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lockstep_server import messages
from lockstep_server.ipc.front_ends import FrontEnds, split
from lockstep_server.messages import FRONT_END_KEYS, front_end_of

INFO = messages.EngineInfo("cpu", "1", 2)
RUN = messages.Run(rows=1, length=1, elements=1, padded_elements=1, compute_s=0.1)

keys = st.builds(
    lambda front_end, key: front_end * FRONT_END_KEYS + key, st.integers(1, 3), st.integers(1, 50)
)


class Writer:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, message: Any) -> None:
        self.got.append(message)

    def close(self) -> None:
        self.got.append("closed")


class Engine:
    """The front ends 1 and 2, and the supervisor."""

    def __init__(self) -> None:
        self.supervisor = Writer()
        self.all = FrontEnds(self.supervisor)
        self.writers = {number: Writer() for number in (1, 2)}
        for number, writer in self.writers.items():
            self.all.add(number, writer, INFO)
            assert writer.got == [messages.EngineStarted(INFO)]
            writer.got.clear()


def key(front_end: int, number: int = 1) -> int:
    return front_end * FRONT_END_KEYS + number


def events(*of: int, runs: int = 1, chunks: tuple[int, ...] = ()) -> messages.Events:
    return messages.Events(
        model="m",
        version=1,
        events=[messages.Event(key=one) for one in of],
        runs=[RUN] * runs,
        chunks=[messages.Chunk(key=one, ids=[1], text="a") for one in chunks],
        sequences=messages.SequenceCounts(1, 0, 0),
    )


def loaded(name: str = "m", state: str = "READY") -> messages.ModelUpdate:
    return messages.ModelUpdate(model=name, version=1, state=state)


@given(st.lists(keys), st.lists(keys), st.integers(0, 2))
def test_each_result_goes_to_its_front_end_and_each_run_to_one(
    of: list[int], chunks: list[int], runs: int
) -> None:
    update = events(*of, runs=runs, chunks=tuple(chunks))
    parts = split(update)
    for number, part in parts.items():
        found = [*(one.key for one in part.events), *(one.key for one in part.chunks)]
        assert {front_end_of(one) for one in found} <= {number}
        assert [one.key for one in part.events] == [one for one in of if front_end_of(one) == number]
    assert Counter(one.key for part in parts.values() for one in part.chunks) == Counter(chunks)
    assert sum(len(part.events) for part in parts.values()) == len(of)
    assert sum(len(part.runs) for part in parts.values()) == runs


def test_runs_that_concern_no_living_front_end_are_counted_once() -> None:
    engine = Engine()
    engine.all.remove(1)
    engine.all.report(events(key(1), runs=2))
    engine.all.report(events(runs=1))
    assert [len(one.runs) for one in engine.writers[2].got] == [2, 1]
    assert not any(one.events for one in engine.writers[2].got)
    assert engine.writers[1].got == []


def test_a_front_end_that_comes_later_learns_the_models_as_they_are() -> None:
    engine = Engine()
    for state in ("LOADING", "READY"):
        engine.all.report(loaded(state=state))
    engine.all.report(loaded("other", "UNAVAILABLE"))
    for costs in ({"a": 1.0}, {"a": 2.0}):
        engine.all.report(messages.Costs("m", 1, costs))
    for reason in ("it restarts", ""):
        engine.all.report(messages.ModelPaused("m", 1, reason))
    engine.all.report(messages.ModelPaused("other", 1, "it restarts"))
    late = Writer()
    engine.all.add(3, late, INFO)
    assert late.got == [
        loaded(),
        messages.Costs("m", 1, {"a": 2.0}),
        loaded("other", "UNAVAILABLE"),
        messages.ModelPaused("other", 1, "it restarts"),
        messages.EngineStarted(INFO),
    ]
    assert engine.writers[1].got == engine.writers[2].got == engine.supervisor.got


def test_a_load_is_answered_once_the_others_know_of_it() -> None:
    engine = Engine()
    done = messages.LoadDone("m", "load", key=key(1))
    engine.all.report(done)
    assert (engine.writers[1].got, engine.writers[2].got) == ([], [done])
    assert engine.all.take(2, [messages.LoadSeen(done.key), messages.Cancel(5)]) == [messages.Cancel(5)]
    assert engine.writers[1].got == [done]
    engine.all.take(1, [messages.LoadSeen(done.key)])  # it says so too, and nobody waits for it


def test_a_move_is_known_to_the_other_front_ends() -> None:
    engine = Engine()
    moved = messages.SequenceMoved("m", 1, ("alice", 7), "there:8001", "")
    assert engine.all.take(1, [moved, messages.Cancel(5)]) == [messages.Cancel(5)]
    assert (engine.writers[1].got, engine.writers[2].got) == ([], [moved])


def test_a_load_does_not_wait_for_a_front_end_that_has_ended() -> None:
    engine = Engine()
    done = messages.LoadDone("m", "unload", key=key(1))
    engine.all.report(done)
    engine.all.remove(2)
    assert engine.writers[1].got == [done]
    engine.all.report(again := messages.LoadDone("m", "load", key=key(1, 2)))
    assert engine.writers[1].got == [done, again]


def test_what_is_counted_once_and_what_the_supervisor_asks_goes_to_it_alone() -> None:
    engine = Engine()
    updates: list[messages.EngineUpdate] = [
        messages.Verified("m", 1, 3),
        messages.Heartbeat(),
        messages.EngineStats([]),
        messages.LoadStarted("m", 1),
        messages.ModelStuck("m", 1, "it does not end"),
    ]
    for update in updates:
        engine.all.report(update)
    engine.all.report(found := messages.SequenceFound(key(2), 7))
    assert engine.supervisor.got == updates
    assert (engine.writers[1].got, engine.writers[2].got) == ([], [found])


def test_every_front_end_knows_what_a_load_does() -> None:
    engine = Engine()
    engine.all.report(step := messages.LoadStep("m", 1, "self-test"))
    assert [one.got for one in (engine.supervisor, engine.writers[1], engine.writers[2])] == [[step]] * 3


def test_chunks_are_held_back_as_long_as_the_busiest_front_end_needs() -> None:
    all_ = Engine().all
    sent = [
        all_.take(number, [messages.SetFlushInterval(flush_s)])
        for number, flush_s in ((1, 0.01), (2, 0.004), (1, 0.0))
    ]
    assert [one.flush_s for (one,) in sent if isinstance(one, messages.SetFlushInterval)] == [
        0.01, 0.01, 0.004,
    ]  # fmt: skip

"""The engine as its callers see it: chunks, answers and ends; driven step by step under a fake clock."""

from __future__ import annotations

import gc
import itertools
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import Opened, alone, entering, opened

from lockstep_server import messages
from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler
from lockstep_server.engine.stepwise.batches import StepBatches
from lockstep_server.engine.stepwise.engine import StepEngine
from lockstep_server.engine.stepwise.scheduler import Scheduler
from lockstep_server.engine.stepwise.sequence import ClientSequence, GenerationSequence
from lockstep_server.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]


class Heard:
    """All that one request was told."""

    def __init__(self) -> None:
        self.chunks: list[messages.Chunk] = []
        self.events: list[messages.Event] = []

    @property
    def ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.ids]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def event(self) -> messages.Event:
        (event,) = self.events
        return event

    @property
    def code(self) -> ErrorCode:
        assert self.event.error is not None
        return self.event.error.code


class Served:
    """An engine and its callers; each step takes `step_s` on its clock."""

    def __init__(self, kind: str, session: Any = None, first: Any = None, **more: Any) -> None:
        ends = more.pop("ends", False)  # stopping an engine ends its sessions
        self.model = model = opened.__wrapped__(kind) if ends else opened(kind)
        self.now, self.step_s = 0.0, 0.001
        self.reports: list[messages.Events] = []
        self.heard: dict[int, Heard] = {}
        self._keys = itertools.count(1)
        self._more = threading.Condition()
        self.engine = StepEngine(
            model.spec,
            session or model.session,
            first or model.first,
            model.vocabulary,
            DeviceScheduler("cpu"),
            self._report,
            clock=lambda: self.now,
            **more,
        )

    def _report(self, events: messages.Events) -> None:
        with self._more:
            self.reports.append(events)
            for chunk in events.chunks:
                heard = self.heard[chunk.key]
                assert not heard.events, "nothing comes after the end"
                heard.chunks.append(chunk)
            for event in events.events:
                self.heard[event.key].events.append(event)
            self._more.notify_all()

    # --- callers ------------------------------------------------------------------------------------

    def _send(self, inputs: dict[str, Array], **more: Any) -> int:
        key = next(self._keys)
        self.heard[key] = Heard()
        submit = messages.Submit(key, "m", 1, inputs, accepted=self.now, field="text", **more)
        self.engine.submit(submit, inputs)
        return key

    def decode(self, *prompt: int, deadline: float | None = None, **how: Any) -> int:
        inputs = {"tokens": np.array([prompt], np.int64)} if prompt else {}
        return self._send(
            inputs, deadline=deadline, how=messages.Decode(**{"max_tokens": 12, "seed": 1, **how})
        )

    def feed(self, sequence: Any, *x: float, start: bool = False, end: bool = False, **more: Any) -> int:
        inputs = {"x": np.array([x], np.float32)}
        return self._send(inputs, how=messages.Feed(sequence, start, end), **more)

    # --- the engine's thread, by hand ---------------------------------------------------------------

    def busy(self) -> bool:
        engine = self.engine
        return bool(engine._inbox or engine._joining or engine._scheduler.has_work())

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine._step()
            self.now += self.step_s

    def work(self) -> None:
        while self.busy():
            self.step()

    def wait(self, seconds: float) -> None:
        """Nothing happens for so long; then the engine does what is due."""
        self.now += seconds
        self.step()

    def population(self) -> messages.SequenceCounts:
        return self.engine._scheduler.population()

    # --- the engine's own thread --------------------------------------------------------------------

    def until(self, met: Callable[[], bool]) -> None:
        with self._more:
            assert self._more.wait_for(met, 60)


def solo(model: Opened, *prompt: int, **how: Any) -> list[int]:
    """What the tokens should be: its first from the prompt's scores, the rest from the steps."""
    return alone(model, entering(model, prompt, **{"limit": 12, "seed": 1, **how})).ids


# --- chunks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["language", "forced", "cache"])
def test_a_stream_is_what_the_model_makes_alone(kind: str) -> None:
    served = Served(kind)
    keys = [served.decode(1, 3 + i, seed=i) for i in range(8)]
    served.work()
    for i, key in enumerate(keys):
        heard = served.heard[key]
        assert heard.ids == solo(opened("forced" if kind == "language" else kind), 1, 3 + i, seed=i)
        assert served.model.vocabulary is not None
        assert heard.text == "".join(served.model.vocabulary.names(heard.ids))
        assert (heard.event.reason, heard.event.length) == ("length", 12)


@settings(max_examples=25)
@given(
    flush_s=st.sampled_from([0.0, 0.001, 0.004, 0.02, 9.0]),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    stop=st.sampled_from([(), ("b",), ("ab", "e\n")]),
    log_probabilities=st.booleans(),
    gap=st.integers(0, 5),
)
def test_chunks_join_to_the_same_whatever_the_flush_interval(
    flush_s: float, lengths: list[int], stop: tuple[str, ...], log_probabilities: bool, gap: int
) -> None:
    heard: list[list[Any]] = []
    for pace in (0.0, flush_s):
        served = Served("language")
        served.engine.pace(pace)
        keys = []
        for i, length in enumerate(lengths):
            how = {"stop": stop, "log_probabilities": log_probabilities and i % 2 == 0}
            keys.append(served.decode(1, 2 + i, seed=i, max_tokens=length, **how))
            served.engine.credit(keys[-1], 100)
            if gap:
                served.step(gap)
        served.work()
        ended = [served.heard[key] for key in keys]
        heard.append(
            [
                (one.ids, one.text, [p for c in one.chunks for p in c.log_probabilities], one.event.reason)
                for one in ended
            ]
        )
        assert all(len(p) in (0, len(ids)) for ids, _, p, _ in heard[-1])
    assert heard[0] == heard[1]


def test_with_an_interval_the_first_token_comes_at_once_and_the_rest_together() -> None:
    served = Served("language")
    served.engine.pace(0.005)
    key = served.decode(1, 3, max_tokens=31)
    served.work()
    sizes = [len(chunk.ids) for chunk in served.heard[key].chunks]
    assert sizes[0] <= 2
    assert sum(sizes) == 31
    assert len(sizes) <= 9


def test_what_one_step_has_to_say_crosses_once() -> None:
    served = Served("forced")
    for i in range(8):
        served.decode(1, seed=i)
    served.step()
    before = len(served.reports)
    served.step()
    assert len(served.reports) == before + 1
    assert len(served.reports[-1].chunks) == 8


@pytest.mark.parametrize("kind", ["language", "translator"])
def test_more_steps_than_the_log_holds_lose_nothing(kind: str) -> None:
    served = Served(kind)
    served.engine.pace(1e9)
    key = served.decode(1, 3, max_tokens=700, temperature=1.0)
    served.decode(1, 3, max_tokens=650, seed=2)
    served.work()
    heard = served.heard[key]
    assert heard.event.length == len(heard.ids)
    assert heard.event.reason in ("end", "length")
    if kind == "language":
        assert heard.ids == solo(opened("forced"), 1, 3, limit=700)


def test_attention_comes_row_by_row_with_its_pieces_and_its_source_once() -> None:
    served = Served("translator")
    submit = messages.Submit(
        1, "m", 1, {"source": np.array([[3, 4, 5]])}, how=messages.Decode(6, seed=1, attention=True)
    )
    served.heard[1] = Heard()
    served.engine.submit(submit, submit.inputs, ("b", "c", "d"))
    served.work()
    chunks = served.heard[1].chunks
    assert chunks
    assert [chunk.source for chunk in chunks] == [("b", "c", "d"), *[()] * (len(chunks) - 1)]
    for chunk in chunks:
        assert len(chunk.attention) == len(chunk.pieces) == len(chunk.ids)
        assert all(row.shape == (3,) for row in chunk.attention)


# --- ends -------------------------------------------------------------------------------------------


def test_an_empty_prompt_begins_with_the_begin_id() -> None:
    served = Served("language")
    keys = served.decode(), served.decode(1)
    served.work()
    assert served.heard[keys[0]].ids == served.heard[keys[1]].ids


def test_an_empty_source_is_refused() -> None:
    served = Served("translator")
    key = served.decode()
    served.work()
    assert served.heard[key].code is ErrorCode.BAD_INPUT
    assert served.heard[key].event.error.field == "text"  # type: ignore[union-attr]


def test_a_prompt_that_is_too_long_is_refused_and_the_others_go_on() -> None:
    served = Served("language")
    good = served.decode(1, 3)
    bad = served.decode(*[3] * 65)
    served.work()
    assert served.heard[bad].code is ErrorCode.BAD_INPUT
    assert served.heard[good].ids == solo(opened("forced"), 1, 3)


def test_a_prompt_that_no_cache_can_hold_is_refused() -> None:
    served = Served("cache")
    key = served.decode(*[3] * 50)
    served.work()
    assert served.heard[key].code is ErrorCode.BAD_INPUT


def test_a_limit_of_no_tokens_ends_at_once() -> None:
    served = Served("language")
    key = served.decode(1, max_tokens=0)
    served.work()
    assert (served.heard[key].chunks, served.heard[key].event.reason) == ([], "length")


def test_a_deadline_ends_a_stream_between_steps_after_what_it_made() -> None:
    served = Served("forced")
    served.engine.pace(1e9)
    key = served.decode(1, deadline=0.0045, max_tokens=100)
    other = served.decode(1, max_tokens=20)
    served.work()
    assert served.heard[key].code is ErrorCode.DEADLINE
    assert served.heard[key].ids == solo(opened("forced"), 1, limit=5)
    assert len(served.heard[other].ids) == 20


def test_cancelled_at_any_step_it_is_silent_and_its_slot_is_free() -> None:
    for steps in range(6):
        served = Served("language")
        gone, stays = served.decode(1, 2), served.decode(1, 3)
        served.step(steps)
        said = len(served.heard[gone].chunks)
        served.engine.cancel(gone)
        served.work()
        assert (len(served.heard[gone].chunks), served.heard[gone].events) == (said, [])
        assert served.heard[stays].ids == solo(opened("forced"), 1, 3)
        assert served.population() == (0, 0, 0)


def test_the_timings_are_those_of_its_own_clock() -> None:
    served = Served("forced")
    key = served.decode(1, 2, 3, max_tokens=4)
    served.now = 0.5
    served.work()
    timings = served.heard[key].event.timings
    assert timings.queue_s == pytest.approx(0.5)
    assert timings.first_token_s == pytest.approx(0.502)  # the third step makes it
    assert (timings.steps, timings.rows) == (6, 1.0)


# --- readers ----------------------------------------------------------------------------------------


def test_a_reader_that_stops_pauses_its_own_stream_only_and_goes_on_exactly_where_it_stopped() -> None:
    served = Served("language")
    slow = served.decode(1, 3, max_tokens=100, seed=5, stop=("never said",))
    for i in range(3):
        served.decode(1, 4, max_tokens=80, seed=i)
    served.work()
    heard = served.heard[slow]
    assert heard.events == []
    assert len(heard.chunks) == messages.STREAM_CREDITS
    assert {len(one.chunks) for one in served.heard.values()} == {messages.STREAM_CREDITS}
    for key in list(served.heard):
        if key != slow:
            served.engine.credit(key, 1000)
    served.work()
    assert all(served.heard[key].event.reason == "length" for key in served.heard if key != slow)
    while not heard.events:
        assert served.population() == (0, 0, 1)
        before = len(heard.chunks)
        served.engine.credit(slow, 3)
        served.work()
        assert len(heard.chunks) <= before + 3 + 1  # the last one needs no credit
    assert heard.ids == solo(opened("forced"), 1, 3, limit=100, seed=5)
    assert heard.text == "".join(opened("language").vocabulary.names(heard.ids))  # type: ignore[union-attr]


def test_a_paused_stream_makes_nothing_so_its_memory_is_bounded() -> None:
    served = Served("language")
    key = served.decode(1, 3, max_tokens=10_000)
    other = served.decode(1, 4, max_tokens=600)
    served.engine.credit(other, 10_000)
    served.work()
    assert len(served.heard[other].ids) == 600
    paused = served.engine._scheduler._items[key]
    assert isinstance(paused, GenerationSequence)
    assert paused.made <= messages.STREAM_CREDITS + 2


def test_a_reader_that_stops_for_too_long_is_ended_and_its_slot_is_free() -> None:
    served = Served("language", stalled_s=5.0)
    key = served.decode(1, 3, max_tokens=100)
    served.work()
    served.wait(4.9)
    assert served.heard[key].events == []
    served.wait(0.2)
    assert served.heard[key].code is ErrorCode.SEQUENCE_LOST
    assert served.population() == (0, 0, 0)


def test_a_paused_stream_can_be_cancelled() -> None:
    served = Served("language")
    key = served.decode(1, 3, max_tokens=100)
    served.work()
    served.engine.cancel(key)
    served.engine.credit(key, 5)
    served.work()
    assert served.heard[key].events == []
    assert served.population() == (0, 0, 0)


# --- fed --------------------------------------------------------------------------------------------


def test_each_sequence_keeps_its_own_state() -> None:
    served = Served("adder")
    told: dict[int, float] = {}
    for step in range(4):
        for sequence in range(5):
            key = served.feed(sequence + 1, 10.0**sequence, step, start=step == 0, end=step == 3)
            told[key] = (step + 1) * 10.0**sequence
    served.work()
    for key, expected in told.items():
        outputs = served.heard[key].event.outputs
        assert outputs is not None
        assert outputs["y"][0, 0] == expected
    assert served.population() == (0, 0, 0)


def test_only_the_outputs_that_are_wanted_come() -> None:
    served = Served("adder")
    key = served.feed(1, 1, 2, start=True, outputs=("y",))
    served.work()
    assert list(served.heard[key].event.outputs or ()) == ["y"]


def test_an_element_that_breaks_a_run_fails_alone_and_its_sequence_goes_on_as_before() -> None:
    class Picky:
        output_names = opened("adder").session.output_names

        def run(self, feeds: dict[str, Array]) -> list[Array]:
            if (feeds["x"] == 13).any():
                raise RuntimeError("13")
            return opened("adder").session.run(feeds)

    served = Served("adder", Picky())
    first = [served.feed(i, i, i, start=True) for i in (1, 2, 3)]
    second = [served.feed(1, 1, 1), served.feed(2, 13, 13), served.feed(3, 3, 3)]
    third = [served.feed(i, i, i) for i in (1, 2, 3)]
    served.work()

    def y(key: int) -> float:
        outputs = served.heard[key].event.outputs
        assert outputs is not None
        return float(outputs["y"][0, 0])

    assert [y(key) for key in first] == [1, 2, 3]
    assert (y(second[0]), y(second[2])) == (2, 6)
    assert served.heard[second[1]].code is ErrorCode.FAILED
    assert [y(key) for key in third] == [3, 4, 9]


def test_a_fed_cache_takes_as_many_elements_as_the_manifest_allows() -> None:
    served = Served("cache")
    for key in range(101, 146):
        submit = messages.Submit(
            key, "m", 1, {"token": np.array([3])}, how=messages.Feed("f", start=key == 101)
        )
        served.heard[key] = Heard()
        served.engine.submit(submit, submit.inputs)
    served.work()
    assert [key for key, heard in served.heard.items() if heard.event.error is None] == list(range(101, 141))
    assert served.heard[141].code is ErrorCode.BAD_INPUT


def test_an_idle_sequence_is_evicted_and_its_next_step_is_told() -> None:
    served = Served("adder")
    served.feed(1, 1, 1, start=True)
    served.work()
    served.wait(61.0)
    key = served.feed(1, 1, 1)
    served.work()
    assert served.heard[key].code is ErrorCode.SEQUENCE_LOST


def test_decodings_and_fed_sequences_share_an_engine() -> None:
    """A language model that is generated from and followed at one time."""
    served = Served("forced")
    key = served.decode(1, 3, max_tokens=20)
    h = c = np.zeros((1, 1, 16), np.float32)
    for i, token in enumerate((1, 5, 9)):
        submit = messages.Submit(
            100 + i, "m", 1, {"token": np.array([token])}, how=messages.Feed("f", start=i == 0)
        )
        served.heard[100 + i] = Heard()
        served.engine.submit(submit, submit.inputs)
        served.step(2)
        expected, h, c = served.model.session.run({"token": np.array([token]), "h_in": h, "c_in": c})
        outputs = served.heard[100 + i].event.outputs
        assert outputs is not None
        np.testing.assert_array_equal(outputs["logits"], expected)
    served.work()
    assert served.heard[key].ids == solo(served.model, 1, 3, limit=20)


# --- failures ---------------------------------------------------------------------------------------


class Poisoned:
    """A graph that fails on a certain id."""

    def __init__(self, session: Any, name: str, poison: int) -> None:
        self._session, self._name, self._poison = session, name, poison
        self.output_names = session.output_names

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        if (feeds[self._name] == self._poison).any():
            raise RuntimeError("poisoned")
        return self._session.run(feeds)  # type: ignore[no-any-return]


def test_a_prompt_that_breaks_the_prefill_fails_alone() -> None:
    served = Served("language", first=Poisoned(opened("language").first, "tokens", 9))
    good, bad = [served.decode(1, i) for i in (3, 4, 5)], served.decode(1, 9)
    served.work()
    assert served.heard[bad].code is ErrorCode.FAILED
    assert [served.heard[key].ids for key in good] == [solo(opened("forced"), 1, i) for i in (3, 4, 5)]
    assert served.population() == (0, 0, 0)


def test_a_token_that_breaks_the_step_fails_its_own_stream_after_what_it_made() -> None:
    served = Served("forced", Poisoned(opened("forced").session, "token", 9))
    keys = [served.decode(1, seed=i, max_tokens=30) for i in range(8)]
    served.work()
    broken = 0
    for i, key in enumerate(keys):
        heard, free = served.heard[key], solo(opened("forced"), 1, seed=i, limit=30)
        if 9 in free[:-1]:
            broken += 1
            assert heard.code is ErrorCode.FAILED
            assert heard.ids == free[: free.index(9) + 1]
        else:
            assert heard.ids == free
    assert 0 < broken < 8


def test_an_engine_whose_step_goes_wrong_fails_what_it_held_and_serves_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = Served("forced", ends=True)
    key = served.decode(1)
    served.engine.start()
    served.until(lambda: bool(served.heard[key].events))
    with monkeypatch.context() as patch:
        patch.setattr(StepBatches, "step", lambda *_: 1 / 0)
        lost = served.decode(1)
        served.until(lambda: bool(served.heard[lost].events))
    assert served.heard[lost].code is ErrorCode.FAILED
    again = served.decode(1)
    served.until(lambda: bool(served.heard[again].events))
    assert served.heard[again].ids == served.heard[key].ids
    served.engine.stop(5.0)


def test_who_has_ended_is_told_though_the_run_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served("forced", ends=True)
    late = served.decode(1, deadline=0.05, max_tokens=10**6)
    served.engine.credit(late, 10**6)
    served.step(3)
    served.now = 1.0
    other = served.decode(1)
    monkeypatch.setattr(StepBatches, "step", lambda *_: 1 / 0)
    served.engine.start()
    served.until(lambda: bool(served.heard[other].events))
    served.engine.stop(5.0)
    assert served.heard[late].code is ErrorCode.DEADLINE


def test_a_batch_that_everyone_has_left_runs_no_more() -> None:
    served = Served("forced")
    key = served.decode(1)
    served.step(3)
    served.engine.cancel(key)
    served.reports.clear()
    served.work()
    assert [run for report in served.reports for run in report.runs] == []


# --- the end ----------------------------------------------------------------------------------------


def test_stopping_ends_all_with_unavailable_exactly_once() -> None:
    served = Served("language", ends=True)
    keys = [served.decode(1, 3, max_tokens=100_000, seed=i) for i in range(70)]  # more than there are slots
    for key in keys:
        served.engine.credit(key, 10**6)
    paused = served.decode(1, 3, max_tokens=100_000)
    served.engine.start()
    served.until(lambda: bool(served.heard[keys[0]].chunks))
    served.engine.stop(0.0)
    assert {served.heard[key].code for key in (*keys, paused)} == {ErrorCode.UNAVAILABLE}
    assert not served.engine._thread.is_alive()


def test_what_comes_after_the_stop_is_told() -> None:
    served = Served("forced", ends=True)
    served.engine.start()
    served.engine.stop(0.0)
    key = served.decode(1)
    assert served.heard[key].code is ErrorCode.UNAVAILABLE


def test_stopping_lets_what_is_nearly_done_end_well() -> None:
    served = Served("language", ends=True)
    key = served.decode(1, 3, max_tokens=30)
    served.engine.start()
    served.engine.stop(30.0)
    assert served.heard[key].event.reason == "length"


def test_while_it_closes_no_new_sequence_is_taken() -> None:
    served = Served("adder", ends=True)
    served.engine.stop(0.0)
    key = served.feed(1, 1, 1, start=True)
    served.step()
    assert served.heard[key].code is ErrorCode.UNAVAILABLE


@settings(max_examples=25)
@given(data=st.data())
def test_every_request_ends_exactly_once_or_is_cancelled(data: Any) -> None:
    served = Served("forced", stalled_s=1.0)
    cancelled: set[int] = set()
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["decode", "decode", "step", "cancel", "credit", "wait", "pace"])):
            case "decode":
                deadline = data.draw(st.sampled_from([None, None, 0.003, 0.02]))
                served.decode(
                    *data.draw(st.lists(st.integers(1, 20), max_size=4)),
                    max_tokens=data.draw(st.sampled_from([0, 1, 5, 60])),
                    deadline=None if deadline is None else served.now + deadline,
                )
            case "cancel" if served.heard:
                key = data.draw(st.sampled_from(sorted(served.heard)))
                if not served.heard[key].events:
                    cancelled.add(key)
                served.engine.cancel(key)
            case "credit" if served.heard:
                served.engine.credit(data.draw(st.sampled_from(sorted(served.heard))), 5)
            case "wait":
                served.wait(data.draw(st.sampled_from([0.01, 0.5])))
            case "pace":
                served.engine.pace(data.draw(st.sampled_from([0.0, 0.01])))
            case _:
                served.step(data.draw(st.integers(1, 8)))
    served.work()
    served.wait(2.0)  # who still does not read is ended
    served.work()
    for key, heard in served.heard.items():
        assert len(heard.events) <= 1
        assert heard.events or key in cancelled
    assert served.population() == (0, 0, 0)
    assert len(served.engine._batches) == 0


# --- nothing is left behind -------------------------------------------------------------------------


def living() -> int:
    gc.collect()
    return sum(type(one) in (GenerationSequence, ClientSequence) for one in gc.get_objects())


def cancel_many(served: Served, count: int) -> None:
    """Streams that are cancelled at every stage: waiting, taken in, stepping, paused."""
    for i in range(count):
        key = served.decode(1, 2 + i % 9, seed=i, max_tokens=200)
        served.step(i % 3)
        if i % 50 == 0:
            served.step(40)  # beyond its credit
        served.engine.cancel(key)
        del served.heard[key]
        served.reports.clear()
    served.work()


def check_nothing_is_left(served: Served) -> None:
    """1,000 cancelled streams leave slots, batches, objects and memory where they were."""
    cancel_many(served, 100)
    objects = living()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cancel_many(served, 1000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert living() <= objects + 10
    assert grown < 200_000
    assert len(served.engine._batches) == 0
    assert served.population() == (0, 0, 0)
    slots = served.model.spec.manifest.stepwise.max_sequences  # type: ignore[union-attr]
    for _ in range(slots):
        served.decode(1)
    served.step()
    assert served.population() == (slots, 0, 0)


def test_a_thousand_cancelled_streams_leave_nothing() -> None:
    check_nothing_is_left(Served("forced"))


def never_left(scheduler: Scheduler, key: int) -> None:
    """Its slot is free, but nobody takes it out of its row."""
    item = scheduler._items.pop(key, None)
    if isinstance(item, GenerationSequence):
        scheduler._drop(item)


def never_freed(scheduler: Scheduler, key: int) -> None:
    """It leaves its row, but keeps its slot."""
    item = scheduler._items.pop(key, None)
    if isinstance(item, GenerationSequence) and item.slot:
        scheduler._running.pop(item, None)
        scheduler._left.append(item)


@pytest.mark.parametrize("leak", [never_left, never_freed])
def test_the_check_would_see_a_leak(monkeypatch: pytest.MonkeyPatch, leak: Any) -> None:
    monkeypatch.setattr(Scheduler, "cancel", leak)
    served = Served("forced")
    with pytest.raises((AssertionError, KeyError)):
        check_nothing_is_left(served)

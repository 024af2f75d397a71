"""The engine as its clients see it: chunks, answers and errors. Driven step by step with a fake clock."""

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
from patience import PATIENCE_S, wait_until
from unit.server.engine.stepwise.step_models import (
    FakeSession,
    StepModel,
    open_model,
    open_own,
    ready_sequence,
    unbatched,
)

from lockstep_server import messages
from lockstep_server.engine.runtime.device_scheduler import DeviceAccount, DeviceScheduler
from lockstep_server.engine.stepwise.batches import StepBatches
from lockstep_server.engine.stepwise.engine import StepEngine
from lockstep_server.engine.stepwise.scheduler import Scheduler
from lockstep_server.engine.stepwise.sequence import ClientSequence, GenerationSequence
from lockstep_server.engine.stepwise.slots import StateBlock
from lockstep_server.errors import ErrorCode, overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("kept")


class Received:
    """All output of one request."""

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


class TimedSession:
    """A session whose runs each take `step_s` on a driver's clock."""

    def __init__(self, session: Any, driver: EngineDriver) -> None:
        self._session, self._driver = session, driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *given: Any) -> Any:
        self._driver.before_run(given[0])
        self._driver.runs += 1
        try:
            return self._session.run(*given)
        finally:
            self._driver.now += self._driver.step_s


class EngineDriver:
    """An engine and its clients; each step takes `step_s` on its clock."""

    def __init__(self, kind: str, session: Any = None, prefill_session: Any = None, **more: Any) -> None:
        own_sessions = more.pop("own_sessions", False)  # stopping an engine terminates its sessions
        self.model = model = open_own(kind) if own_sessions else open_model(kind)
        self.now, self.step_s, self.runs = 0.0, 0.001, 0
        self.before_run: Callable[[Any], None] = lambda _: None
        self.reports: list[messages.Events] = []
        self.received: dict[int, Received] = {}
        self._keys = itertools.count(1)
        self._arrived = threading.Condition()
        self.engine = StepEngine(
            model.spec,
            TimedSession(session or model.session, self),  # type: ignore[arg-type]
            prefill_session or model.prefill_session,
            model.vocabulary,
            DeviceScheduler(),
            self._report,
            clock=lambda: self.now,
            **more,
        )

    def _report(self, events: messages.EngineUpdate) -> None:
        assert isinstance(events, messages.Events)
        with self._arrived:
            self.reports.append(events)
            for chunk in events.chunks:
                received = self.received[chunk.key]
                assert not received.events, "nothing follows the final event"
                received.chunks.append(chunk)
            for event in events.events:
                self.received[event.key].events.append(event)
            self._arrived.notify_all()

    # --- clients ------------------------------------------------------------------------------------

    def _send(self, kind: type[messages.Generate] | type[messages.Step], **fields: Any) -> int:
        key = fields.pop("key", None) or next(self._keys)
        self.received[key] = Received()
        request = kind(key=key, model="m", version=1, accepted=self.now, field="text", **fields)
        self.engine.submit(request)
        return key

    def generate(self, *prompt: int, **params: Any) -> int:
        return self._send(messages.Generate, prompt=prompt, **{"max_tokens": 12, "seed": 1, **params})

    def step_sequence(
        self, sequence: Any, *x: float, start: bool = False, end: bool = False, **more: Any
    ) -> int:
        inputs = {"x": np.array([x], np.float32)}
        return self.step_with(sequence, inputs, start=start, end=end, **more)

    def step_with(self, sequence: Any, inputs: dict[str, Array], **more: Any) -> int:
        return self._send(messages.Step, sequence=sequence, inputs=inputs, **more)

    # --- steps, without the engine's thread ---------------------------------------------------------

    def has_work(self) -> bool:
        engine = self.engine
        return bool(engine._inbox or engine._awaiting_prefill or engine._scheduler.has_work())

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            before = self.now
            self.engine._step()
            if self.now == before:  # nothing ran
                self.now += self.step_s

    def drain(self) -> None:
        while self.has_work():
            self.step()

    def wait(self, seconds: float) -> None:
        """Advance the clock without steps; then run one step, for timeouts."""
        self.now += seconds
        self.step()

    def counts(self) -> messages.SequenceCounts:
        return self.engine._scheduler.counts()

    # --- with the engine's thread -------------------------------------------------------------------

    def until(self, met: Callable[[], bool]) -> None:
        with self._arrived:
            assert self._arrived.wait_for(met, PATIENCE_S)


def expected_ids(model: StepModel, *prompt: int, **params: Any) -> list[int]:
    """The tokens of an unbatched run."""
    return unbatched(model, ready_sequence(model, prompt, **{"limit": 12, "seed": 1, **params})).ids


REFERENCES = {"language": "forced", "kept": "cache", "alone": "cache"}
"""Models with the same answers as others, from other graphs or blocks."""

# --- chunks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["language", "forced", "cache", "kept", "alone"])
def test_a_stream_gets_the_tokens_of_an_unbatched_run(kind: str) -> None:
    driver = EngineDriver(kind)
    keys = [driver.generate(1, 3 + i, seed=i) for i in range(8)]
    driver.drain()
    for i, key in enumerate(keys):
        received = driver.received[key]
        assert received.ids == expected_ids(open_model(REFERENCES.get(kind, kind)), 1, 3 + i, seed=i)
        assert driver.model.vocabulary is not None
        assert received.text == "".join(driver.model.vocabulary.names(received.ids))
        assert (received.event.reason, received.event.length) == ("length", 12)


@settings(max_examples=25)
@given(
    flush_s=st.sampled_from([0.0, 0.001, 0.004, 0.02, 9.0]),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    stop=st.sampled_from([(), ("b",), ("ab", "e\n")]),
    log_probabilities=st.booleans(),
    gap=st.integers(0, 5),
)
def test_chunks_join_to_the_same_text_at_every_flush_interval(
    flush_s: float, lengths: list[int], stop: tuple[str, ...], log_probabilities: bool, gap: int
) -> None:
    received: list[list[Any]] = []
    for interval in (0.0, flush_s):
        driver = EngineDriver("language")
        driver.engine.set_flush_interval(interval)
        keys = []
        for i, length in enumerate(lengths):
            params = {"stop": stop, "log_probabilities": log_probabilities and i % 2 == 0}
            keys.append(driver.generate(1, 2 + i, seed=i, max_tokens=length, **params))
            driver.engine.credit(keys[-1], 100)
            if gap:
                driver.step(gap)
        driver.drain()
        ended = [driver.received[key] for key in keys]
        received.append(
            [
                (one.ids, one.text, [p for c in one.chunks for p in c.log_probabilities], one.event.reason)
                for one in ended
            ]
        )
        assert all(len(p) in (0, len(ids)) for ids, _, p, _ in received[-1])
    assert received[0] == received[1]


def test_with_a_flush_interval_the_first_token_is_immediate_and_the_rest_are_grouped() -> None:
    driver = EngineDriver("language")
    driver.engine.set_flush_interval(0.005)
    key = driver.generate(1, 3, max_tokens=31)
    driver.drain()
    sizes = [len(chunk.ids) for chunk in driver.received[key].chunks]
    assert sizes[0] <= 2
    assert sum(sizes) == 31
    assert len(sizes) <= 9


def test_each_step_sends_one_message() -> None:
    driver = EngineDriver("forced")
    for i in range(8):
        driver.generate(1, seed=i)
    driver.step()
    before = len(driver.reports)
    driver.step()
    assert len(driver.reports) == before + 1
    assert len(driver.reports[-1].chunks) == 8


@pytest.mark.parametrize("kind", ["language", "translator"])
def test_more_steps_than_the_log_holds_lose_no_token(kind: str) -> None:
    driver = EngineDriver(kind)
    driver.engine.set_flush_interval(1e9)
    key = driver.generate(1, 3, max_tokens=700, temperature=1.0)
    driver.generate(1, 3, max_tokens=650, seed=2)
    driver.drain()
    received = driver.received[key]
    assert received.event.length == len(received.ids)
    assert received.event.reason in ("end", "length")
    if kind == "language":
        assert received.ids == expected_ids(open_model("forced"), 1, 3, limit=700)


def test_a_plan_holds_until_a_request_comes_or_somebody_waits_for_the_device() -> None:
    """Between flushes, steps follow one another without a plan; the tokens are those of single steps."""
    driver = EngineDriver("forced")
    driver.engine.set_flush_interval(1e9)
    devices, seen, plans = driver.engine._device_scheduler, list[int](), 0
    granted_after = list[int]()

    def take() -> None:
        with devices.lease(DeviceAccount("other"), 0.0):
            granted_after.append(driver.runs)

    other = threading.Thread(target=take, daemon=True)

    def before(feeds: Any) -> None:
        seen.append(len(feeds["token"]))
        if driver.runs == 8:
            driver.generate(1, seed=2, max_tokens=3)
        elif driver.runs == 20:
            other.start()
            wait_until(lambda: devices.waiting() == 1, "the other to wait")

    driver.before_run = before
    first = driver.generate(1, max_tokens=60)
    while driver.has_work():
        driver.step()
        plans += 1
        if driver.runs > 20:
            other.join(PATIENCE_S)
    assert driver.received[first].ids == expected_ids(open_model("forced"), 1, limit=60)
    assert seen[7:11] == [1, 1, 2, 2], "who comes during a step is in the next one"
    assert granted_after == [21]
    assert plans <= 12, f"{plans} plans for {driver.runs} steps"


def test_attention_has_one_row_and_one_text_per_token() -> None:
    driver = EngineDriver("translator")
    driver.generate(3, 4, 5, max_tokens=6, attention=True)
    driver.drain()
    chunks = driver.received[1].chunks
    assert chunks
    for chunk in chunks:
        assert len(chunk.attention) == len(chunk.token_texts) == len(chunk.ids)
        assert all(row.shape == (3,) for row in chunk.attention)


# --- ends -------------------------------------------------------------------------------------------


def test_an_empty_prompt_starts_with_the_begin_id() -> None:
    driver = EngineDriver("language")
    keys = driver.generate(), driver.generate(1)
    driver.drain()
    assert driver.received[keys[0]].ids == driver.received[keys[1]].ids


def test_an_empty_source_is_rejected() -> None:
    driver = EngineDriver("translator")
    key = driver.generate()
    driver.drain()
    assert driver.received[key].code is ErrorCode.BAD_INPUT
    assert driver.received[key].event.error.field == "text"


def test_a_prompt_that_is_too_long_is_rejected_and_others_continue() -> None:
    driver = EngineDriver("language")
    good = driver.generate(1, 3)
    bad = driver.generate(*[3] * 65)
    driver.drain()
    assert driver.received[bad].code is ErrorCode.BAD_INPUT
    assert driver.received[good].ids == expected_ids(open_model("forced"), 1, 3)


def test_a_prompt_longer_than_the_cache_is_rejected() -> None:
    driver = EngineDriver("cache")
    key = driver.generate(*[3] * 50)
    driver.drain()
    assert driver.received[key].code is ErrorCode.BAD_INPUT


def test_max_tokens_0_ends_at_once() -> None:
    driver = EngineDriver("language")
    key = driver.generate(1, max_tokens=0)
    driver.drain()
    assert (driver.received[key].chunks, driver.received[key].event.reason) == ([], "length")


def test_a_deadline_ends_a_stream_between_steps_after_reporting_its_tokens() -> None:
    driver = EngineDriver("forced")
    driver.engine.set_flush_interval(1e9)
    key = driver.generate(1, deadline=0.0045, max_tokens=100)
    other = driver.generate(1, max_tokens=20)
    driver.drain()
    assert driver.received[key].code is ErrorCode.DEADLINE
    assert driver.received[key].ids == expected_ids(open_model("forced"), 1, limit=5)
    assert len(driver.received[other].ids) == 20


def test_a_request_cancelled_at_any_step_gets_no_more_output_and_frees_its_slot() -> None:
    for steps in range(6):
        driver = EngineDriver("language")
        cancelled_key, other = driver.generate(1, 2), driver.generate(1, 3)
        driver.step(steps)
        chunks_before = len(driver.received[cancelled_key].chunks)
        driver.engine.cancel(cancelled_key)
        driver.drain()
        assert (len(driver.received[cancelled_key].chunks), driver.received[cancelled_key].events) == (
            chunks_before,
            [],
        )
        assert driver.received[other].ids == expected_ids(open_model("forced"), 1, 3)
        assert driver.counts() == (0, 0, 0)


def test_timings_are_measured_with_the_engines_clock() -> None:
    driver = EngineDriver("forced")
    key = driver.generate(1, 2, 3, max_tokens=4)
    driver.now = 0.5
    driver.drain()
    timings = driver.received[key].event.timings
    assert timings.queue_s == pytest.approx(0.5)
    assert timings.first_token_s == pytest.approx(0.503)  # generated by the third step
    assert (timings.steps, timings.rows) == (6, 1.0)


# --- flow control -----------------------------------------------------------------------------------


def test_a_stream_out_of_credit_pauses_alone_and_resumes_where_it_stopped() -> None:
    driver = EngineDriver("language")
    slow = driver.generate(1, 3, max_tokens=100, seed=5, stop=("never generated",))
    for i in range(3):
        driver.generate(1, 4, max_tokens=80, seed=i)
    driver.drain()
    received = driver.received[slow]
    assert received.events == []
    assert len(received.chunks) == messages.STREAM_CREDITS
    assert {len(one.chunks) for one in driver.received.values()} == {messages.STREAM_CREDITS}
    for key in list(driver.received):
        if key != slow:
            driver.engine.credit(key, 1000)
    driver.drain()
    assert all(driver.received[key].event.reason == "length" for key in driver.received if key != slow)
    while not received.events:
        assert driver.counts() == (0, 0, 1)
        before = len(received.chunks)
        driver.engine.credit(slow, 3)
        driver.drain()
        assert len(received.chunks) <= before + 3 + 1  # the last chunk needs no credit
    assert received.ids == expected_ids(open_model("forced"), 1, 3, limit=100, seed=5)
    assert received.text == "".join(open_model("language").vocabulary.names(received.ids))


def test_a_paused_stream_generates_nothing_so_its_memory_is_bounded() -> None:
    driver = EngineDriver("language")
    key = driver.generate(1, 3, max_tokens=10_000)
    other = driver.generate(1, 4, max_tokens=600)
    driver.engine.credit(other, 10_000)
    driver.drain()
    assert len(driver.received[other].ids) == 600
    paused = driver.engine._scheduler._requests.get(key)
    assert isinstance(paused, GenerationSequence)
    assert paused.generated <= messages.STREAM_CREDITS + 2


def test_a_stream_not_read_for_stalled_s_is_ended_and_frees_its_slot() -> None:
    driver = EngineDriver("language", stalled_s=5.0)
    key = driver.generate(1, 3, max_tokens=100)
    driver.drain()
    driver.wait(4.9)
    assert driver.received[key].events == []
    driver.wait(0.2)
    assert driver.received[key].code is ErrorCode.SEQUENCE_LOST
    assert driver.counts() == (0, 0, 0)


def test_a_paused_stream_can_be_cancelled() -> None:
    driver = EngineDriver("language")
    key = driver.generate(1, 3, max_tokens=100)
    driver.drain()
    driver.engine.cancel(key)
    driver.engine.credit(key, 5)
    driver.drain()
    assert driver.received[key].events == []
    assert driver.counts() == (0, 0, 0)


# --- client sequences -------------------------------------------------------------------------------


def test_each_sequence_keeps_its_own_state() -> None:
    driver = EngineDriver("adder")
    expected_sums: dict[int, float] = {}
    for step in range(4):
        for sequence in range(5):
            key = driver.step_sequence(sequence + 1, 10.0**sequence, step, start=step == 0, end=step == 3)
            expected_sums[key] = (step + 1) * 10.0**sequence
    driver.drain()
    for key, expected in expected_sums.items():
        outputs = driver.received[key].event.outputs
        assert outputs is not None
        assert outputs["y"][0, 0] == expected
    assert driver.counts() == (0, 0, 0)
    assert pooled(driver) == 0


def pooled(driver: EngineDriver) -> int:
    """The number of client sequences whose states are kept."""
    assert driver.engine._client_states is not None
    return driver.engine._client_states.used


def test_only_requested_outputs_are_returned() -> None:
    driver = EngineDriver("adder")
    key = driver.step_sequence(1, 1, 2, start=True, outputs=("y",))
    driver.drain()
    assert list(driver.received[key].event.outputs or ()) == ["y"]


def test_only_the_step_that_breaks_a_run_fails_and_its_sequence_continues_unchanged() -> None:
    class Picky(FakeSession):
        output_names = open_model("adder").session.output_names

        def answer(self, feeds: dict[str, Array]) -> list[Array]:
            if (feeds["x"] == 13).any():
                raise RuntimeError("13")
            return open_model("adder").session.run(feeds)

    driver = EngineDriver("adder", Picky())
    first = [driver.step_sequence(i, i, i, start=True) for i in (1, 2, 3)]
    second = [driver.step_sequence(1, 1, 1), driver.step_sequence(2, 13, 13), driver.step_sequence(3, 3, 3)]
    third = [driver.step_sequence(i, i, i) for i in (1, 2, 3)]
    driver.drain()

    def y(key: int) -> float:
        outputs = driver.received[key].event.outputs
        assert outputs is not None
        return float(outputs["y"][0, 0])

    assert [y(key) for key in first] == [1, 2, 3]
    assert (y(second[0]), y(second[2])) == (2, 6)
    assert driver.received[second[1]].code is ErrorCode.FAILED
    assert [y(key) for key in third] == [3, 4, 9]


def test_a_client_sequence_with_a_cache_accepts_as_many_steps_as_the_manifest_allows() -> None:
    driver = EngineDriver("cache")
    for key in range(101, 146):
        driver.step_with("f", {"token": np.array([3])}, start=key == 101, key=key)
    driver.drain()
    assert [key for key, received in driver.received.items() if received.event.error is None] == list(
        range(101, 141)
    )
    assert driver.received[141].code is ErrorCode.BAD_INPUT


def test_an_idle_sequence_is_evicted_and_its_next_step_gets_an_error() -> None:
    driver = EngineDriver("adder")
    driver.step_sequence(1, 1, 1, start=True)
    driver.drain()
    assert pooled(driver) == 1
    driver.wait(61.0)
    assert pooled(driver) == 0
    key = driver.step_sequence(1, 1, 1)
    driver.drain()
    assert driver.received[key].code is ErrorCode.SEQUENCE_LOST


def test_generation_and_client_sequences_share_an_engine() -> None:
    """A language model that generates and is driven by a client at the same time."""
    driver = EngineDriver("forced")
    key = driver.generate(1, 3, max_tokens=20)
    h = c = np.zeros((1, 1, 16), np.float32)
    for i, token in enumerate((1, 5, 9)):
        driver.step_with("f", {"token": np.array([token])}, start=i == 0, key=100 + i)
        driver.step(2)
        expected, h, c = driver.model.session.run({"token": np.array([token]), "h_in": h, "c_in": c})
        outputs = driver.received[100 + i].event.outputs
        assert outputs is not None
        np.testing.assert_array_equal(outputs["logits"], expected)
    driver.drain()
    assert driver.received[key].ids == expected_ids(driver.model, 1, 3, limit=20)


# --- failures ---------------------------------------------------------------------------------------


class Poisoned(FakeSession):
    """A session that fails on a certain id."""

    def __init__(self, session: Any, name: str, poison: int) -> None:
        self._session, self._name, self._poison = session, name, poison
        self.output_names, self.encoder, self.state_graphs = session.output_names, None, session.state_graphs

    def answer(self, feeds: dict[str, Array]) -> list[Array]:
        if (feeds[self._name] == self._poison).any():
            raise RuntimeError("poisoned")
        return self._session.run(feeds)


class NotFinite(FakeSession):
    """A session whose output `name` is NaN in the second step."""

    def __init__(self, session: Any, name: str) -> None:
        self._session, self._name, self._steps = session, name, 0
        self.output_names, self.encoder, self.state_graphs = session.output_names, None, session.state_graphs

    def answer(self, feeds: dict[str, Array]) -> list[Array]:
        self._steps += 1
        outputs = self._session.run(feeds)
        if self._steps == 2:
            outputs[self.output_names.index(self._name)][:] = np.nan
        return outputs


def test_attention_that_is_not_finite_fails_the_stream_that_asked_for_it() -> None:
    model = open_model("translator")
    driver = EngineDriver("translator", NotFinite(model.session, model.spec.manifest.roles.attention))
    asked, other = driver.generate(3, 4, 5, max_tokens=6, attention=True), driver.generate(3, 4, max_tokens=6)
    driver.drain()
    assert driver.received[asked].code is ErrorCode.FAILED
    assert "NaN or infinite" in driver.received[asked].event.error.message
    assert driver.received[other].event.error is None
    assert driver.counts() == (0, 0, 0)


def test_a_step_that_is_read_by_role_fails_if_its_scores_are_not_finite() -> None:
    """The sequence goes on, and the tensor API gets what the graph returns."""
    scores = open_model("language").spec.manifest.roles.scores
    driver = EngineDriver("language", NotFinite(open_model("language").session, scores))
    inputs = {"token": np.array([1])}
    answers = []
    for start in (True, False, False):
        key = driver._send(
            messages.Step, sequence=1, inputs=inputs, start=start, outputs=(scores,), by_role=True
        )
        driver.drain()
        answers.append(driver.received[key])
    assert [answer.event.error is None for answer in answers] == [True, False, True]
    assert "NaN or infinite" in answers[1].event.error.message
    driver = EngineDriver("language", NotFinite(open_model("language").session, scores))
    for start in (True, False):
        key = driver._send(messages.Step, sequence=1, inputs=inputs, start=start, outputs=(scores,))
        driver.drain()
    outputs = driver.received[key].event.outputs
    assert outputs is not None
    assert np.isnan(outputs[scores]).all()


def test_only_the_prompt_that_breaks_the_prefill_fails() -> None:
    driver = EngineDriver(
        "language", prefill_session=Poisoned(open_model("language").prefill_session, "tokens", 9)
    )
    good, bad = [driver.generate(1, i) for i in (3, 4, 5)], driver.generate(1, 9)
    driver.drain()
    assert driver.received[bad].code is ErrorCode.FAILED
    assert [driver.received[key].ids for key in good] == [
        expected_ids(open_model("forced"), 1, i) for i in (3, 4, 5)
    ]
    assert driver.counts() == (0, 0, 0)


def test_a_token_that_breaks_the_step_fails_only_its_stream_after_reporting_its_tokens() -> None:
    driver = EngineDriver("forced", Poisoned(open_model("forced").session, "token", 9))
    keys = [driver.generate(1, seed=i, max_tokens=30) for i in range(8)]
    driver.drain()
    broken = 0
    for i, key in enumerate(keys):
        received, unpoisoned = driver.received[key], expected_ids(open_model("forced"), 1, seed=i, limit=30)
        if 9 in unpoisoned[:-1]:
            broken += 1
            assert received.code is ErrorCode.FAILED
            assert received.ids == unpoisoned[: unpoisoned.index(9) + 1]
        else:
            assert received.ids == unpoisoned
    assert 0 < broken < 8


def test_an_engine_whose_step_raises_fails_its_requests_and_keeps_serving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = EngineDriver("forced", own_sessions=True)
    key = driver.generate(1)
    driver.engine.start()
    driver.until(lambda: bool(driver.received[key].events))
    with monkeypatch.context() as patch:
        patch.setattr(StepBatches, "step", lambda *_: 1 / 0)
        lost = driver.generate(1)
        driver.until(lambda: bool(driver.received[lost].events))
    assert driver.received[lost].code is ErrorCode.FAILED
    again = driver.generate(1)
    driver.until(lambda: bool(driver.received[again].events))
    assert driver.received[again].ids == driver.received[key].ids
    driver.engine.stop(5.0)


def test_an_expired_request_gets_its_own_error_though_the_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = EngineDriver("forced", own_sessions=True)
    late = driver.generate(1, deadline=0.05, max_tokens=10**6)
    driver.engine.credit(late, 10**6)
    driver.step(3)
    driver.now = 1.0
    other = driver.generate(1)
    monkeypatch.setattr(StepBatches, "step", lambda *_: 1 / 0)
    driver.engine.start()
    driver.until(lambda: bool(driver.received[other].events))
    driver.engine.stop(5.0)
    assert driver.received[late].code is ErrorCode.DEADLINE


def test_an_empty_batch_does_not_run() -> None:
    driver = EngineDriver("forced")
    key = driver.generate(1)
    driver.step(3)
    driver.engine.cancel(key)
    driver.reports.clear()
    driver.drain()
    assert [run for report in driver.reports for run in report.runs] == []


# --- stopping ---------------------------------------------------------------------------------------


def test_stopping_ends_every_request_with_unavailable_exactly_once() -> None:
    driver = EngineDriver("language", own_sessions=True)
    keys = [driver.generate(1, 3, max_tokens=100_000, seed=i) for i in range(70)]  # more than slots
    for key in keys:
        driver.engine.credit(key, 10**6)
    paused = driver.generate(1, 3, max_tokens=100_000)
    driver.engine.start()
    driver.until(lambda: bool(driver.received[keys[0]].chunks))
    driver.engine.stop(0.0)
    assert {driver.received[key].code for key in (*keys, paused)} == {ErrorCode.UNAVAILABLE}
    wait_until(lambda: driver.engine._threads.alive() == 0, "the thread has ended")


def test_a_request_after_the_stop_gets_unavailable() -> None:
    driver = EngineDriver("forced", own_sessions=True)
    driver.engine.start()
    driver.engine.stop(0.0)
    key = driver.generate(1)
    assert driver.received[key].code is ErrorCode.UNAVAILABLE


def test_stopping_lets_requests_finish_within_the_grace_period() -> None:
    driver = EngineDriver("language", own_sessions=True)
    key = driver.generate(1, 3, max_tokens=30)
    driver.engine.start()
    driver.engine.stop(30.0)
    assert driver.received[key].event.reason == "length"


def test_no_new_sequence_is_accepted_while_closing() -> None:
    driver = EngineDriver("adder", own_sessions=True)
    driver.engine.stop(0.0)
    key = driver.step_sequence(1, 1, 1, start=True)
    driver.step()
    assert driver.received[key].code is ErrorCode.UNAVAILABLE


@settings(max_examples=25)
@given(data=st.data())
def test_every_request_ends_exactly_once_or_is_cancelled(data: Any) -> None:
    driver = EngineDriver("forced", stalled_s=1.0)
    cancelled: set[int] = set()
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(
            st.sampled_from(["generate", "generate", "step", "cancel", "credit", "wait", "flush interval"])
        ):
            case "generate":
                deadline = data.draw(st.sampled_from([None, None, 0.003, 0.02]))
                driver.generate(
                    *data.draw(st.lists(st.integers(1, 20), max_size=4)),
                    max_tokens=data.draw(st.sampled_from([0, 1, 5, 60])),
                    deadline=None if deadline is None else driver.now + deadline,
                )
            case "cancel" if driver.received:
                key = data.draw(st.sampled_from(sorted(driver.received)))
                if not driver.received[key].events:
                    cancelled.add(key)
                driver.engine.cancel(key)
            case "credit" if driver.received:
                driver.engine.credit(data.draw(st.sampled_from(sorted(driver.received))), 5)
            case "wait":
                driver.wait(data.draw(st.sampled_from([0.01, 0.5])))
            case "flush interval":
                driver.engine.set_flush_interval(data.draw(st.sampled_from([0.0, 0.01])))
            case _:
                driver.step(data.draw(st.integers(1, 8)))
    driver.drain()
    driver.wait(2.0)  # streams that are still not read are ended
    driver.drain()
    for key, received in driver.received.items():
        assert len(received.events) <= 1
        assert received.events or key in cancelled
    assert driver.counts() == (0, 0, 0)
    assert len(driver.engine._batches) == 0


# --- leaks ------------------------------------------------------------------------------------------


def count_sequences() -> int:
    gc.collect()
    return sum(type(one) in (GenerationSequence, ClientSequence) for one in gc.get_objects())


def cancel_many(driver: EngineDriver, count: int) -> None:
    """Cancel streams at every stage: waiting, prefilled, stepping, paused."""
    for i in range(count):
        key = driver.generate(1, 2 + i % 9, seed=i, max_tokens=200)
        driver.step(i % 3)
        if i % 50 == 0:
            driver.step(40)  # beyond its credit
        driver.engine.cancel(key)
        del driver.received[key]
        driver.reports.clear()
    driver.drain()


def check_nothing_leaks(driver: EngineDriver) -> None:
    """1,000 cancelled streams leave the numbers of slots, batches and objects and the memory unchanged."""
    cancel_many(driver, 100)
    objects = count_sequences()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cancel_many(driver, 1000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert count_sequences() <= objects + 10
    assert grown < 200_000
    assert len(driver.engine._batches) == 0
    assert driver.counts() == (0, 0, 0)
    slots = driver.model.spec.manifest.stepwise.max_sequences
    for _ in range(slots):
        driver.generate(1)
    driver.step()
    assert driver.counts() == (slots, 0, 0)


def test_a_thousand_cancelled_streams_leak_nothing() -> None:
    check_nothing_leaks(EngineDriver("forced"))


def never_removed(scheduler: Scheduler, key: int) -> None:
    """A `cancel` that frees the slot, but leaves the sequence in its row."""
    request = scheduler._requests.pop(key)
    if isinstance(request, GenerationSequence):
        scheduler.generation.remove(request)


def never_freed(scheduler: Scheduler, key: int) -> None:
    """A `cancel` that frees the row, but not the slot."""
    request = scheduler._requests.pop(key)
    if isinstance(request, GenerationSequence) and request.has_slot:
        scheduler.generation._running.pop(request, None)
        scheduler.generation._cancelled.append(request)


@pytest.mark.parametrize("leak", [never_removed, never_freed])
def test_the_leak_check_detects_leaks(monkeypatch: pytest.MonkeyPatch, leak: Any) -> None:
    monkeypatch.setattr(Scheduler, "cancel", leak)
    driver = EngineDriver("forced")
    with pytest.raises((AssertionError, KeyError)):
        check_nothing_leaks(driver)


def test_a_sequence_whose_states_find_no_room_is_refused_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = EngineDriver("language")
    running = driver.generate(1, 3)
    driver.step(3)

    def write(*_: Any) -> None:
        raise overloaded("no memory; retry after 1 s", 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(StateBlock, "write", write)
        refused = [driver.generate(1, 4), driver.generate(1, 5, beams=3)]
        driver.step(2)
    later = driver.generate(1, 6)
    driver.drain()
    assert [driver.received[key].code for key in refused] == [ErrorCode.OVERLOADED] * 2
    assert driver.received[running].ids == expected_ids(open_model("forced"), 1, 3)
    assert driver.received[later].ids == expected_ids(open_model("forced"), 1, 6)
    assert driver.counts() == (0, 0, 0)


def test_text_that_cannot_be_made_ends_its_own_sequence_only() -> None:
    driver = EngineDriver("forced")
    broken, whole = driver.generate(1, 3, max_tokens=9), driver.generate(1, 3, max_tokens=9)
    driver.step()

    class BrokenText:
        stopped = False

        def add(self, ids: Any) -> str:
            raise ValueError("a decoder's error")

        finish = add

    (sequence,) = (one for batch in driver.engine._batches for one in batch.row_of if one.key == broken)
    sequence.text = BrokenText()  # type: ignore[assignment]
    driver.drain()
    assert driver.received[broken].code is ErrorCode.FAILED
    assert len(driver.received[broken].events) == 1
    assert driver.received[whole].event.reason == "length"


def test_a_stop_string_that_ends_with_the_last_allowed_token_is_the_reason() -> None:
    driver = EngineDriver("forced")
    key = driver.generate(1, 3, max_tokens=6)
    driver.drain()
    text = driver.received[key].text
    stopped = driver.generate(1, 3, max_tokens=6, stop=(text[-2:],))
    driver.drain()
    assert driver.received[stopped].event.reason == "stop"
    assert driver.received[stopped].text == text[:-2]

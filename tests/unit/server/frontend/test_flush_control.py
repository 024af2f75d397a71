"""The flush interval: 0 on a lightly loaded server, longer as messages age, up to a maximum."""

from __future__ import annotations

from itertools import pairwise

from lockstep_server import messages
from lockstep_server.frontend.flush_control import FlushController

MAX_S = 0.02


class Recorder:
    """A FlushController whose messages are kept."""

    def __init__(self, max_s: float = MAX_S) -> None:
        self.messages: list[messages.Message] = []
        self.flush_control = FlushController(self.messages.append, max_s)

    def after(self, age_s: float, times: int = 1000) -> list[float]:
        """The intervals sent while `times` messages are written at this age."""
        before = len(self.messages)
        for _ in range(times):
            self.flush_control.record_written(age_s)
        assert all(isinstance(one, messages.SetFlushInterval) for one in self.messages)
        return [one.flush_s for one in self.messages[before:]]


def test_young_messages_keep_the_interval_at_zero() -> None:
    assert Recorder().after(0.0002) == []


def test_the_interval_grows_with_the_age() -> None:
    recorder = Recorder()
    some = recorder.after(0.001)[-1]
    more = recorder.after(0.0015)[-1]
    assert 0 < some < more < MAX_S


def test_the_interval_is_bounded() -> None:
    recorder = Recorder()
    assert max(recorder.after(60.0)) == MAX_S
    assert recorder.after(60.0) == []


def test_one_old_message_changes_the_interval_little() -> None:
    recorder = Recorder()
    recorder.after(0.0001)
    assert all(flush_s < MAX_S / 2 for flush_s in recorder.after(60.0, times=1))


def test_the_interval_returns_to_zero_when_messages_are_young_again() -> None:
    recorder = Recorder()
    recorder.after(0.005)
    assert recorder.after(0.0001)[-1] == 0


def test_an_interval_is_sent_only_if_it_changed_enough() -> None:
    recorder = Recorder()
    steps = recorder.after(0.0015)
    assert 1 <= len(steps) < 20
    assert all(new > old * 1.2 for old, new in pairwise(steps))
    assert recorder.after(0.0015) == []
    assert recorder.after(0.0016) == []


def test_a_maximum_of_zero_keeps_the_interval_at_zero() -> None:
    assert set(Recorder(0.0).after(1.0)) <= {0.0}

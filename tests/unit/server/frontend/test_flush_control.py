"""How long chunks are held back: not at all on a quiet server, longer as messages age, within a bound."""

from __future__ import annotations

from itertools import pairwise

from lockstep_server import messages
from lockstep_server.frontend.flush_control import FlushController

LONGEST_S = 0.02


class Told:
    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self.messages: list[messages.Message] = []
        self.flush_control = FlushController(self.messages.append, longest_s)

    def after(self, age_s: float, times: int = 1000) -> list[float]:
        """What is told while so many messages are that old when they are written."""
        before = len(self.messages)
        for _ in range(times):
            self.flush_control.wrote(age_s)
        assert all(isinstance(one, messages.SetFlushInterval) for one in self.messages)
        return [one.flush_s for one in self.messages[before:]]  # type: ignore[union-attr]


def test_young_messages_are_not_held_back() -> None:
    assert Told().after(0.0002) == []


def test_the_interval_grows_with_the_age() -> None:
    told = Told()
    some = told.after(0.001)[-1]
    more = told.after(0.0015)[-1]
    assert 0 < some < more < LONGEST_S


def test_the_interval_is_bounded() -> None:
    told = Told()
    assert max(told.after(60.0)) == LONGEST_S
    assert told.after(60.0) == []


def test_one_old_message_among_young_ones_changes_little() -> None:
    told = Told()
    told.after(0.0001)
    assert all(flush_s < LONGEST_S / 2 for flush_s in told.after(60.0, times=1))


def test_once_messages_are_young_again_nothing_is_held_back() -> None:
    told = Told()
    told.after(0.005)
    assert told.after(0.0001)[-1] == 0


def test_it_is_told_only_when_it_has_changed_enough() -> None:
    told = Told()
    steps = told.after(0.0015)
    assert 1 <= len(steps) < 20
    assert all(new > old * 1.2 for old, new in pairwise(steps))
    assert told.after(0.0015) == []
    assert told.after(0.0016) == []


def test_with_no_interval_allowed_nothing_is_ever_held_back() -> None:
    assert set(Told(0.0).after(1.0)) <= {0.0}

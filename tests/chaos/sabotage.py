"""Negative controls: faults that are put into a recorded history, and what the validator must call each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from .history import End, Level, Reply, Sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from .history import Event, History


def lost_reply(history: History) -> History:
    """The end of a request is missing."""
    victim = _answered(history)[0]
    return _with(history, [one for one in history.events if not (isinstance(one, End) and one.key == victim)])


def swapped_rows(history: History) -> History:
    """Two requests of one model got one another's answers, as if rows of a run were mixed up."""
    expected = {one.key: one for one in history.events if isinstance(one, Sent)}
    groups = defaultdict(list)
    for key in _answered(history):
        groups[expected[key].rpc, expected[key].model].append(key)
    one, other = next(
        (key, other)
        for keys in groups.values()
        for key in keys
        for other in keys
        if expected[key].expected != expected[other].expected
    )
    swap = {one: other, other: one}
    return _with(
        history,
        [e._replace(key=swap.get(e.key, e.key)) if isinstance(e, Reply) else e for e in history.events],
    )


def cut_answer(history: History) -> History:
    """A request ended OK with a part of its answer missing."""
    victim = _answered(history)[0]
    return _with(
        history,
        [
            one._replace(parts=one.parts[:-1]) if isinstance(one, Reply) and one.key == victim else one
            for one in history.events
        ],
    )


def double_end(history: History) -> History:
    """A request ended twice."""
    victim = _answered(history)[0]
    again = next(one for one in history.events if isinstance(one, End) and one.key == victim)
    return _with(history, [*history.events, again])


def late_reply(history: History) -> History:
    """A request got a reply after its end."""
    victim = _answered(history)[0]
    return _with(history, [*history.events, Reply(history.events[-1].at, victim, ("more",))])


def unasked_reply(history: History) -> History:
    """A reply to nobody."""
    return _with(history, [*history.events, Reply(0.0, -1, ("hello",))])


def strange_status(history: History) -> History:
    """A request ended with a status that nothing explains."""
    victim = _answered(history)[0]
    return _with(
        history,
        [
            one._replace(status="UNKNOWN") if isinstance(one, End) and one.key == victim else one
            for one in history.events
            if not (isinstance(one, Reply) and one.key == victim)
        ],
    )


def leaked_slot(history: History) -> History:
    """A sequence was left in its slot."""
    return replace(history, levels=[*history.levels, Level("running sequences", 0.0, 1.0)])


def lost_count(history: History) -> History:
    """The server accepted a request whose end it did not count."""
    before, after = history.counted or ({}, {})
    name = ("lockstep_accepted_total", (("model", "lost"),))
    return replace(history, counted=(before, {**after, name: 1.0}))


def wrong_count(history: History) -> History:
    """The server counted an answered call that nobody made."""
    before, after = history.counted or ({}, {})
    rpc = next(one.rpc for one in history.events if isinstance(one, Sent) and one.is_call)
    started = ("grpc_server_started_total", (("grpc_method", rpc),))
    handled = ("grpc_server_handled_total", (("grpc_code", "OK"), ("grpc_method", rpc)))
    return replace(history, counted=(before, {**after, started: 1e6, handled: 1e6}))


CONTROLS: dict[str, tuple[Callable[[History], History], str]] = {
    "lost reply": (lost_reply, "lost"),
    "swapped rows": (swapped_rows, "crossed"),
    "cut answer": (cut_answer, "wrong answer"),
    "double end": (double_end, "double end"),
    "late reply": (late_reply, "after the end"),
    "unasked reply": (unasked_reply, "unasked"),
    "strange status": (strange_status, "status"),
    "leaked slot": (leaked_slot, "leak"),
    "lost count": (lost_count, "counter"),
    "wrong count": (wrong_count, "counter"),
}


def _answered(history: History) -> list[int]:
    """Requests that were answered with something, and whose answer no other request expects."""
    replied = {one.key for one in history.events if isinstance(one, Reply) and one.parts}
    ended = {one.key for one in history.events if isinstance(one, End) and one.status == "OK"}
    shared: dict[object, int] = defaultdict(int)
    sent = [one for one in history.events if isinstance(one, Sent) and one.expected]
    for one in sent:
        shared[one.expected] += 1
    return [one.key for one in sent if one.key in replied & ended and shared[one.expected] == 1]


def _with(history: History, events: list[Event]) -> History:
    return replace(history, events=events)

"""What is done to a fleet under load, and what must not happen meanwhile."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patience import wait_until

from lockstep_client import errors

if TYPE_CHECKING:
    from .load import Call, History
    from .processes import Fleet


@dataclass(frozen=True)
class Disturbance:
    """A server was disturbed at `began`, HAProxy took it out at `out`, and it took calls again at `back`."""

    server: str
    began: float
    out: float
    back: float = float("inf")


def _prepare(fleet: Fleet, history: History, server: str) -> int:
    """Wait until the server has calls of each kind. Returns how often it was down."""
    history.wait_answer(server)
    wait_until(lambda: bool(history.open_streams(server)), f"a stream on {server}")
    return fleet.reports(server, "DOWN")


def _wait_down(fleet: Fleet, server: str, before: int) -> float:
    wait_until(lambda: fleet.reports(server, "DOWN") > before, f"HAProxy to take {server} out")
    return time.monotonic()


def restart(fleet: Fleet, history: History, server: str) -> Disturbance:
    """Stop a server by SIGTERM and start it again.

    Raises:
        AssertionError: its exit code is not 0.
    """
    before = _prepare(fleet, history, server)
    began = time.monotonic()
    assert fleet.stop(server) == 0
    out = _wait_down(fleet, server, before)
    fleet.start(server)
    history.wait_answer(server)
    return Disturbance(server, began, out, time.monotonic())


def stall(fleet: Fleet, history: History, server: str) -> Disturbance:
    """Stop all processes of a server by SIGSTOP, and let them go on once it is out."""
    before = _prepare(fleet, history, server)
    began = time.monotonic()
    fleet.signal(server, signal.SIGSTOP)
    out = _wait_down(fleet, server, before)
    others = [name for name in fleet.servers if name != server]
    for other in others:  # calls go on
        history.wait_answer(other)
    fleet.signal(server, signal.SIGCONT)
    history.wait_answer(server)
    return Disturbance(server, began, out, time.monotonic())


def kill(fleet: Fleet, history: History, server: str) -> Disturbance:
    """Kill all processes of a server, and start it again."""
    before = _prepare(fleet, history, server)
    began = time.monotonic()
    fleet.signal(server, signal.SIGKILL)
    out = _wait_down(fleet, server, before)
    for other in fleet.servers:
        if other != server:
            history.wait_answer(other)
    return Disturbance(server, began, out)


def lost_by_restart(history: History) -> list[Call]:
    """The calls that a rolling restart must not fail: none at all. Sequences move to peers."""
    return [call for call in history.calls if call.failed]


def lost_by_failure(history: History, failure: Disturbance) -> list[Call]:
    """The calls that a failed server must not fail, or must fail in another way. What it held is UNAVAILABLE;
    its sequences are lost."""
    return [
        call
        for call in history.calls
        if call.failed
        and not (call.kind == "step" and _on(call, [failure]))
        and not (
            call.server in ("", failure.server)
            and call.began <= failure.out
            and call.ended >= failure.began
            and isinstance(call.error, errors.Unavailable)
        )
    ]


def _on(call: Call, disturbances: list[Disturbance]) -> bool:
    """Whether a step failed that went to a disturbed server, or to another one because of it."""
    return any(
        call.server in ("", one.server) and call.ended >= one.began and call.began <= one.back
        for one in disturbances
    )

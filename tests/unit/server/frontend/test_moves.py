"""A sequence that moves is live on one server at most, and lost only with a server that may have had it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lockstep_server.frontend import moves
from lockstep_server.frontend.moves import Hold, Holds, HoldState, Move, MoveState

if TYPE_CHECKING:
    import pytest

_HOLD_S = 10.0
SERVERS = ("a", "b", "c")


@dataclass
class Server:
    """A server of the model: its copy of the sequence, as the number of its steps, and its side of moves."""

    name: str
    life: int = 0
    copy: int | None = None
    move: Move | None = None
    taker: str = ""
    clock: float = 0.0
    holds: Holds[int] = field(default_factory=lambda: Holds(_HOLD_S, 4))

    @property
    def incarnation(self) -> str:
        return f"{self.name}{self.life}"

    @property
    def live(self) -> bool:
        return self.copy is not None and self.move is None

    def crash(self) -> None:
        self.life += 1
        self.copy = self.move = None
        self.holds = Holds(_HOLD_S, 4)


class Moves(RuleBasedStateMachine):
    """Messages between three servers are lost, doubled and late, clocks differ, and servers crash."""

    def __init__(self) -> None:
        super().__init__()
        self.servers = {name: Server(name) for name in SERVERS}
        self.servers["a"].copy = 0
        self.steps = 0
        self.may_be_lost = False
        self.sent: list[tuple[str, str, str, Any]] = []  # from, to, kind, content

    # --- what callers and operators do ----------------------------------------------------------------

    @rule(name=st.sampled_from(SERVERS))
    def step(self, name: str) -> None:
        server = self.servers[name]
        if server.live:
            assert server.copy is not None
            server.copy += 1
            self.steps += 1

    @rule(name=st.sampled_from(SERVERS), to=st.sampled_from(SERVERS))
    def begin(self, name: str, to: str) -> None:
        server = self.servers[name]
        if server.live and name != to:
            server.move, server.taker = Move(), to
            self.sent.append((name, to, "offer", (server.life, server.copy)))

    @rule(name=st.sampled_from(SERVERS), passes=st.floats(0, 2 * _HOLD_S))
    def wait(self, name: str, passes: float) -> None:
        self.servers[name].clock += passes

    @rule(name=st.sampled_from(SERVERS))
    def crash(self, name: str) -> None:
        # Its copy is lost; and so is one that it made live, if it did so and nobody has heard of it.
        server = self.servers[name]
        if server.copy is not None or any(
            one.move is not None and one.move.state is MoveState.CONFIRMING and one.taker == name
            for one in self.servers.values()
        ):
            self.may_be_lost = True
        server.crash()

    @precondition(lambda self: any(one.live for one in self.servers.values()))
    @rule(to=st.sampled_from(SERVERS), steps=st.booleans())
    def move_without_an_answer(self, to: str, steps: bool) -> None:
        """All of a move, but that the holder hears of its end."""
        server = next(one for one in self.servers.values() if one.live)
        if server.name == to:
            return
        self.begin(server.name, to)
        self._offer(server, self.servers[to], *self.sent.pop()[3])
        if self.sent and self.sent[-1][2] == "held":
            self._held(self.servers[to], server, *self.sent.pop()[3])
            assert server.move is not None
            assert server.move.hold is not None
            self._confirm(server, self.servers[to], server.life, server.move.hold)
            if steps:
                self.step(to)

    @rule()
    def crash_a_taker(self) -> None:
        for server in self.servers.values():
            if server.move is not None and server.move.state is MoveState.CONFIRMING:
                self.crash(server.taker)

    # --- the holder -----------------------------------------------------------------------------------

    @rule(name=st.sampled_from(SERVERS))
    def give_offer_up(self, name: str) -> None:
        """No answer came in time."""
        server = self.servers[name]
        if server.move is not None and server.move.state is MoveState.OFFERED:
            server.move.not_held()
            self._end_move(server)

    @rule(name=st.sampled_from(SERVERS))
    def ask(self, name: str) -> None:
        server = self.servers[name]
        if server.move is not None and server.move.state is MoveState.CONFIRMING:
            self.sent.append((name, server.taker, "confirm", (server.life, server.move.hold)))

    def _end_move(self, server: Server) -> None:
        assert server.move is not None
        if server.move.state in (MoveState.MOVED, MoveState.LOST):
            server.copy = server.move = None
        elif server.move.state is MoveState.STAYS:
            server.move = None

    # --- the network ----------------------------------------------------------------------------------

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), keep=st.booleans(), lose=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool, lose: bool) -> None:
        at = data.draw(st.integers(0, len(self.sent) - 1))
        sender, receiver, kind, content = self.sent[at] if keep else self.sent.pop(at)
        if not lose:
            getattr(self, f"_{kind}")(self.servers[sender], self.servers[receiver], *content)

    def _offer(self, holder: Server, taker: Server, life: int, steps: int) -> None:
        number = taker.holds.hold(steps, taker.clock)
        if number is not None:
            hold = Hold(taker.incarnation, number)
            self.sent.append((taker.name, holder.name, "held", (life, hold)))

    def _held(self, taker: Server, holder: Server, life: int, hold: Hold) -> None:
        move = holder.move
        is_asked = (holder.life, holder.taker) == (life, taker.name)
        if is_asked and move is not None and move.state is MoveState.OFFERED:
            move.held(hold)

    def _confirm(self, holder: Server, taker: Server, life: int, hold: Hold) -> None:
        state = HoldState.GONE
        if hold.incarnation == taker.incarnation:
            state, steps = taker.holds.confirm(hold.number, taker.clock)
            if steps is not None:
                can = taker.copy is None
                if can:
                    taker.copy = steps
                state = taker.holds.settle(hold.number, live=can)
        answer = (life, hold, taker.incarnation, state)
        self.sent.append((taker.name, holder.name, "answer", answer))

    def _answer(
        self, taker: Server, holder: Server, life: int, hold: Hold, incarnation: str, state: HoldState
    ) -> None:
        if holder.life == life and holder.move is not None and holder.move.hold == hold:
            holder.move.answered(incarnation, state)
            self._end_move(holder)

    # --- promises -------------------------------------------------------------------------------------

    @invariant()
    def one_is_live(self) -> None:
        assert sum(one.live for one in self.servers.values()) <= 1

    @invariant()
    def no_step_is_forgotten(self) -> None:
        assert all(one.copy == self.steps for one in self.servers.values() if one.live)

    @invariant()
    def none_is_lost_but_with_its_server(self) -> None:
        assert self.may_be_lost or any(one.copy is not None for one in self.servers.values())

    def teardown(self) -> None:
        """Once messages arrive again, each move comes to an end."""
        for _ in range(8):
            for server in self.servers.values():
                self.give_offer_up(server.name)
                if server.move is not None and server.move.state is MoveState.CONFIRMING:
                    self._confirm(server, self.servers[server.taker], server.life, server.move.hold)  # type: ignore[arg-type]
                    sender, receiver, _, content = self.sent.pop()
                    self._answer(self.servers[sender], self.servers[receiver], *content)
        assert all(one.move is None for one in self.servers.values())
        self.no_step_is_forgotten()
        assert self.may_be_lost or sum(one.live for one in self.servers.values()) == 1


Moves.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMoves = Moves.TestCase


def test_a_hold_ends_by_itself_and_is_never_live_then() -> None:
    holds: Holds[str] = Holds(_HOLD_S, 4)
    number = holds.hold("state", 0.0)
    assert number is not None
    assert holds.confirm(number, _HOLD_S) == (HoldState.GONE, None)
    assert len(holds) == 0


def test_a_confirm_that_is_doubled_activates_once() -> None:
    holds: Holds[str] = Holds(_HOLD_S, 4)
    number = holds.hold("state", 0.0)
    assert number is not None
    assert holds.confirm(number, 1.0) == (HoldState.ACTIVATING, "state")
    assert holds.confirm(number, 1.0) == (HoldState.ACTIVATING, None)
    holds.settle(number, live=True)
    assert holds.confirm(number, 100.0) == (HoldState.LIVE, None)


def test_no_more_states_are_held_than_allowed() -> None:
    holds: Holds[str] = Holds(_HOLD_S, 2)
    assert [holds.hold("state", 0.0) for _ in range(3)] == [1, 2, None]
    assert holds.hold("state", _HOLD_S) == 3


def test_what_is_forgotten_is_unknown_and_never_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "_REMEMBERED", 2)
    holds: Holds[str] = Holds(_HOLD_S, 4)
    for number in range(1, 4):
        assert holds.hold("state", 0.0) == number
        holds.confirm(number, 0.0)
        holds.settle(number, live=True)
    assert holds.confirm(1, 0.0) == (HoldState.UNKNOWN, None)
    move = Move()
    move.held(Hold("a", 1))
    move.answered("a", HoldState.UNKNOWN)
    assert move.state is MoveState.LOST


def test_a_taker_of_another_start_cannot_say_that_a_sequence_stays() -> None:
    move = Move()
    move.held(Hold("a", 1))
    move.answered("b", HoldState.GONE)
    assert move.state is MoveState.LOST

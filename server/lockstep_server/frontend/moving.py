"""Moves live sequences to other servers, and takes theirs.

give: freeze → offer to the first peer that takes it → confirm until it is known what became of it → thaw
take: an offer is held → a confirm makes it live, once
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import messages
from ..errors import ErrorCode, ServingError, moved
from .moves import Hold, Holds, HoldState, Move, MoveState
from .peers import ConfirmAnswer, OfferAnswer, PeerError, PullAnswer, PullResult, ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ..metrics.families import Metrics
    from .peers import Peer, Peers
    from .registry import ModelRegistry
    from .sequence_states import SequenceStates
    from .served_model import ServedModel

log = logging.getLogger(__name__)

HOLD_S = 10.0
"""How long a state that a peer has offered is kept without a confirm."""

_MOST_HELD = 64
_AT_A_TIME = 8
"""Sequences that a server moves at the same time when it stops."""

_LAST_PART, _LAST_S = 4, 10.0
"""Texts that have not ended are moved in the last quarter of the drain, and in the last seconds at most."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Between two questions what became of a hold."""

_RESULTS = {MoveState.MOVED: "out", MoveState.STAYS: "refused", MoveState.LOST: "lost"}


class _Held(NamedTuple):
    put: messages.PutSequence
    served: ServedModel


class Mover:
    """Event loop only.

    Args:
        report: called with each sequence that this front end has moved, if there are others.
        names: whether callers have names, which their sequence ids belong to.
        streams: those that step a sequence, by its id: each is called when the sequence has moved.
    """

    def __init__(
        self,
        peers: Peers,
        states: SequenceStates,
        registry: ModelRegistry,
        metrics: Metrics,
        streams: Mapping[messages.SequenceId, Callable[[ServingError], None]],
        *,
        names: bool,
        report: Callable[[messages.SequenceMoved], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states, self._registry, self._metrics = states, registry, metrics
        self._streams, self._names, self._clock = streams, names, clock
        self.peers, self._report = peers, report
        self.draining = False
        self.sequences_moved = asyncio.Event()  # those that callers drive, as far as peers take them
        self._tasks: set[asyncio.Task[Any]] = set()
        self.engine_lost()

    def engine_lost(self) -> None:
        """The engine has ended with all that it held."""
        self.incarnation = secrets.token_hex(8)
        self._holds: Holds[_Held] = Holds(HOLD_S, _MOST_HELD)
        self._refusals: dict[int, str] = {}

    def models_changed(self) -> None:
        """Count from 0 for each model: of a counter that begins with 1, a rate does not see the first."""
        for served in self._registry.served_models():
            if served.spec.is_stepwise:
                for result in ("in", *_RESULTS.values()):
                    self._metrics.moves.labels(served.spec.model, result)

    # --- take -----------------------------------------------------------------------------------------

    def offered(self, put: messages.PutSequence, served: ServedModel) -> OfferAnswer:
        """Hold the state of a sequence."""
        if self.draining:
            return OfferAnswer(self.incarnation, refusal="it is stopping")
        number = self._holds.hold(_Held(put, served), self._clock())
        if number is None:
            return OfferAnswer(self.incarnation, refusal=f"it holds {_MOST_HELD} states already")
        return OfferAnswer(self.incarnation, number)

    async def confirmed(self, number: int) -> ConfirmAnswer:
        """Make the sequence of a hold live, if it is not and can be."""
        incarnation, refusals = self.incarnation, self._refusals
        state, held = self._holds.confirm(number, self._clock())
        if held is not None:  # in a task of its own: the call may be cancelled
            task = asyncio.ensure_future(self._activate(number, held))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            state = await asyncio.shield(task)
        return ConfirmAnswer(incarnation, state, refusals.pop(number, ""))

    async def _activate(self, number: int, held: _Held) -> HoldState:
        holds, refusals, model = self._holds, self._refusals, held.served.spec.model
        try:
            if self.draining:
                raise ServingError(ErrorCode.UNAVAILABLE, "it is stopping")
            await self._states.put(held.put)
        except Exception as error:
            if not isinstance(error, ServingError):
                log.exception("%s: taking a sequence failed", model)
            refusals[number] = str(error)
            return holds.settle(number, live=False)
        if held.put.state.generation is None:
            held.served.sequence_put(held.put.sequence)
        self._count(model, "in")
        return holds.settle(number, live=True)

    # --- give -----------------------------------------------------------------------------------------

    async def pulled(self, to: str, model: str, sequence: messages.SequenceId) -> PullAnswer:
        """Move a sequence to the server of this name, if it is here."""
        result, why = PullResult.STAYS, "the server that asks is none of its --peers"
        peer = await self._peer_of(to)
        if peer is not None:
            try:
                served = await self._served(model, sequence)
                live = messages.LiveSequence(model, served.spec.version, sequence)
                state, why = await self.give(live, [peer])
                result = PullResult.MOVED if state is MoveState.MOVED else PullResult.STAYS
            except ServingError as error:
                result, why = _not_pulled(error), error.message
        return PullAnswer(self.incarnation, result, why)

    async def _peer_of(self, server: str) -> Peer | None:
        for again in (False, True):
            for peer in await self.peers.current(again=again):
                if peer.server == server:
                    return peer
        return None

    async def _served(self, model: str, sequence: messages.SequenceId) -> ServedModel:
        """The model version that a sequence of a caller's is on, if it is here.

        Raises:
            ServingError: as `ModelRegistry.resolve`.
        """
        await self._registry.locate(model, sequence)
        return self._registry.resolve_step(model, "", sequence, start=False)

    async def has(self, model: str, sequence: messages.SequenceId) -> bool:
        """Whether a sequence of a caller's is live here. It may have come since the engine refused a step: a
        peer that stops has moved it here, or another front end has found it."""
        try:
            version = (await self._served(model, sequence)).spec.version
            await self._states.get(model=model, version=version, sequence=sequence)
        except ServingError:
            return False
        return True

    async def give(
        self, live: messages.LiveSequence, takers: Sequence[Peer] | None = None
    ) -> tuple[MoveState, str]:
        """Move a live sequence to the first of the peers that takes it.

        Args:
            takers: None: all peers, in the order of `ranked`.

        Returns:
            What became of it, and why it was not moved.

        Raises:
            ServingError: SEQUENCE_LOST, it is not live; UNAVAILABLE, it was moved, is being moved, or has not
                begun.
        """
        task = asyncio.ensure_future(self._give(live, takers))  # it ends, although the caller may not wait
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _give(
        self, live: messages.LiveSequence, takers: Sequence[Peer] | None
    ) -> tuple[MoveState, str]:
        named: dict[str, Any] = {"stream": live.stream} if live.stream else {"sequence": live.sequence}
        answer = await self._states.freeze(model=live.model, version=live.version, **named)
        assert answer.state is not None
        end, is_known = dict[str, str](), True
        try:
            served = self._registry.get(live.model, live.version)
            if served is None or served.spec.files != answer.files:
                return MoveState.STAYS, "its model was loaded again"
            sequence, resumes = self._id_there(live.sequence, answer.state)
            state, why = MoveState.STAYS, "no peer is there"
            for peer in takers if takers is not None else ranked(await self.peers.current(), sequence):
                state, why = await self._move(peer, served, sequence, answer.state)
                if state is not MoveState.STAYS:
                    end = {"lost": why} if state is MoveState.LOST else {"moved_to": peer.address}
                    break
                log.info("peer %s does not take a sequence of %s: %s", peer.address, live.model, why)
            if state is MoveState.MOVED:
                end["resumes"] = resumes
                gone = messages.SequenceMoved(live.model, live.version, live.sequence, **end)
                self.left(gone)
                if self._report is not None:
                    self._report(gone)
            self._count(served.spec.model, _RESULTS[state])
            return state, why
        except asyncio.CancelledError:  # the server ends
            is_known = False  # a peer may have it
            raise
        finally:
            if is_known:
                self._states.thaw(answer.key, **end)

    def left(self, gone: messages.SequenceMoved) -> None:
        """Another server has a sequence now: end the stream that steps it, if it is one of this front end."""
        if (served := self._registry.get(gone.model, gone.version)) is not None:
            served.sequences.pop(gone.sequence, None)
        if (end_stream := self._streams.get(gone.sequence)) is not None:
            end_stream(moved(gone.moved_to, gone.resumes))

    async def _move(
        self, peer: Peer, served: ServedModel, sequence: messages.SequenceId, state: messages.SequenceState
    ) -> tuple[MoveState, str]:
        """Move a frozen sequence to a peer. Returns what became of it, and why it was not moved."""
        move = Move()
        why = await self._offer(peer, move, served, sequence, state)
        if move.state is MoveState.CONFIRMING:
            why = await self._confirm(peer, move, served)
        return move.state, why

    def _id_there(
        self, sequence: messages.SequenceId, state: messages.SequenceState
    ) -> tuple[messages.SequenceId, str]:
        """The id of a sequence on another server, and the one that its caller needs, if any."""
        if not isinstance(sequence, tuple) or sequence[0]:
            return sequence, ""
        resumes = secrets.token_hex(8)  # a stream's, which the server has named
        is_named = self._names and bool(state.caller) and not state.caller.startswith("@")
        return (state.caller, resumes) if is_named else resumes, resumes

    async def _offer(
        self,
        peer: Peer,
        move: Move,
        served: ServedModel,
        sequence: messages.SequenceId,
        state: messages.SequenceState,
    ) -> str:
        """Offer a sequence. Returns why the peer does not hold it."""
        why = "it was restarted"
        for _ in range(2):  # the second time if it is another incarnation than was known
            try:
                answer = await peer.link.offer(peer.incarnation, served.spec, sequence, state)
            except PeerError as error:
                self.peers.failed(peer, error)
                why = str(error)
                break
            if answer.incarnation == peer.incarnation:
                if answer.number:
                    move.held(Hold(answer.incarnation, answer.number))
                    return ""
                why = answer.refusal
                break
            peer.incarnation = answer.incarnation
        move.not_held()
        return why

    async def _confirm(self, peer: Peer, move: Move, served: ServedModel) -> str:
        """Ask a peer to confirm its hold until it is known what became of it. Returns why it did not become
        live."""
        stepwise = served.spec.manifest.stepwise
        assert stepwise is not None
        assert move.hold is not None
        end, pause, why = self._clock() + stepwise.idle_timeout_s, _FIRST_PAUSE_S, ""
        while self._clock() < end:
            try:
                answer = await peer.link.confirm(move.hold)
                move.answered(answer.incarnation, answer.state)
                why = answer.refusal or "its hold had ended"
            except PeerError as error:
                self.peers.failed(peer, error)
            except Exception:  # nothing may end this but an answer
                log.exception("asking peer %s failed", peer.address)
            if move.state is not MoveState.CONFIRMING:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        if move.state is MoveState.CONFIRMING:
            move.give_up()
            return f"was being moved to {peer.address}, which does not answer"
        if move.state is MoveState.LOST:
            return f"was being moved to {peer.address}, which was restarted"
        return why

    # --- a server that stops --------------------------------------------------------------------------

    async def drain(self, within_s: float, texts: Callable[[], list[messages.LiveSequence]]) -> None:
        """Move all sequences that callers drive to peers, and later the texts that have not ended. What no
        peer takes goes on here.

        Args:
            texts: the streams of texts that can be moved.
        """
        self.draining = True
        wait_s = within_s - min(within_s / _LAST_PART, _LAST_S)
        waiting = asyncio.ensure_future(asyncio.sleep(wait_s))
        try:
            async with asyncio.timeout(within_s):
                await self._give_sequences()
                self.sequences_moved.set()
                await waiting
                await self._give_all(texts())
        except TimeoutError:
            log.warning("moving sequences to peers took longer than %g s", within_s)
        except ServingError as error:
            log.warning("sequences are not moved: %s", error)
        finally:
            self.sequences_moved.set()
            waiting.cancel()

    async def _give_sequences(self) -> None:
        await self.peers.current(again=True)
        tried: set[messages.LiveSequence] = set()
        while left := set(await self._states.live()) - tried:
            tried |= left
            if busy := await self._give_all(left):
                tried -= busy
                await asyncio.sleep(_FIRST_PAUSE_S)

    async def _give_all(self, all_: Collection[messages.LiveSequence]) -> set[messages.LiveSequence]:
        """Move sequences. Returns those that cannot be moved now, but may be later: another front end moves
        them, for example."""
        ends: dict[MoveState, list[str]] = {state: [] for state in MoveState}
        busy: set[messages.LiveSequence] = set()
        places = asyncio.Semaphore(_AT_A_TIME)

        async def give(live: messages.LiveSequence) -> None:
            async with places:
                try:
                    state, why = await self.give(live)
                    ends[state].append(why)
                except ServingError as error:
                    if _not_pulled(error) is PullResult.BUSY:
                        busy.add(live)

        # In any order, so that front ends that stop together seldom try the same one.
        await asyncio.gather(*map(give, random.sample(list(all_), len(all_))))
        stay, lost = ends[MoveState.STAYS], ends[MoveState.LOST]
        if stay or lost:
            why = (stay + lost)[0]
            log.warning("sequences that no peer takes: %d, lost: %d (%s)", len(stay), len(lost), why)
        if ends[MoveState.MOVED]:
            log.info("sequences moved to peers: %d", len(ends[MoveState.MOVED]))
        return busy

    def _count(self, model: str, result: str) -> None:
        self._metrics.moves.labels(model, result).inc()


def _not_pulled(error: ServingError) -> PullResult:
    """Why a sequence could not be frozen."""
    if error.moved_to:
        return PullResult.LEFT
    return PullResult.BUSY if error.code is ErrorCode.UNAVAILABLE else PullResult.ABSENT

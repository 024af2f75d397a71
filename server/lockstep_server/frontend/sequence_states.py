"""Asks the engine for the states of live sequences, and to take sequences over.

`get`, `put` → `GetSequence`, `PutSequence` → the engine → `SequenceAnswer`
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .. import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import ServingError


Answer = messages.SequenceAnswer | messages.SequenceList


class SequenceStates:
    """Event loop only."""

    def __init__(self, send: Callable[[messages.Message], None], first_key: int = 1) -> None:
        self._send, self._keys = send, itertools.count(first_key)
        self._asked: dict[int, asyncio.Future[Answer]] = {}

    async def get(self, **fields: Any) -> messages.SequenceAnswer:
        """The answer to a `GetSequence` with these fields; it has a state.

        Raises:
            ServingError: SEQUENCE_LOST, no live sequence is meant; REFUSED_STATE, it has none to give;
                UNAVAILABLE, its prompt was not read yet, or the engine process restarts.
        """
        return await self._state(messages.GetSequence(key=next(self._keys), **fields))

    async def freeze(self, **fields: Any) -> messages.SequenceAnswer:
        """As `get`, and the sequence takes no step until `thaw` is called with the answer's key.

        Raises:
            ServingError: as `get`; UNAVAILABLE, it is frozen, or its first step has not run. Then it is not
                frozen.
        """
        request = messages.GetSequence(key=next(self._keys), freeze=True, **fields)
        try:
            return await self._state(request)
        except BaseException:
            self.thaw(request.key)  # also if the wait was cancelled
            raise

    def thaw(self, key: int, **fields: Any) -> None:
        """Let a frozen sequence go on, or end it: a `ThawSequence` with these fields."""
        self._send(messages.ThawSequence(key=key, **fields))

    async def live(self) -> list[messages.LiveSequence]:
        """The live sequences of all models.

        Raises:
            ServingError: UNAVAILABLE, the engine process restarts.
        """
        answer = await self._ask(messages.ListSequences(next(self._keys)))
        assert isinstance(answer, messages.SequenceList)
        return answer.sequences

    async def put(self, request: messages.PutSequence) -> None:
        """
        Raises:
            ServingError: BAD_INPUT, the state is not one of the model; OVERLOADED or QUOTA, no slot is free
                for it; REFUSED_STATE, its id is in use; UNAVAILABLE, the engine process restarts.
        """
        await self._ask(replace(request, key=next(self._keys)))

    async def _state(self, request: messages.GetSequence) -> messages.SequenceAnswer:
        answer = await self._ask(request)
        assert isinstance(answer, messages.SequenceAnswer)
        return answer

    async def _ask(
        self, request: messages.GetSequence | messages.PutSequence | messages.ListSequences
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[request.key] = future
        try:
            self._send(request)
            answer = await future
        finally:
            del self._asked[request.key]
        if isinstance(answer, messages.SequenceAnswer) and answer.error is not None:
            raise answer.error
        return answer

    def answered(self, answer: Answer) -> None:
        future = self._asked.get(answer.key)
        if future is not None and not future.done():
            future.set_result(answer)

    def engine_lost(self, error: ServingError) -> None:
        """The engine process ended, and will not answer."""
        for key in self._asked:
            self.answered(messages.SequenceAnswer(key=key, error=error))

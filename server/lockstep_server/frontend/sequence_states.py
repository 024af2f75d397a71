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


class SequenceStates:
    """Event loop only."""

    def __init__(self, send: Callable[[messages.Message], None], first_key: int = 1) -> None:
        self._send, self._keys = send, itertools.count(first_key)
        self._asked: dict[int, asyncio.Future[messages.SequenceAnswer]] = {}

    async def get(self, **fields: Any) -> messages.SequenceAnswer:
        """The answer to a `GetSequence` with these fields; it has a state.

        Raises:
            ServingError: SEQUENCE_LOST, no live sequence is meant; REFUSED_STATE, it has none to give;
                UNAVAILABLE, its prompt was not read yet, or the engine process restarts.
        """
        return await self._ask(messages.GetSequence(key=next(self._keys), **fields))

    async def put(self, request: messages.PutSequence) -> None:
        """
        Raises:
            ServingError: BAD_INPUT, the state is not one of the model; OVERLOADED or QUOTA, no slot is free
                for it; REFUSED_STATE, its id is in use; UNAVAILABLE, the engine process restarts.
        """
        await self._ask(replace(request, key=next(self._keys)))

    async def _ask(self, request: messages.GetSequence | messages.PutSequence) -> messages.SequenceAnswer:
        future: asyncio.Future[messages.SequenceAnswer] = asyncio.get_running_loop().create_future()
        self._asked[request.key] = future
        try:
            self._send(request)
            answer = await future
        finally:
            del self._asked[request.key]
        if answer.error is not None:
            raise answer.error
        return answer

    def answered(self, answer: messages.SequenceAnswer) -> None:
        future = self._asked.get(answer.key)
        if future is not None and not future.done():
            future.set_result(answer)

    def engine_lost(self, error: ServingError) -> None:
        """The engine process ended, and will not answer."""
        for key in self._asked:
            self.answered(messages.SequenceAnswer(key=key, error=error))

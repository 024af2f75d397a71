"""Keeps a Follow stream in step with a text that somebody types.

The text after each change → what the stream has not read yet (`Typed.piece`) → one step per new word → a
prediction. A change before the end of the text starts a new stream, which reads the text again.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep_client.errors import LockstepError, SequenceLost
from lockstep_client.stream_results import FLUSH, Flush

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from lockstep_client.client import AsyncClient
    from lockstep_client.stream_results import Prediction

    OnPrediction = Callable[[int, Prediction], Awaitable[None]]
    OnError = Callable[[LockstepError], Awaitable[None]]


@dataclass(frozen=True)
class Typed:
    """What a stream was sent."""

    text: str = ""
    flushed: bool = False
    """The last word counts as whole, without white space after it."""

    def piece(self, text: str) -> str | None:
        """What to send so that the stream has read `text`; None if only a new stream can read it."""
        piece = text[len(self.text) :]
        if not text.startswith(self.text) or (self.flushed and piece[:1].strip()):
            return None
        return piece


class TypedFollow:
    """One person's text, and the stream that follows it. `on_prediction` gets the number of the stream."""

    def __init__(self, client: AsyncClient, on_prediction: OnPrediction, on_error: OnError) -> None:
        self._client, self._on_prediction, self._on_error = client, on_prediction, on_error
        self._model = ""
        self._typed = Typed()
        self._pieces: asyncio.Queue[str | Flush] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self.number = 0

    async def change(self, model: str, text: str, whole: bool) -> None:
        """The text is now `text`; if `whole`, its last word is complete."""
        piece = self._typed.piece(text) if model == self._model and self._running() else None
        if piece is None:
            await self.close()
            self._start(model)
            piece = text
        if piece or whole:
            self._send(piece, whole)

    async def close(self) -> None:
        """End the stream, and the sequence on the server."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    def _running(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def _start(self, model: str) -> None:
        self._model, self._typed, self._pieces = model, Typed(), asyncio.Queue()
        self.number += 1
        self._reading = asyncio.create_task(self._read(model, self.number, self._sent(self._pieces)))

    def _send(self, piece: str, whole: bool) -> None:
        text = self._typed.text + piece
        if piece:
            self._pieces.put_nowait(piece)
            self._typed = Typed(text)
        if whole and not self._typed.flushed and text.strip():
            self._pieces.put_nowait(FLUSH)
            self._typed = Typed(text, flushed=True)

    @staticmethod
    async def _sent(pieces: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while True:
            yield await pieces.get()

    async def _read(self, model: str, number: int, pieces: AsyncIterator[Any]) -> None:
        """Report predictions until the stream ends. A sequence that the server evicted is started again."""
        predicted = False
        try:
            async with self._client.follow(model, pieces, timeout_s=math.inf) as stream:
                async for prediction in stream:
                    predicted = True
                    await self._on_prediction(number, prediction)
        except SequenceLost as error:
            if not predicted:
                await self._on_error(error)
                return
            typed = self._typed
            self._start(model)
            self._send(typed.text, typed.flushed)
        except LockstepError as error:
            await self._on_error(error)

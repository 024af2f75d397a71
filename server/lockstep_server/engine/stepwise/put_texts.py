"""The texts that came from another server: put → (freeze → thaw or leave) → take, or evict."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from ...errors import moved
from .queues import being_moved, id_in_use, remember

if TYPE_CHECKING:
    from ...errors import ServingError
    from ...messages import SequenceId
    from .sequence import GenerationSequence
    from .slot_pool import SlotPool


class PutTexts:
    """Texts that were put here with their states, until a stream goes on with them. Not thread-safe."""

    def __init__(self, pool: SlotPool, idle_timeout_s: float) -> None:
        self._pool, self._idle_timeout_s = pool, idle_timeout_s
        self._texts: OrderedDict[SequenceId, GenerationSequence] = OrderedDict()  # the longest here first
        self._frozen: dict[SequenceId, GenerationSequence] = {}
        self._moved: OrderedDict[SequenceId, str] = OrderedDict()  # to which server

    def __len__(self) -> int:
        return len(self._texts) + len(self._frozen)

    def put(self, key: SequenceId, sequence: GenerationSequence, now: float) -> ServingError | None:
        """Take a sequence over. Returns the error if it is rejected."""
        if key in self._texts or key in self._frozen:
            return id_in_use()
        if error := self._pool.put(sequence, now):
            return error
        sequence.since = now
        self._texts[key] = sequence
        self._moved.pop(key, None)
        return None

    def get(self, key: SequenceId) -> GenerationSequence | None:
        return self._texts.get(key)

    def ids(self) -> list[SequenceId]:
        """The texts that are here. Safe to call from any thread."""
        return list(self._texts)

    def take(self, key: SequenceId) -> None:
        """Forget a sequence, which a stream has taken."""
        del self._texts[key]

    def away(self, key: SequenceId) -> ServingError | None:
        """Why a text is not here, if it is being moved to another server or was."""
        if key in self._frozen:
            return being_moved()
        return moved(self._moved[key]) if key in self._moved else None

    def freeze(self, key: SequenceId) -> None:
        """Let no stream go on with a text that is here."""
        self._frozen[key] = self._texts.pop(key)

    def thaw(self, key: SequenceId, now: float) -> None:
        sequence = self._texts[key] = self._frozen.pop(key)
        sequence.since = now

    def leave(self, key: SequenceId, address: str) -> None:
        """End a frozen text, which another server has now, or nobody."""
        self._pool.release(self._frozen.pop(key))
        if address:
            remember(self._moved, key, address)

    def evict(self, now: float) -> None:
        """End the sequences that no stream has taken for `idle_timeout_s`."""
        while self.due() <= now:
            _, sequence = self._texts.popitem(last=False)
            self._pool.release(sequence)

    def due(self) -> float:
        """When the next one is evicted; infinity if there is none."""
        return next(iter(self._texts.values())).since + self._idle_timeout_s if self._texts else math.inf

"""The seeded plan: what callers do next, and the answers that they must get."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lockstep_client import protocol

from . import disturbances

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from .asks import Asks
    from .callers import Callers
    from .history import History


@dataclass(frozen=True)
class Action:
    """What a caller does next. Has a length, as the driver's requests have."""

    run: Callable[[Callers], Awaitable[str]]
    length: int = 1


def draw_action(rng: random.Random, asks: Asks) -> Action:
    """The next thing that a caller does."""
    kind = rng.random()
    if kind < 0.05:
        return _sequence(rng, asks)
    singles = [one for one in asks.pool if one.method.path in _MANY_PATHS]
    if kind < 0.35:
        ask = rng.choice(asks.pool)
    elif kind < 0.55:
        path = rng.choice(_MANY_PATHS)
        ask = asks.many([one for one in singles if one.method.path == path])
    elif kind < 0.65:
        ask = asks.stream_infer()
    elif kind < 0.85:
        ask = asks.infer(rng.choice(("identity", "identity", "swapped")), width=rng.choice((2, 2, 2, 2000)))
    elif kind < 0.92:
        ask = asks.session_error()
    elif kind < 0.96:
        ask = asks.invalid()
    else:
        ask = rng.choice(asks.metadata)
    shape = ask.method.shape
    how = disturbances.draw(rng, replies=shape != "unary_unary", sends=shape == "stream_stream")
    return Action(lambda callers: callers.ask(ask, how))


_MANY_PATHS = (protocol.CLASSIFY.path, protocol.ENCODE.path, protocol.CLASSIFY_TOKENS.path)


def _sequence(rng: random.Random, asks: Asks) -> Action:
    """The steps of one sequence, one call each; sometimes a step too early, too late, or a start again."""
    sequence, planned = asks.steps()
    wrong = rng.choice(("", "", "early", "late", "again"))

    async def run(callers: Callers) -> str:
        if wrong == "early":
            await callers.ask(asks.step(sequence, 1.0, None, start=False, end=False))
        for ask in planned:
            if (status := await callers.ask(ask)) != "OK":
                return status
        if wrong == "late":
            await callers.ask(asks.step(sequence, 1.0, None, start=False, end=False))
        if wrong == "again":
            await callers.ask(asks.step(sequence, 3.0, 3.0, start=True, end=True))
        return "OK"

    return Action(run)


async def find_answers(callers: Callers, asks: Asks, history: History) -> None:
    """Ask everything of the pool alone, and keep its answers.

    Raises:
        RuntimeError: an ask has no answer even alone.
    """
    for index, ask in enumerate(asks.pool):
        begin = len(history.events)
        status = await callers.ask(replace(ask, expected=()))
        parts: list[Any] = []
        for event in history.events[begin:]:
            parts.extend(getattr(event, "parts", ()))
        if status != "OK":
            raise RuntimeError(f"{ask.rpc} of {ask.model} alone ended with {status}")
        weight = ask.weight or (len(parts) if ask.method.path == protocol.FOLLOW.path else 0)
        asks.pool[index] = replace(ask, expected=tuple(parts), weight=weight)
    history.events.clear()

"""`python -m deploy.rehearsal.traffic ADDRESS`: calls of every kind to the shipped models, until SIGTERM.

What is asked wrongly, too late or left early is here too, so that there are errors of each meaning to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from lockstep_client import AsyncClient, LockstepError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

MODELS = (
    "sentiment-bow",
    "sentiment-lstm",
    "sentiment-transformer",
    "shakespeare-char-lstm",
    "translate-en-fr",
)
_ONE_SHOT, _RECURRENT = ("sentiment-lstm", "sentiment-transformer"), "sentiment-lstm"
_REVIEW = "the film is not a dull one and I would see it again with whom I like though it was long"
_SENTENCES = (
    "A man in a blue shirt is standing on a ladder .",
    "Two dogs are running .",
    "A little girl is playing with a red ball in front of an old house by the sea .",
)
_WAVE_S = 40.0
"""The load swells and ebbs in this time, so that there are curves to see."""


async def drive(address: str, stop: asyncio.Event) -> None:
    """Call until `stop`."""
    async with AsyncClient(address, timeout_s=20.0) as client, asyncio.TaskGroup() as group:
        callers: list[Callable[[AsyncClient, random.Random], Awaitable[None]]] = [
            *[_classify] * 6, *[_generate] * 12, *[_translate] * 3, _classify_long, _encode, _follow,
            _ask_wrongly, _leave_early, _come_too_late, _overload, _flock,
        ]  # fmt: skip
        tasks = [
            group.create_task(_go_on(call, client, random.Random(seed), seed / len(callers)))
            for seed, call in enumerate(callers)
        ]
        tasks.append(group.create_task(_be_traced(address)))
        await stop.wait()
        for task in tasks:
            task.cancel()


async def _go_on(
    call: Callable[[AsyncClient, random.Random], Awaitable[None]],
    client: AsyncClient,
    chance: random.Random,
    part: float,
) -> None:
    """Again and again, with a pause that is long where the wave is low; callers begin one by one."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    while True:
        low = abs(((clock() - begun) / _WAVE_S) % 2 - 1)
        with contextlib.suppress(LockstepError):  # they are asked for
            await call(client, chance)
        await asyncio.sleep(chance.uniform(0, 0.02 + 0.3 * low * part))


def _text(chance: random.Random, longest: int = 60) -> str:
    return " ".join(chance.choices(_REVIEW.split(), k=chance.randint(1, longest)))


async def _classify(client: AsyncClient, chance: random.Random) -> None:
    await client.classify(chance.choice(("sentiment-bow", *_ONE_SHOT)), [_text(chance) for _ in range(8)])


async def _classify_long(client: AsyncClient, chance: random.Random) -> None:
    for words in (120, 400):
        text = " ".join(chance.choices(_REVIEW.split(), k=words))
        await client.classify(chance.choice(_ONE_SHOT), [text])
    await asyncio.sleep(0.3)


async def _encode(client: AsyncClient, chance: random.Random) -> None:
    await client.encode("sentiment-transformer", [_text(chance)])


async def _generate(client: AsyncClient, chance: random.Random) -> None:
    tokens = chance.choice((40, 200, 400))
    stream = client.generate("shakespeare-char-lstm", "ROMEO:", max_tokens=tokens, seed=chance.randrange(99))
    async with stream:
        await stream.result()


async def _translate(client: AsyncClient, chance: random.Random) -> None:
    async with client.translate("translate-en-fr", chance.choice(_SENTENCES)) as stream:
        await stream.result()


async def _follow(client: AsyncClient, chance: random.Random) -> None:
    async with client.follow(_RECURRENT, _text(chance, 20)) as stream:
        await stream.result()


_WRONG: Iterator[Callable[[AsyncClient], Awaitable[object]]] = itertools.cycle(
    (
        lambda client: client.classify("sentiment-lstm", ids=[[10**9]]),
        lambda client: client.classify("no-such-model", ["a fine film"]),
        lambda client: client.infer("sentiment-lstm", {}),
    )
)


async def _ask_wrongly(client: AsyncClient, _: random.Random) -> None:
    await next(_WRONG)(client)
    await asyncio.sleep(0.2)


async def _leave_early(client: AsyncClient, _: random.Random) -> None:
    async with client.generate("shakespeare-char-lstm", "JULIET:", max_tokens=400) as stream:
        async for _part in stream:
            break
    await asyncio.sleep(0.5)


async def _come_too_late(client: AsyncClient, _: random.Random) -> None:
    async with client.generate("shakespeare-char-lstm", "JULIET:", max_tokens=400, timeout_s=0.01) as stream:
        await stream.result()


async def _overload(client: AsyncClient, chance: random.Random) -> None:
    """More at once than can be answered in time; then nothing for a while."""
    with contextlib.suppress(LockstepError):
        texts = [_text(chance) for _ in range(1500)]
        await client.classify("sentiment-transformer", texts, timeout_s=0.6)
    await asyncio.sleep(_WAVE_S / 4)


async def _flock(client: AsyncClient, chance: random.Random) -> None:
    """Many streams at once, which share their steps."""
    streams = [
        client.generate("shakespeare-char-lstm", "KING:", max_tokens=150, seed=chance.randrange(99))
        for _ in range(64)
    ]
    with contextlib.suppress(LockstepError):
        await asyncio.gather(*(stream.result() for stream in streams))
    await asyncio.sleep(_WAVE_S / 4)


async def _be_traced(address: str) -> None:
    """Calls that carry a W3C trace context, as those of a caller who traces do: one trace a client."""
    while True:
        parent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        async with AsyncClient(address, metadata=[("traceparent", parent)]) as client:
            with contextlib.suppress(LockstepError):
                await client.classify(_RECURRENT, ["a fine film"])
                await client.generate("shakespeare-char-lstm", "ROMEO:", max_tokens=5).result()
        await asyncio.sleep(0.2)


async def _main(address: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    print(f"calling {address}", file=sys.stderr, flush=True)
    await drive(address, stop)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))

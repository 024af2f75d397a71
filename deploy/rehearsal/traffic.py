"""`python -m deploy.rehearsal.traffic ADDRESS [PAUSE_S]`: sends requests of every kind until a signal.

Includes invalid requests, missed deadlines, cancelled streams and overload, so that the dashboards show every
error code. It has loops of its own instead of the load generator's driver because it measures nothing: its
senders pause along a wave, and most of its failures are wanted.
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
    "shakespeare-gpt",
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
"""Half the period of the load wave, in seconds. The load varies so that the curves have a shape."""


async def drive(address: str, stop: asyncio.Event, pause_s: float) -> None:
    """Send requests until `stop` is set. Each sender waits `pause_s` longer between its requests."""
    async with AsyncClient(address, timeout_s=20.0) as client, asyncio.TaskGroup() as group:
        senders: list[Callable[[AsyncClient, random.Random], Awaitable[None]]] = [
            *[_classify] * 6, *[_generate] * 12, *[_translate] * 3, _classify_long, _encode, _follow,
            _send_invalid, _cancel_early, _miss_deadline, _overload, _burst_of_streams,
        ]  # fmt: skip
        tasks = [
            group.create_task(_repeat(send, client, random.Random(seed), seed / len(senders), pause_s))
            for seed, send in enumerate(senders)
        ]
        tasks.append(group.create_task(_send_traced(address)))
        await stop.wait()
        for task in tasks:
            task.cancel()


async def _repeat(
    send: Callable[[AsyncClient, random.Random], Awaitable[None]],
    client: AsyncClient,
    rng: random.Random,
    offset: float,
    pause_s: float,
) -> None:
    """Send again and again, with pauses that follow the load wave. `offset` (0 to 1) spreads the senders."""
    clock = asyncio.get_running_loop().time
    start = clock()
    while True:
        trough = abs(((clock() - start) / _WAVE_S) % 2 - 1)  # 1 where the load is lowest
        with contextlib.suppress(LockstepError):  # the errors are intended
            await send(client, rng)
        await asyncio.sleep(pause_s + rng.uniform(0, 0.02 + 0.3 * trough * offset))


def _text(rng: random.Random, max_words: int = 60) -> str:
    return " ".join(rng.choices(_REVIEW.split(), k=rng.randint(1, max_words)))


async def _classify(client: AsyncClient, rng: random.Random) -> None:
    await client.classify(rng.choice(("sentiment-bow", *_ONE_SHOT)), [_text(rng) for _ in range(8)])


async def _classify_long(client: AsyncClient, rng: random.Random) -> None:
    for words in (120, 400):
        text = " ".join(rng.choices(_REVIEW.split(), k=words))
        await client.classify(rng.choice(_ONE_SHOT), [text])
    await asyncio.sleep(0.3)


async def _encode(client: AsyncClient, rng: random.Random) -> None:
    await client.encode("sentiment-transformer", [_text(rng)])


async def _generate(client: AsyncClient, rng: random.Random) -> None:
    tokens = rng.choice((40, 200, 400))
    model = rng.choice(("shakespeare-char-lstm", "shakespeare-gpt"))
    stream = client.generate(model, "ROMEO:", max_tokens=tokens, seed=rng.randrange(99))
    async with stream:
        await stream.result()


async def _translate(client: AsyncClient, rng: random.Random) -> None:
    async with client.translate("translate-en-fr", rng.choice(_SENTENCES)) as stream:
        await stream.result()


async def _follow(client: AsyncClient, rng: random.Random) -> None:
    async with client.follow(_RECURRENT, _text(rng, 20)) as stream:
        await stream.result()


_INVALID: Iterator[Callable[[AsyncClient], Awaitable[object]]] = itertools.cycle(
    (
        lambda client: client.classify("sentiment-lstm", ids=[[10**9]]),
        lambda client: client.classify("no-such-model", ["a fine film"]),
        lambda client: client.infer("sentiment-lstm", {}),
    )
)


async def _send_invalid(client: AsyncClient, _: random.Random) -> None:
    await next(_INVALID)(client)
    await asyncio.sleep(0.2)


async def _cancel_early(client: AsyncClient, _: random.Random) -> None:
    async with client.generate("shakespeare-char-lstm", "JULIET:", max_tokens=400) as stream:
        async for _message in stream:
            break
    await asyncio.sleep(0.5)


async def _miss_deadline(client: AsyncClient, _: random.Random) -> None:
    async with client.generate("shakespeare-char-lstm", "JULIET:", max_tokens=400, timeout_s=0.01) as stream:
        await stream.result()


async def _overload(client: AsyncClient, rng: random.Random) -> None:
    """Send more requests at once than can be answered in time, then pause."""
    with contextlib.suppress(LockstepError):
        texts = [_text(rng) for _ in range(1500)]
        await client.classify("sentiment-transformer", texts, timeout_s=0.6)
    await asyncio.sleep(_WAVE_S / 4)


async def _burst_of_streams(client: AsyncClient, rng: random.Random) -> None:
    """Open 64 streams at once, whose steps are batched."""
    streams = [
        client.generate("shakespeare-char-lstm", "KING:", max_tokens=150, seed=rng.randrange(99))
        for _ in range(64)
    ]
    with contextlib.suppress(LockstepError):
        await asyncio.gather(*(stream.result() for stream in streams))
    await asyncio.sleep(_WAVE_S / 4)


async def _send_traced(address: str) -> None:
    """Send requests with a W3C trace context, one trace per client."""
    while True:
        parent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        async with AsyncClient(address, metadata=[("traceparent", parent)]) as client:
            with contextlib.suppress(LockstepError):
                await client.classify(_RECURRENT, ["a fine film"])
                await client.generate("shakespeare-char-lstm", "ROMEO:", max_tokens=5).result()
        await asyncio.sleep(0.2)


async def _main(address: str, pause_s: float = 0.0) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    print(f"sending requests to {address}", file=sys.stderr, flush=True)
    await drive(address, stop, pause_s)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], *map(float, sys.argv[2:])))

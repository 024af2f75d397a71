"""Measures what one more token costs after a context of a given length: a state of constant size, or a cache.

Writers (generative models) × a context of so many characters → the same number of tokens, one writer after
the other (`turns`) → `WritingTime` → median per writer → `WritingResult`. `lockstep race` shows them below
its readings; `lockstep load contrast` puts the same models under load.

Times to a token are measured by this client; compute times come from the server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep_client.errors import InvalidRequest, ModelNotFound, Overloaded
from lockstep_client.reading import medians, turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockstep_client.client import AsyncClient

TOKENS, SEED = 64, 1
"""Tokens that each run writes after its context, and the seed that chooses them."""

HEADER = ("writer", "context", "first ms", "per token ms", "compute per token ms", "tokens")


@dataclass(frozen=True)
class WritingTime:
    """The times of one run."""

    first_s: float
    """Seconds to the first token: the context has been read."""
    token_s: float
    """Mean seconds between two tokens."""
    compute_per_token_s: float
    """Seconds in the session per token: this text's share of its steps, without reading the context."""
    tokens: int


@dataclass(frozen=True)
class WritingResult:
    """The median time of a writer after one context, or a note with the reason why there is none."""

    model: str
    characters: int
    time: WritingTime | None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """A flat JSON object; `possible` is false if the writer was not timed."""
        fields = {
            "way": "writing",
            "model": self.model,
            "characters": self.characters,
            "possible": self.time is not None,
        }
        return {**fields, **(vars(self.time) if self.time else {"note": self.note})}


async def results(
    client: AsyncClient, writers: Sequence[str], text: str, characters: int, repeat: int
) -> list[WritingResult]:
    """Time each writer `repeat` times after a context of so many characters, after an untimed run."""
    context = (text * (characters // len(text) + 1))[:characters]
    notes = {model: _note(await _measured(client, model, context)) for model in writers}
    times: dict[str, list[WritingTime]] = {model: [] for model in writers}
    for order in turns(writers, repeat):
        for model in order:
            found = notes[model] or await _measured(client, model, context)
            if isinstance(found, str):
                notes[model] = found
            else:
                times[model].append(found)
    return [
        WritingResult(model, characters, _median(times[model]), "" if times[model] else notes[model])
        for model in writers
    ]


async def measure(client: AsyncClient, model: str, context: str) -> WritingTime:
    """Write `TOKENS` tokens after the context, or fewer if the model's limit is reached.

    Raises:
        InvalidRequest: the context is too long, or the model wrote a single token.
    """
    start, first_s, last_s = time.perf_counter(), 0.0, 0.0
    stream = client.generate(model, context, max_tokens=TOKENS, min_tokens=TOKENS, seed=SEED)
    async with stream:
        async for part in stream:
            if part.tokens:
                last_s = time.perf_counter() - start
                first_s = first_s or last_s
        written = await stream.result()
    tokens, timings = len(written.tokens), written.timings
    if tokens < 2:
        raise InvalidRequest(f"model {model!r} wrote {tokens} tokens; a time between tokens takes two")
    steps_s = (timings.compute_s - timings.prefill_s) / max(timings.batch_rows, 1.0)
    return WritingTime(first_s, (last_s - first_s) / (tokens - 1), steps_s / max(timings.steps, 1), tokens)


async def _measured(client: AsyncClient, model: str, context: str) -> WritingTime | str:
    """The time of one run, or why the server rejected it."""
    try:
        return await measure(client, model, context)
    except ModelNotFound as error:
        return error.message
    except (InvalidRequest, Overloaded) as error:
        return f"not possible at this length: {error.message}"


def _note(found: WritingTime | str) -> str:
    return found if isinstance(found, str) else ""


def _median(times: Sequence[WritingTime]) -> WritingTime | None:
    return medians(times, "first_s", "token_s", "compute_per_token_s") if times else None


def rows(found: Sequence[WritingResult]) -> list[tuple[str, ...]]:
    """One table row per result."""
    return [
        (one.model, f"{one.characters:,}", *(_cells(one.time) if one.time else ("-",) * (len(HEADER) - 2)))
        for one in found
    ]


def _cells(found: WritingTime) -> tuple[str, ...]:
    times = (found.first_s, found.token_s, found.compute_per_token_s)
    return (*(f"{seconds * 1e3:.2f}" for seconds in times), f"{found.tokens:,}")


def notes(found: Sequence[WritingResult]) -> Iterator[str]:
    """One line per writer that was not timed after a context."""
    for one in found:
        if one.time is None:
            yield f"writing {one.model}, {one.characters:,} characters: {one.note}"


def sentences(found: Sequence[WritingResult]) -> Iterator[str]:
    """How the compute of a token grew with the context, and which writer's is the least after the longest."""
    by_model: dict[str, dict[int, WritingTime]] = {}
    for one in found:
        if one.time:
            by_model.setdefault(one.model, {})[one.characters] = one.time
    for model, times in by_model.items():
        short, long = min(times), max(times)
        if short < long:
            ratio = times[long].compute_per_token_s / max(times[short].compute_per_token_s, 1e-9)
            yield (
                f"A token of {model} took {_ms(times[short])} ms of compute after {short:,} characters and"
                f" {_ms(times[long])} ms after {long:,}: {ratio:.2g} times as much."
            )
    common = set.intersection(*(set(times) for times in by_model.values())) if len(by_model) > 1 else set()
    if common:
        last = max(common)
        ranked = sorted(by_model, key=lambda model: by_model[model][last].compute_per_token_s)
        least, most = (by_model[model][last].compute_per_token_s for model in (ranked[0], ranked[-1]))
        yield (
            f"After {last:,} characters a token of {ranked[-1]} takes {most / max(least, 1e-9):.2g} times the"
            f" compute of one of {ranked[0]}."
        )


def _ms(found: WritingTime) -> str:
    return f"{found.compute_per_token_s * 1e3:.3g}"

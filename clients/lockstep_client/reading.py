"""Measures ways to read the same text: step-wise, fused, one-shot and re-encoding.

A recurrent model reads in two ways with the same weights: one step per element (Follow), or the whole text in
one fused run (Classify). A Transformer encodes the whole text in one run (Classify), or every prefix anew
(Follow).

`contenders` × a text of a given length (`repeated`) → one reading after the other (`turns`) → `ReadingTime`
→ `medians`. `lockstep race` times texts one by one (race.py), `lockstep load contrast` puts the same ways
under load, and the comparison study classifies with every model.

Times to a prediction are measured by this client; compute times come from the server. A prediction from a
run with several rows counts its share of the run, so the shares of one text add up to its compute.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lockstep_client.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from random import Random

    from lockstep_client.client import AsyncClient, Client
    from lockstep_client.results import Classification, Label
    from lockstep_client.stream_results import Prediction

STEPWISE, FUSED, ONE_SHOT, REENCODING = "step-wise", "fused", "one-shot", "re-encoding"

T = TypeVar("T")


@dataclass(frozen=True)
class Contender:
    """A way to read a text, and the model for it."""

    way: str
    model: str

    @property
    def follows(self) -> bool:
        """Whether it predicts after each element."""
        return self.way in (STEPWISE, REENCODING)

    @property
    def call(self) -> Literal["follow", "classify"]:
        """The RPC that it uses."""
        return "follow" if self.follows else "classify"


@dataclass(frozen=True)
class Moment:
    """One prediction of a reading."""

    at_s: float
    """Seconds from the start of the reading to its arrival."""
    compute_s: float
    """Seconds in the session: this text's share of the run."""
    computed_elements: int
    element: str
    """The word that it follows; empty if it is for the whole text."""
    answer: Label
    """The most probable label."""


@dataclass(frozen=True)
class ReadingTime:
    """The times of one reading."""

    first_s: float
    """Seconds to the first prediction."""
    last_s: float
    """Seconds to the last prediction, which covers the whole text."""
    compute_s: float
    """Seconds in the session: this text's share of its runs."""
    steps: int
    """Number of predictions: one per element, or 1."""
    computed_elements: int
    answer: Label
    """The most probable label of the last prediction."""

    @property
    def compute_per_step_s(self) -> float:
        """Mean compute seconds per prediction."""
        return self.compute_s / self.steps


def contenders(stepwise: str, fused: str, one_shot: str) -> tuple[Contender, ...]:
    """The contenders with the given models; an empty name omits its contenders."""
    ways = ((STEPWISE, stepwise), (FUSED, fused), (ONE_SHOT, one_shot), (REENCODING, one_shot))
    return tuple(Contender(way, model) for way, model in ways if model)


def repeated(text: str, words: int) -> str:
    """The text, truncated or repeated to the given number of words."""
    return " ".join(islice(cycle(text.split()), words))


def turns(contenders: Sequence[T], rounds: int, rng: Random | None = None) -> Iterator[list[T]]:
    """The order of the contenders in each round.

    All of them run in every round, so a temporary slowdown of the machine affects all. With `rng` the order
    is random, so that no contender always follows the same other one.
    """
    for _ in range(rounds):
        yield rng.sample(contenders, len(contenders)) if rng else list(contenders)


def medians(measured: Sequence[T], *fields: str) -> T:
    """The last of these dataclass objects, with the median of each of the fields."""
    last: Any = measured[-1]
    found: T = replace(last, **{name: median(getattr(one, name) for one in measured) for name in fields})
    return found


def median_reading(readings: Sequence[ReadingTime]) -> ReadingTime | None:
    """The median of each time; None without readings."""
    return medians(readings, "first_s", "last_s", "compute_s") if readings else None


async def record(
    client: AsyncClient, contender: Contender, text: str, on_prediction: Callable[[int], None] | None = None
) -> list[Moment]:
    """Read the text once. Returns at least one prediction.

    Calls `on_prediction` after each prediction with the number of predictions so far.
    """
    moments: list[Moment] = []
    start = time.perf_counter()
    async for prediction in _predictions(client, contender, text):
        moments.append(_moment(time.perf_counter() - start, prediction))
        if on_prediction:
            on_prediction(len(moments))
    if not moments:
        raise InvalidRequest(f"model {contender.model!r} predicted nothing after {text!r}")
    return moments


async def measure(
    client: AsyncClient, contender: Contender, text: str, on_prediction: Callable[[int], None] | None = None
) -> ReadingTime:
    """Read the text once, as `record` does. Returns the times."""
    return reading_time(await record(client, contender, text, on_prediction))


def measure_whole(client: Client, model: str, text: str) -> ReadingTime:
    """Read the text once with a blocking client, in one prediction for the whole text."""
    start = time.perf_counter()
    [answer] = client.classify(model, text, top_k=1)
    return reading_time([_moment(time.perf_counter() - start, answer)])


def _moment(at_s: float, prediction: Prediction | Classification) -> Moment:
    return Moment(
        at_s,
        compute_s=prediction.timings.compute_s / max(prediction.timings.batch_rows, 1.0),
        # All elements of the text for a Classification.
        computed_elements=getattr(prediction, "computed_elements", 0) or getattr(prediction, "length", 0),
        element=getattr(prediction, "element", ""),
        answer=prediction.best,
    )


def reading_time(moments: Sequence[Moment]) -> ReadingTime:
    """The times of a reading with at least one prediction."""
    return ReadingTime(
        moments[0].at_s,
        moments[-1].at_s,
        compute_s=sum(moment.compute_s for moment in moments),
        steps=len(moments),
        computed_elements=sum(moment.computed_elements for moment in moments),
        answer=moments[-1].answer,
    )


async def _predictions(
    client: AsyncClient, contender: Contender, text: str
) -> AsyncIterator[Prediction | Classification]:
    if not contender.follows:
        yield (await client.classify(contender.model, text, top_k=1))[0]
        return
    async with client.follow(contender.model, text, top_k=1) as stream:
        async for prediction in stream:
            yield prediction

"""Times one reading of a text: time to the first and last prediction, and compute.

Times to a prediction are measured by this client; compute times come from the server. A prediction from a
run with several rows counts its share of the run, so the shares of one text add up to its compute.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from lockstep_client.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from lockstep_client.client import AsyncClient
    from lockstep_client.results import Classification, Label
    from lockstep_client.stream_results import Prediction


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


async def measure(
    client: AsyncClient,
    model: str,
    text: str,
    *,
    follow: bool,
    on_prediction: Callable[[int], None] | None = None,
) -> ReadingTime:
    """Read the text, with a prediction after each element (`follow`) or one for the whole text.

    Calls `on_prediction` after each prediction with the number of predictions so far.
    """
    start, first_s = time.perf_counter(), 0.0
    seen: list[Prediction | Classification] = []
    async for prediction in _predictions(client, model, text, follow=follow):
        seen.append(prediction)
        first_s = first_s or time.perf_counter() - start
        if on_prediction:
            on_prediction(len(seen))
    last_s = time.perf_counter() - start
    if not seen:
        raise InvalidRequest(f"model {model!r} predicted nothing after {text!r}")
    return ReadingTime(
        first_s,
        last_s,
        compute_s=sum(p.timings.compute_s / max(p.timings.batch_rows, 1.0) for p in seen),
        steps=len(seen),
        computed_elements=sum(_computed(p) for p in seen),
        answer=seen[-1].best,
    )


def median_reading(readings: Sequence[ReadingTime]) -> ReadingTime | None:
    """The median of each time; None without readings."""
    if not readings:
        return None
    return replace(
        readings[-1],
        first_s=median(reading.first_s for reading in readings),
        last_s=median(reading.last_s for reading in readings),
        compute_s=median(reading.compute_s for reading in readings),
    )


async def _predictions(
    client: AsyncClient, model: str, text: str, *, follow: bool
) -> AsyncIterator[Prediction | Classification]:
    if not follow:
        yield (await client.classify(model, text, top_k=1))[0]
        return
    async with client.follow(model, text, top_k=1) as stream:
        async for prediction in stream:
            yield prediction


def _computed(prediction: Prediction | Classification) -> int:
    """Elements computed for the prediction: all elements of the text for a Classification."""
    return getattr(prediction, "computed_elements", 0) or getattr(prediction, "length", 0)

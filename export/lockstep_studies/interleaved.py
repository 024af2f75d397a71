"""Interleaved timing: all contenders run in every round, so a temporary slowdown affects all of them.

It measures the processor time of the one thread that computes. On an idle machine this equals the elapsed
time; on a busy one it excludes the pauses that other processes cause.
"""

import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median

from lockstep_client.reading import turns

Run = Callable[[], object]


def median_seconds(
    contenders: Sequence[Run], rounds: int, on_round: Callable[[int], None] = lambda _: None
) -> list[float]:
    """The median processor seconds of each contender over `rounds` rounds.

    Every measured run follows a warm-up run of the same contender, because the previous contender has left
    its own data in the caches. The order is random in each round, because the effect of a long run on a
    short one can outlast the warm-up run. `on_round` is called with the number of finished rounds.
    """
    seconds: list[list[float]] = [[] for _ in contenders]
    rng = Random(0)
    runs = [*zip(contenders, seconds, strict=True)]
    for done, order in enumerate(turns(runs, rounds, rng), start=1):
        for run, taken in order:
            run()
            started = time.thread_time()
            run()
            taken.append(time.thread_time() - started)
        on_round(done)
    return [median(taken) for taken in seconds]

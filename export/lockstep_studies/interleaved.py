"""Who takes how long: contenders run in turn, so that what slows the machine for a while slows them all.

What is measured is the processor time of the one thread that computes: on a quiet machine the same as the
time that passes, and on a busy one without the pauses that others cause.
"""

import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median

Run = Callable[[], object]


def median_seconds(
    contenders: Sequence[Run], rounds: int, lapped: Callable[[int], None] = lambda _: None
) -> list[float]:
    """The median processor seconds of each contender over `rounds` rounds.

    Each lap comes after one that is not counted: what ran before has left its own data in the caches; and
    in an order drawn anew each round, for a long run leaves a short one more than one lap to get over.
    `lapped` is told how many rounds are over.
    """
    laps: list[list[float]] = [[] for _ in contenders]
    chance = Random(0)
    for done in range(1, rounds + 1):
        for run, taken in chance.sample([*zip(contenders, laps, strict=True)], len(contenders)):
            run()
            started = time.thread_time()
            run()
            taken.append(time.thread_time() - started)
        lapped(done)
    return [median(taken) for taken in laps]

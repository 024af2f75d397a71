"""Runs and loads that take too long: slow, ended at the limit, stuck. The clock is moved by hand."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from lockstep_server.engine.runtime.run_watch import SLOW_LOAD_S, SLOW_RUN_S, STUCK_S, RunWatch
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Watched:
    """A watch with limits of 10 s for a run and 100 s for a load, and what it reported."""

    def __init__(self) -> None:
        self.now = 50.0
        self.slow: list[int] = []
        self.stuck: list[str] = []
        self.watch = RunWatch(
            10.0, 100.0, self.slow.append, lambda owner, _: self.stuck.append(owner), lambda: self.now
        )

    def at(self, seconds: float) -> None:
        """Look at the runs `seconds` after the start."""
        self.now = 50.0 + seconds
        self.watch.check()


def options() -> Any:
    return SimpleNamespace(terminate=False)


@contextmanager
def load_fails(watched: Watched, words: str) -> Iterator[None]:
    """A load of m/1, which fails at its end with these words."""
    with pytest.raises(LoadError, match=words), watched.watch.load("m/1"):
        yield


def test_a_run_is_slow_then_ended_then_stuck_each_once() -> None:
    watched, asked = Watched(), options()
    run = watched.watch.begin("m/1", asked)
    watched.at(SLOW_RUN_S - 0.1)
    assert watched.slow == []
    for _ in range(2):
        watched.at(SLOW_RUN_S)
    assert watched.slow == [threading.get_ident()]
    watched.at(9.9)
    assert not asked.terminate
    watched.at(10.0)
    assert asked.terminate
    assert run.is_ended
    watched.at(10.0 + STUCK_S - 0.1)
    assert watched.stuck == []
    for _ in range(2):
        watched.at(10.0 + STUCK_S)
    assert watched.stuck == ["m/1"]


def test_a_run_that_has_ended_is_left_alone() -> None:
    watched, asked = Watched(), options()
    watched.watch.done(watched.watch.begin("m/1", asked))
    watched.at(1000.0)
    assert (asked.terminate, watched.slow, watched.stuck) == (False, [], [])


@pytest.mark.parametrize(("seconds", "again"), [(0.1, True), (SLOW_RUN_S, False), (20.0, False)])
def test_only_the_options_of_a_short_run_are_used_again(seconds: float, again: bool) -> None:
    """A run that may have been found slow, or ended, is not taken for a later one."""
    watched, asked = Watched(), options()
    run = watched.watch.begin("m/1", asked)
    watched.at(seconds)
    assert watched.watch.done(run) is again
    if again:
        watched.watch.begin_again(run)
        watched.at(9.9)
        assert not asked.terminate
        watched.at(10.2)
        assert asked.terminate


def test_the_options_of_a_run_of_a_load_are_not_used_again() -> None:
    watched = Watched()
    with watched.watch.load("m/1"):
        assert not watched.watch.done(watched.watch.begin("m/1", options()))


def test_a_load_fails_with_its_run_and_later_runs_end_at_once() -> None:
    watched, first, later = Watched(), options(), options()
    with load_fails(watched, "--max-run-s"):
        run = watched.watch.begin("m/1", first)
        watched.at(10.0)
        watched.watch.done(run)
        watched.watch.begin("m/1", later)
    assert first.terminate
    assert later.terminate


def test_a_load_that_takes_too_long_ends_its_run_and_fails() -> None:
    watched, asked = Watched(), options()
    with load_fails(watched, "--max-load-s"):
        watched.at(SLOW_LOAD_S)
        assert watched.watch.slow_loads() == 1
        watched.at(100.0)
        watched.watch.begin("m/1", asked)
    assert asked.terminate
    assert watched.watch.slow_loads() == 0


def test_runs_of_other_threads_are_no_part_of_a_load() -> None:
    watched, asked = Watched(), options()
    with load_fails(watched, "--max-load-s"):
        watched.at(100.0)
        thread = threading.Thread(target=watched.watch.begin, args=("other/1", asked))
        thread.start()
        thread.join()
    assert not asked.terminate


def test_when_the_engine_stops_all_runs_end_and_no_load_succeeds() -> None:
    watched, current, later = Watched(), options(), options()
    with load_fails(watched, "stopping"):
        watched.watch.begin("m/1", current)
        watched.watch.terminate()
        watched.watch.begin("m/1", later)
    assert current.terminate
    assert later.terminate


def test_a_load_names_its_steps_and_a_late_one_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watched, steps = Watched(), list[tuple[str, str]]()
    watched.watch = RunWatch(
        10.0, 100.0, clock=lambda: watched.now, on_step=lambda owner, step: steps.append((owner, step))
    )
    watched.watch.load_step("of no load")
    with caplog.at_level("INFO"), load_fails(watched, r"longer than 100 s \(measuring\)"):
        watched.watch.load_step("self-test")
        watched.at(SLOW_LOAD_S)
        watched.at(6.0)
        watched.watch.load_step("measuring")
        watched.at(100.0)
    assert steps == [("m/1", "self-test"), ("m/1", "measuring")]
    assert [record.getMessage() for record in caplog.records if record.levelname == "INFO"] == [
        "model m/1 has been loading for 5 s: self-test",
        "model m/1 has been loading for 6 s: measuring",
    ]

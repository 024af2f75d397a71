"""Scenario files: the bundled ones are valid, errors name the run and key."""

from __future__ import annotations

import pytest

from lockstep_load.plan import ClosedLoop, Offline, OpenLoop, Target
from lockstep_load.scenario import bundled, parse, read

AT = Target("localhost:1", "")
RUN = """
[[run]]
scenario = "{scenario}"
model = "m"
{more}
"""


def one(scenario: str, more: str = ""):
    [entry] = parse("s", RUN.format(scenario=scenario, more=more), AT).entries
    return entry


@pytest.mark.parametrize("name", bundled())
def test_bundled_scenarios_are_valid_and_short(name: str) -> None:
    scenario = read(name, AT)
    assert scenario.entries
    assert scenario.about
    assert scenario.seconds < 60


def test_each_kind_has_the_load_that_mlperf_defines() -> None:
    assert one("single-stream").load.pattern == ClosedLoop(1)
    assert one("multi-stream").load.pattern == ClosedLoop(1)
    assert one("multi-stream").workload.rows == 8
    assert one("offline", "samples = 100").load.pattern == Offline(100, 32)
    server = one("server", "bound_ms = 15").search
    assert (server.bound.latency_ms, server.bound.percentile, server.confirmations) == (15, 99, 2)
    assert one("soak", "rate = 5").load.pattern == OpenLoop(5.0)
    assert one("sweep", "rates = [5, 10]").rates == (5, 10)


def test_run_keys_override_defaults_and_the_command_overrides_both() -> None:
    text = '[defaults]\nmodel = "m"\nseconds = 3\n[[run]]\nscenario = "single-stream"\nseconds = 4\n'
    assert parse("s", text, AT).entries[0].load.seconds == 4
    assert parse("s", text, AT, 9.0).entries[0].load.seconds == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[run]\n", "not TOML"),
        ("about = 'nothing'\n", r"at least one \[\[run\]\]"),
        ("abuot = 'x'\n", "unknown key 'abuot'"),
        (RUN.format(scenario="serve", more=""), "scenario = 'serve': use one of single-stream"),
        (RUN.format(scenario="closed", more=""), "'concurrency' is missing"),
        (RUN.format(scenario="closed", more="concurrency = 0"), "concurrency = 0: use an integer"),
        (RUN.format(scenario="open", more="rate = -1"), "rate = -1: use a number above 0"),
        (RUN.format(scenario="open", more="rate = inf"), "rate = inf"),
        (RUN.format(scenario="single-stream", more="rate = 3"), "'rate' is not a key of single-stream"),
        (RUN.format(scenario="server", more="bound_ms = 5\npercentile = 100"), "percentile = 100"),
        (
            RUN.format(scenario="single-stream", more="lengths = 'nofile'"),
            "run 1: unknown lengths 'nofile': no such file",
        ),
        (RUN.format(scenario="single-stream", more="ids = [5]"), "ids = .*low, high"),
        (RUN.format(scenario="single-stream", more="call = 'ask'"), "call = 'ask'"),
        ("[[run]]\nscenario = 'single-stream'\n", "'model' is missing"),
    ],
)
def test_an_error_names_the_run_and_key(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse("s", text, AT)


def test_an_unknown_scenario_lists_the_bundled_ones() -> None:
    with pytest.raises(ValueError, match="sentiment"):
        read("nosuch", AT)

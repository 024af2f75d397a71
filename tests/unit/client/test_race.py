"""The race: laps from scripted timings, what cannot run, what is said of it, and the command."""

from __future__ import annotations

import json
import signal
import threading

import grpc
import pytest
from unit.client.command import process

import lockstep_client as lc
from lockstep_client import plots, race_report
from lockstep_client.race import (
    FUSED,
    LONGEST_REENCODED,
    ONE_SHOT,
    REENCODING,
    STEPWISE,
    Contender,
    Race,
    RaceResult,
    contenders,
    repeated,
)
from lockstep_client.reading_time import ReadingTime, median_lap

RNN, TRANSFORMER = "sentiment", "other"
RUNNERS = contenders(RNN, RNN, TRANSFORMER)


@pytest.fixture
async def race(server):
    """A race at the fake server, whose two models step and encode again."""
    server.streams.reencoding = (TRANSFORMER,)
    async with lc.AsyncClient(server.address) as client:
        yield Race(client, RUNNERS, "a b c", repeat=2)


async def test_each_way_is_charged_for_what_it_computed(race):
    step, fused, once, again = await race.results(4)
    assert [r.contender for r in (step, fused, once, again)] == list(RUNNERS)
    assert [r.laps for r in (step, fused, once, again)] == [2, 2, 2, 2]
    assert (step.lap.steps, step.lap.computed_elements) == (4, 4)
    assert step.lap.compute_s == pytest.approx(0.004)
    assert step.lap.compute_per_step_s == pytest.approx(0.001)
    assert (again.lap.steps, again.lap.computed_elements) == (4, 10)
    assert again.lap.compute_s == pytest.approx(0.010)
    # The fake classifies in a run of 0.25 s that three rows share.
    assert (fused.lap.steps, fused.lap.computed_elements) == (1, 4)
    assert fused.lap.compute_s == pytest.approx(0.25 / 3)
    for one in (step, fused, once, again):
        assert 0 < one.lap.first_s <= one.lap.last_s
        assert one.lap.answer.name == "positive"


async def test_all_read_the_same_text_of_the_length_asked_for(server, race):
    await race.results(5)
    assert {text for r in server.requests if hasattr(r, "texts") for text in r.texts} == {"a b", "a b c a b"}
    assert repeated("a b c", 2) == "a b"


async def test_the_first_lap_is_watched_and_not_timed(race):
    seen = []
    watched = Race(race.client, RUNNERS, race.text, 1, lambda *told: seen.append(told))
    assert {r.laps for r in await watched.results(3)} == {1}
    assert [(who.way, words, steps) for who, words, steps in seen] == [
        *((STEPWISE, 3, n) for n in (1, 2, 3)),
        (FUSED, 3, 1),
        (ONE_SHOT, 3, 1),
        *((REENCODING, 3, n) for n in (1, 2, 3)),
    ]


async def test_what_is_too_long_for_a_model_is_a_note(server, race):
    server.streams.longest = 3
    step, *_, again = await race.results(4)
    for one in (step, again):
        assert one.lap is None
        assert one.note.startswith("not possible at this length: longer than 3")


async def test_a_model_that_takes_no_text_at_all_is_an_error(server, race, failure):
    server.failures += [failure(grpc.StatusCode.INVALID_ARGUMENT, "it has no tokenizer")]
    with pytest.raises(lc.InvalidRequest, match="tokenizer"):
        await race.results(4)


async def test_long_texts_are_not_encoded_again(race):
    *_, again = await race.results(LONGEST_REENCODED + 1)
    assert again.lap is None
    assert "left out above 200 words: its prefixes are 20,301 elements" in again.note


async def test_a_model_without_a_step_wise_face_does_not_pass_for_one(server, race):
    server.streams.reencoding = (RNN, TRANSFORMER)
    step, *_ = await race.results(4)
    assert step.lap is None
    assert "no step-wise face" in step.note


def test_the_median_is_taken_of_each_time():
    label = lc.Label("positive", 1, 0.75, 1.5)
    laps = [
        ReadingTime(1.0, 6.0, 3.0, 2, 2, label),
        ReadingTime(2.0, 4.0, 9.0, 2, 2, label),
        ReadingTime(3.0, 5.0, 6.0, 2, 2, label),
    ]
    assert median_lap(laps) == ReadingTime(2.0, 5.0, 6.0, 2, 2, label)
    assert median_lap([]) is None


def test_an_empty_name_leaves_its_contender_out():
    assert [one.way for one in contenders("", "rnn", "")] == [FUSED]


# --- what is said of it -------------------------------------------------------------------------------


def result(way, words, first_s, last_s, compute_s, computed=0):
    lap = ReadingTime(first_s, last_s, compute_s, 1, computed, lc.Label("positive", 1, 0.75, 1.5))
    return RaceResult(Contender(way, way), words, lap, 1, "")


def test_the_sentences_follow_from_the_longest_length_that_both_ran():
    results = [
        result(STEPWISE, 10, 9, 9, 9, 10),
        result(FUSED, 10, 1, 1, 9),
        result(REENCODING, 10, 1, 1, 90, 55),
        result(STEPWISE, 100, 0.002, 0.2, 0.05, 100),
        result(FUSED, 100, 0.05, 0.05, 0.01),
        RaceResult(Contender(REENCODING, "t"), 100, None, 0, "left out"),
    ]
    assert race_report.sentences(results) == [
        "At 100 words the step-wise model had its first prediction after 2 ms, 25 times sooner than the fused"
        " run of the whole text (50 ms); its last one came after 200 ms, 4 times later.",
        "For a prediction after each of 10 words, stepping computed 10 elements in 9,000 ms and re-encoding"
        " 55 in 90,000 ms: 10 times as much compute.",
    ]
    assert list(race_report.notes(results)) == ["re-encoding t, 100 words: left out"]


def test_the_sentences_tell_the_other_way_round_too():
    told = " ".join(
        race_report.sentences(
            [
                result(STEPWISE, 10, 2, 4, 2, 10),
                result(FUSED, 10, 2, 2, 1),
                result(REENCODING, 10, 1, 1, 1, 55),
            ]
        )
    )
    assert "no sooner and no later than the fused run" in told
    assert "0.5 times as much compute" in told


def test_without_a_reencoding_the_whole_runs_are_compared():
    told = race_report.sentences([result(FUSED, 10, 2, 2, 1), result(ONE_SHOT, 10, 2, 2, 3)])
    assert told == [
        "Read whole, 10 words cost the fused recurrent model 1,000 ms of compute and the one-shot model"
        " 3,000 ms: 3 times as much."
    ]
    assert race_report.sentences([]) == []


def test_the_plot_holds_who_ran(tmp_path):
    path = tmp_path / "race.svg"
    missing = RaceResult(Contender(ONE_SHOT, "nobody"), 10, None, 0, "not possible")
    plots.race(path, [result(STEPWISE, 10, 1, 2, 3), result(FUSED, 10, 1, 1, 1), missing])
    drawn = path.read_text()
    assert "step-wise step-wise: first prediction" in drawn
    assert "nobody" not in drawn


# --- the command --------------------------------------------------------------------------------------

MODELS = ("--stepwise", RNN, "--fused", RNN, "--oneshot", TRANSFORMER)


@pytest.fixture
def run(server, lockstep):
    server.streams.reencoding = (TRANSFORMER,)
    return lambda *arguments: lockstep("race", *MODELS, "--repeat", "1", *arguments)


def test_the_command_prints_a_table_and_two_sentences(run):
    code, lines, error = run("good film", "--lengths", "3,2")
    assert (code, error) == (0, "")
    assert lines[0].split()[:3] == ["way", "model", "words"]
    assert [line.split()[:3] for line in lines[1:9]] == [
        [way, model, words]
        for words in ("2", "3")
        for way, model in ((STEPWISE, RNN), (FUSED, RNN), (ONE_SHOT, TRANSFORMER), (REENCODING, TRANSFORMER))
    ]
    assert lines[1].split()[-4:] == ["2", "2", "positive", "75%"]
    assert (
        sum(line.startswith(("At 3 words", "For a prediction after each of 3 words")) for line in lines) == 2
    )


def test_the_command_prints_json_lines(run, server):
    server.streams.longest = 2
    _, lines, _ = run("--lengths", "2,3", "--json")
    *told, last = [json.loads(line) for line in lines]
    assert len(told) == 8
    first = told[0]
    assert (first["way"], first["model"], first["words"], first["possible"]) == (STEPWISE, RNN, 2, True)
    assert (first["steps"], first["computed_elements"], first["laps"]) == (2, 2, 1)
    assert first["compute_per_step_s"] == pytest.approx(0.001)
    assert first["answer"]["name"] == "positive"
    assert told[4]["possible"] is False
    assert "not possible at this length" in told[4]["note"]
    assert len(last["shows"]) == 2


def test_the_command_draws(run, tmp_path):
    picture = tmp_path / "race.png"
    assert run("--lengths", "2,4", "--plot", str(picture))[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bars_move_on_a_terminal(run, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    _, lines, _ = run("--lengths", "2")
    shown = "\n".join(lines)
    assert "2 predictions" in shown
    assert "█" * 40 in shown
    assert "way" in shown


def test_a_missing_model_is_one_line(lockstep):
    code, lines, error = lockstep("race", "--lengths", "2")
    assert (code, lines) == (1, [])
    assert error.startswith("lockstep: there is no model 'sentiment-lstm'; the server has sentiment, other")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--lengths", ""), "10,100,1000"),
        (("--lengths", "10,x"), "10,100,1000"),
        (("--lengths", "0"), "10,100,1000"),
        (("--repeat", "0"), "repeat"),
        ((" ",), "empty"),
        (("--plot", "x.nothing"), ".png"),
    ],
)
def test_wrong_usage_is_one_line(run, server, arguments, told):
    code, lines, error = run(*arguments)
    assert (code, lines, server.requests) == (2, [], [])
    assert told in error
    assert error.count("\n") == 1


def test_ctrl_c_cancels_on_the_server(server):
    held = threading.Event()
    server.streams.followed = [held]
    running = process("race", *MODELS, "--address", server.address)
    assert server.asked.wait(20)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=30)
    assert (running.returncode, error) == (130, "")
    assert server.streams.left.wait(10)
    held.set()

"""The race: times from scripted timings, skipped contenders, the report, and the command."""

from __future__ import annotations

import json
import signal
import threading
from random import Random

import grpc
import pytest
from patience import PATIENCE_S
from unit.client.command import process

import lockstep_client as lc
from lockstep_client import plots, race_report, writing
from lockstep_client.race import LONGEST_REENCODED, Race, RaceResult
from lockstep_client.reading import (
    FUSED,
    ONE_SHOT,
    REENCODING,
    STEPWISE,
    Contender,
    ReadingTime,
    contenders,
    measure_whole,
    median_reading,
    repeated,
    turns,
)

RNN, TRANSFORMER = "sentiment", "other"
RUNNERS = contenders(RNN, RNN, TRANSFORMER)


@pytest.fixture
async def race(server):
    """A race on the fake server: one model steps, the other re-encodes."""
    server.streams.reencoding = (TRANSFORMER,)
    async with lc.AsyncClient(server.address) as client:
        yield Race(client, RUNNERS, "a b c", repeat=2)


async def test_each_way_counts_its_own_compute(race):
    step, fused, once, again = await race.results(4)
    assert [r.contender for r in (step, fused, once, again)] == list(RUNNERS)
    assert [r.runs for r in (step, fused, once, again)] == [2, 2, 2, 2]
    assert (step.time.steps, step.time.computed_elements) == (4, 4)
    assert step.time.compute_s == pytest.approx(0.004)
    assert step.time.compute_per_step_s == pytest.approx(0.001)
    assert (again.time.steps, again.time.computed_elements) == (4, 10)
    assert again.time.compute_s == pytest.approx(0.010)
    # The fake classifies in a run of 0.25 s that three rows share.
    assert (fused.time.steps, fused.time.computed_elements) == (1, 4)
    assert fused.time.compute_s == pytest.approx(0.25 / 3)
    for one in (step, fused, once, again):
        assert 0 < one.time.first_s <= one.time.last_s
        assert one.time.answer.name == "positive"


async def test_all_contenders_read_the_same_text_of_the_requested_length(server, race):
    await race.results(5)
    assert {text for r in server.requests if hasattr(r, "texts") for text in r.texts} == {"a b", "a b c a b"}
    assert repeated("a b c", 2) == "a b"


async def test_the_warm_up_run_reports_progress_and_is_not_timed(race):
    seen = []
    watched = Race(race.client, RUNNERS, race.text, 1, lambda *progress: seen.append(progress))
    assert {r.runs for r in await watched.results(3)} == {1}
    assert [(contender.way, words, steps) for contender, words, steps in seen] == [
        *((STEPWISE, 3, n) for n in (1, 2, 3)),
        (FUSED, 3, 1),
        (ONE_SHOT, 3, 1),
        *((REENCODING, 3, n) for n in (1, 2, 3)),
    ]


async def test_a_recording_has_each_prediction_and_its_time(server, race):
    found = [one async for one in race.recordings()]
    step, _fused, _once, again = found
    assert [one.contender for one in found] == list(RUNNERS)
    assert [[m.element for m in one.moments] for one in (step, again)] == [["a", "b", "c"]] * 2
    assert [[m.computed_elements for m in one.moments] for one in found] == [[1, 1, 1], [3], [3], [1, 2, 3]]
    for one in found:
        times = [moment.at_s for moment in one.moments]
        assert times == sorted(times)
        assert one.result.time.last_s == times[-1]
        assert one.result.time.compute_s == pytest.approx(sum(m.compute_s for m in one.moments))
    server.streams.longest = 2
    [*_, again] = [one async for one in race.recordings()]
    assert again.moments == ()
    assert again.note.startswith("not possible at this length: ")


async def test_a_text_that_is_too_long_for_a_model_is_a_note(server, race):
    server.streams.longest = 3
    step, *_, again = await race.results(4)
    for one in (step, again):
        assert one.time is None
        assert one.note.startswith("not possible at this length: longer than 3")


async def test_a_model_that_reads_no_texts_is_an_error(server, race, failure):
    server.failures += [failure(grpc.StatusCode.INVALID_ARGUMENT, "it has no tokenizer")]
    with pytest.raises(lc.InvalidRequest, match="tokenizer"):
        await race.results(4)


async def test_long_texts_are_not_re_encoded(race):
    *_, again = await race.results(LONGEST_REENCODED + 1)
    assert again.time is None
    assert "skipped above 200 words: the prefixes add up to 20,301 elements" in again.note


async def test_a_model_without_a_step_wise_form_is_skipped(server, race):
    server.streams.reencoding = (RNN, TRANSFORMER)
    step, *_ = await race.results(4)
    assert step.time is None
    assert "no step-wise form" in step.note


def test_the_median_is_taken_of_each_time():
    label = lc.Label("positive", 1, 0.75, 1.5)
    laps = [
        ReadingTime(1.0, 6.0, 3.0, 2, 2, label),
        ReadingTime(2.0, 4.0, 9.0, 2, 2, label),
        ReadingTime(3.0, 5.0, 6.0, 2, 2, label),
    ]
    assert median_reading(laps) == ReadingTime(2.0, 5.0, 6.0, 2, 2, label)
    assert median_reading([]) is None


def test_a_blocking_client_measures_a_whole_text(server):
    with lc.Client(server.address) as client:
        found = measure_whole(client, RNN, "a b c d")
    assert (found.steps, found.computed_elements) == (1, 4)
    assert found.compute_s == pytest.approx(0.25 / 3)
    assert 0 < found.first_s == found.last_s


def test_contenders_take_turns():
    assert list(turns("abc", 2)) == [["a", "b", "c"]] * 2
    orders = list(turns("abc", 8, Random(0)))
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_an_empty_name_omits_its_contender():
    assert [one.way for one in contenders("", "rnn", "")] == [FUSED]


# --- the report -------------------------------------------------------------------------------


def result(way, words, first_s, last_s, compute_s, computed=0):
    time = ReadingTime(first_s, last_s, compute_s, 1, computed, lc.Label("positive", 1, 0.75, 1.5))
    return RaceResult(Contender(way, way), words, time, 1, "")


def test_the_sentences_use_the_greatest_common_length():
    results = [
        result(STEPWISE, 10, 9, 9, 9, 10),
        result(FUSED, 10, 1, 1, 9),
        result(REENCODING, 10, 1, 1, 90, 55),
        result(STEPWISE, 100, 0.002, 0.2, 0.05, 100),
        result(FUSED, 100, 0.05, 0.05, 0.01),
        RaceResult(Contender(REENCODING, "t"), 100, None, 0, "skipped"),
    ]
    assert race_report.sentences(results) == [
        "At 100 words the step-wise model had its first prediction after 2 ms, 25 times sooner than the fused"
        " run of the whole text (50 ms); its last one came after 200 ms, 4 times later.",
        "For a prediction after each of 10 words, stepping computed 10 elements in 9,000 ms and re-encoding"
        " 55 in 90,000 ms: 10 times as much compute.",
    ]
    assert list(race_report.notes(results)) == ["re-encoding t, 100 words: skipped"]


def test_the_sentences_also_state_equal_and_smaller_values():
    sentences = " ".join(
        race_report.sentences(
            [
                result(STEPWISE, 10, 2, 4, 2, 10),
                result(FUSED, 10, 2, 2, 1),
                result(REENCODING, 10, 1, 1, 1, 55),
            ]
        )
    )
    assert "no sooner and no later than the fused run" in sentences
    assert "0.5 times as much compute" in sentences


def test_without_re_encoding_fused_and_one_shot_are_compared():
    sentences = race_report.sentences([result(FUSED, 10, 2, 2, 1), result(ONE_SHOT, 10, 2, 2, 3)])
    assert sentences == [
        "For one prediction after 10 words, the fused recurrent model took 1,000 ms of compute and the"
        " one-shot model 3,000 ms: 3 times as much."
    ]
    assert race_report.sentences([]) == []


def test_the_plot_has_the_timed_contenders(tmp_path):
    path = tmp_path / "race.svg"
    missing = RaceResult(Contender(ONE_SHOT, "missing-model"), 10, None, 0, "not possible")
    plots.race(path, [result(STEPWISE, 10, 1, 2, 3), result(FUSED, 10, 1, 1, 1), missing])
    drawn = path.read_text()
    assert "step-wise step-wise: first prediction" in drawn
    assert "missing-model" not in drawn


# --- writers --------------------------------------------------------------------------------------


async def test_a_writer_writes_after_a_context_of_the_requested_length(server):
    async with lc.AsyncClient(server.address) as client:
        [one, missing] = await writing.results(client, [RNN, "nobody"], "to be ", 8, repeat=2)
    asked = [request for request in server.requests if request.model == RNN]
    assert [request.text for request in asked] == ["to be to"] * 3  # one of them warms up
    assert {request.decoding.min_tokens for request in asked} == {writing.TOKENS}
    assert (one.model, one.characters, one.note) == (RNN, 8, "")
    # The fake's four tokens are 4 steps of 0.375 s, without the prefill, that 2.5 rows share.
    assert one.time.tokens == 4
    assert one.time.compute_per_token_s == pytest.approx(0.375 / 2.5 / 4)
    assert one.time.first_s > 0
    assert one.time.token_s >= 0
    assert missing.time is None
    assert missing.note.startswith("unknown model 'nobody'")


def wrote(model, characters, compute_s):
    return writing.WritingResult(model, characters, writing.WritingTime(0.1, compute_s, compute_s, 64))


def test_the_sentences_about_writers_name_the_growth_and_the_winner():
    found = [
        wrote("lstm", 10, 1e-3),
        wrote("gpt", 10, 1e-3),
        wrote("lstm", 1000, 1e-3),
        wrote("gpt", 1000, 5e-3),
    ]
    assert list(writing.sentences(found)) == [
        "A token of lstm took 1 ms of compute after 10 characters and 1 ms after 1,000: 1 times as much.",
        "A token of gpt took 1 ms of compute after 10 characters and 5 ms after 1,000: 5 times as much.",
        "After 1,000 characters a token of gpt takes 5 times the compute of one of lstm.",
    ]
    assert (
        list(writing.sentences([wrote("lstm", 10, 1e-3), writing.WritingResult("gpt", 10, None, "no")])) == []
    )


# --- the command --------------------------------------------------------------------------------------

MODELS = ("--stepwise", RNN, "--fused", RNN, "--oneshot", TRANSFORMER, "--writers", "")


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


def test_the_command_lists_writers_below(run, tmp_path):
    picture = tmp_path / "race.svg"
    code, lines, error = run("--lengths", "2,3", "--writers", f"{RNN}, nobody", "--plot", str(picture))
    assert (code, error) == (0, "")
    at = next(index for index, line in enumerate(lines) if line.startswith("writer"))
    assert [line.split()[:2] for line in lines[at + 1 : at + 5]] == [
        [model, characters] for characters in ("2", "3") for model in (RNN, "nobody")
    ]
    assert sum(line.startswith(f"A token of {RNN} took 37.5 ms of compute after 2") for line in lines) == 1
    assert sum("writing nobody" in line and "unknown model" in line for line in lines) == 2
    assert f"writing {RNN}" in picture.read_text()


def test_the_command_prints_json_lines(run, server):
    server.streams.longest = 2
    _, lines, _ = run("--lengths", "2,3", "--json")
    *rows, last = [json.loads(line) for line in lines]
    assert len(rows) == 8
    first = rows[0]
    assert (first["way"], first["model"], first["words"], first["possible"]) == (STEPWISE, RNN, 2, True)
    assert (first["steps"], first["computed_elements"], first["laps"]) == (2, 2, 1)
    assert first["compute_per_step_s"] == pytest.approx(0.001)
    assert first["answer"]["name"] == "positive"
    assert rows[4]["possible"] is False
    assert "not possible at this length" in rows[4]["note"]
    assert len(last["shows"]) == 2


def test_the_command_plots(run, tmp_path):
    picture = tmp_path / "race.png"
    assert run("--lengths", "2,4", "--plot", str(picture))[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_progress_bars_are_shown_on_a_terminal(run, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    _, lines, _ = run("--lengths", "2")
    shown = "\n".join(lines)
    assert "2 predictions" in shown
    assert "█" * 40 in shown
    assert "way" in shown


def test_an_unknown_model_is_one_line(lockstep):
    code, lines, error = lockstep("race", "--lengths", "2")
    assert (code, lines) == (1, [])
    assert error.startswith(
        "lockstep: unknown model 'sentiment-lstm'; did you mean 'sentiment'? Available: sentiment, other"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lengths", ""), "10,100,1000"),
        (("--lengths", "10,x"), "10,100,1000"),
        (("--lengths", "0"), "10,100,1000"),
        (("--repeat", "0"), "repeat"),
        ((" ",), "empty"),
        (("--plot", "x.nothing"), ".png"),
    ],
)
def test_a_usage_error_is_one_line(run, server, arguments, message):
    code, lines, error = run(*arguments)
    assert (code, lines, server.requests) == (2, [], [])
    assert message in error
    assert error.count("\n") == 1


def test_ctrl_c_cancels_on_the_server(server):
    held = threading.Event()
    server.streams.followed = [held]
    running = process("race", *MODELS, "--address", server.address)
    assert server.request_received.wait(PATIENCE_S)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, error) == (130, "")
    assert server.streams.left.wait(PATIENCE_S)
    held.set()

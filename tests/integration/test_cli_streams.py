"""The streaming verbs against a real server and the shipped models."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE_S, wait_until

from lockstep_client import cli

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.harness import Served

    Run = Callable[..., tuple[int, list[str], str]]

WRITER, TRANSLATOR = "shakespeare-char-lstm", "translate-en-fr"
SOURCE = "A man in a blue shirt is standing on a ladder ."


@pytest.fixture
def lockstep(shipped: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command against the real server. Returns exit code, lines of stdout, and stderr."""
    monkeypatch.setenv("LOCKSTEP_ADDRESS", shipped.address)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


def process(address: str, *arguments: str) -> subprocess.Popen[str]:
    code = "from lockstep_client.__main__ import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--address", address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def objects(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def test_generate_prints_the_text_of_its_json(lockstep: Run) -> None:
    arguments = ("generate", "--model", WRITER, "--prompt", "ROMEO:", "--seed", "7", "--max-tokens", "80")
    code, lines, error = lockstep(*arguments, "--temperature", "0.8")
    assert (code, error) == (0, "")
    *parts, whole = objects(lockstep(*arguments, "--temperature", "0.8", "--json")[1])
    assert "\n".join(lines).rstrip("\n") == whole["text"].rstrip("\n")
    assert "".join(part["piece"] for part in parts) == whole["text"]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    assert (whole["reason"], whole["seed"], len(whole["tokens"])) == ("LENGTH", 7, 80)
    assert whole["timings"]["steps"] >= 79


def test_greedy_needs_no_seed(lockstep: Run) -> None:
    arguments = ("generate", "-m", WRITER, "--prompt", "ROMEO:", "--temperature", "0", "--max-tokens", "40")
    assert lockstep(*arguments) == lockstep(*arguments)


def test_generate_of_no_tokens_is_an_empty_line(lockstep: Run) -> None:
    assert lockstep("generate", "-m", WRITER, "--prompt", "x", "--max-tokens", "0") == (0, [""], "")


def test_translate_prints_a_line_for_each_text(lockstep: Run) -> None:
    code, lines, error = lockstep("translate", "-m", TRANSLATOR, stdin=f"{SOURCE}\nTwo dogs .\n".encode())
    assert (code, error, len(lines)) == (0, "", 2)
    assert "homme" in lines[0]
    assert "chiens" in lines[1]


def test_translate_shows_its_attention(lockstep: Run) -> None:
    arguments = ("translate", "-m", TRANSLATOR, SOURCE, "--attention")
    whole = objects(lockstep(*arguments, "--json")[1])[-1]
    _, lines, _ = lockstep(*arguments)
    assert lines[0] == whole["text"]
    assert "from 10%" in lines[-1]
    rows = lines[-1 - len(whole["pieces"]) : -1]
    for row, piece, weights in zip(rows, whole["pieces"], whole["attention"], strict=True):
        assert row.startswith(piece.removeprefix("▁") or piece)
        assert any(shade in row for shade in "░▒▓█") is (max(weights) >= 0.1)


def test_translate_plots_its_attention(lockstep: Run, tmp_path: Any) -> None:
    picture = tmp_path / "attention.png"
    assert lockstep("translate", "-m", TRANSLATOR, SOURCE, "--plot", str(picture))[0] == 0
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("model", ["sentiment-rnn", "sentiment-gru", "sentiment-lstm"])
def test_follow_prints_each_step(lockstep: Run, model: str) -> None:
    code, lines, error = lockstep("follow", "-m", model, stdin=b"a wonderful and\nmoving film")
    assert (code, error) == (0, "")
    rows = [line.split("\t") for line in lines]
    assert [(row[0], row[1]) for row in rows] == list(
        zip("12345", ("a", "wonderful", "and", "moving", "film"), strict=True)
    )
    assert {row[4] for row in rows} == {"1"}
    assert rows[-1][2] == "positive"
    assert all(float(row[5]) > 0 for row in rows)


def test_follow_prints_each_re_encoding(lockstep: Run) -> None:
    _, lines, _ = lockstep("follow", "-m", "sentiment-transformer", "a wonderful film", "--json")
    assert [one["computed_elements"] for one in objects(lines)] == [1, 2, 3]


def test_a_race_runs_with_the_shipped_models(lockstep: Run) -> None:
    code, lines, error = lockstep("race", "--lengths", "5,20", "--repeat", "2", "--json")
    assert (code, error) == (0, "")
    *found, last = objects(lines)
    results, written = (
        [one for one in found if (one["way"] == "writing") is wanted] for wanted in (False, True)
    )
    at_20 = {one["way"]: one for one in results if one["words"] == 20}
    assert {way: one["steps"] for way, one in at_20.items()} == {
        "step-wise": 20,
        "fused": 1,
        "one-shot": 1,
        "re-encoding": 20,
    }
    assert at_20["step-wise"]["computed_elements"] == at_20["fused"]["computed_elements"] == 20
    assert at_20["re-encoding"]["computed_elements"] == 210
    assert at_20["step-wise"]["answer"]["name"] == at_20["fused"]["answer"]["name"]
    assert at_20["one-shot"]["answer"]["name"] == at_20["re-encoding"]["answer"]["name"]
    assert all(0 < one["first_s"] <= one["last_s"] for one in results)
    assert all(one["compute_s"] > 0 for one in results)
    assert [(one["model"], one["characters"], one["tokens"]) for one in written] == [
        (model, characters, 64) for characters in (5, 20) for model in (WRITER, "shakespeare-gpt")
    ]
    assert all(one["compute_per_token_s"] > 0 for one in written)
    assert len(last["shows"]) == 5


def test_a_race_notes_texts_that_are_too_long(lockstep: Run) -> None:
    arguments = ("race", "--lengths", "5000", "--repeat", "1", "--stepwise", "", "--writers", "", "--json")
    code, lines, error = lockstep(*arguments)
    assert (code, error) == (1, "")  # nothing could be timed
    *results, _ = objects(lines)
    assert [one["possible"] for one in results] == [False, False, False]
    fused, _, again = results
    assert fused["note"].startswith("not possible at this length: ")
    assert again["note"].startswith("skipped above 200 words")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "-m", "sentiment-lstm", "--prompt", "x"), "sentiment-lstm"),
        (("generate", "-m", TRANSLATOR, "--prompt", "x"), "cannot generate"),
        (("translate", "-m", WRITER, "x"), "cannot translate"),
        (("follow", "-m", TRANSLATOR, "x"), TRANSLATOR),
        (("follow", "-m", "nobody", "x"), "available: "),
        (("translate", "-m", TRANSLATOR, "word " * 400), "256"),
        (("generate", "-m", WRITER, "--prompt", "x" * 5000), "4096"),
    ],
)
def test_an_impossible_request_is_one_line(lockstep: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, error = lockstep(*arguments)
    assert code == 1
    assert error.startswith("lockstep: ")
    assert message in error
    assert error.count("\n") == 1


def test_ctrl_c_cancels_generation_on_the_server(shipped: Served) -> None:
    with process(shipped.address, "generate", "-m", WRITER, "--max-tokens", "65536") as running:
        assert running.stdout is not None
        assert running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, error) == (130, "")
    wait_until(lambda: len(shipped.app.requests) == 0, "the stream has left the server")
    shipped.wait_idle()


def test_a_closed_pipe_cancels_generation_on_the_server(shipped: Served) -> None:
    with process(shipped.address, "generate", "-m", WRITER, "--max-tokens", "65536") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(1)
        running.stdout.close()
        assert running.stderr.read() == ""
    shipped.wait_idle()

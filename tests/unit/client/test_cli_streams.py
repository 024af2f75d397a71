"""The streaming verbs: output in a pipe and on a terminal, cancellation and errors."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from typing import Any

import grpc
import pytest
from patience import PATIENCE_S
from unit.client.command import CODE, process, started

from lockstep_proto.v1 import sequences_pb2 as pb


@pytest.fixture
def stuck(server):
    """Streams stall after their first message."""
    held = threading.Event()
    for script in (server.streams.generated, server.streams.translated):
        script[1:] = [held]
    server.streams.followed = [held]
    yield held
    held.set()


@pytest.fixture
def at_terminal(lockstep, monkeypatch):
    """Run the command with a terminal as standard output, in colour and 200 columns wide."""

    def run(*arguments):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        for name, value in (("FORCE_COLOR", "1"), ("COLORTERM", "truecolor"), ("COLUMNS", "200")):
            monkeypatch.setenv(name, value)
        return lockstep(*arguments)

    return run


def objects(lines):
    return [json.loads(line) for line in lines]


# --- generate -----------------------------------------------------------------------------------------


def test_generate_prints_the_exact_text(lockstep):
    code, lines, error = lockstep("generate", "-m", "sentiment", "--prompt", "x")
    assert (code, lines, error) == (0, ["ab", "cd"], "lockstep: unbatched\n")


def test_generate_prints_text_as_it_arrives(server, stuck):
    running = process("generate", "-m", "sentiment", "--prompt", "x", "--address", server.address)
    assert running.stdout.read(2) == "ab"
    server.streams.generated += [pb.GenerateReply(text="d\n", reason=pb.STOP_REASON_END)]
    stuck.set()
    assert running.communicate(timeout=PATIENCE_S) == ("d\n", "lockstep: unbatched\n")
    assert running.returncode == 0


def test_generate_json_ends_with_the_joined_result(lockstep):
    code, lines, error = lockstep("generate", "-m", "sentiment", "--prompt", "x", "--json")
    *parts, whole = objects(lines)
    assert (code, error) == (0, "")
    assert [(p["piece"], p["tokens"]) for p in parts] == [("ab", [4, 5]), ("\nc", [6]), ("d", [7])]
    assert not any("text" in p for p in parts)
    assert (whole["model"], whole["prompt"], whole["text"]) == ("sentiment", "x", "ab\ncd")
    assert (whole["reason"], whole["seed"], whole["tokens"]) == ("LENGTH", 11, [4, 5, 6, 7])
    assert whole["timings"]["first_token_s"] == 0.375


def test_generate_sends_its_options(lockstep, server):
    lockstep(
        "generate", "--model", "other", "--prompt", "x", "--seed", "7", "--max-tokens", "9", "--temperature",
        "0.5", "--top-k", "4", "--top-p", "0.25", "--stop", "a", "--stop", "b", "--version", "2",
        "--log-probabilities",
    )  # fmt: skip
    assert server.requests == [
        pb.GenerateRequest(
            model="other", text="x", seed=7, max_tokens=9, temperature=0.5, top_k=4, top_p=0.25,
            stop=["a", "b"], version="2", log_probabilities=True,
        )
    ]  # fmt: skip


def test_generate_sends_how_tokens_are_chosen(lockstep, server):
    lockstep(
        "generate", "--model", "other", "--beams", "3", "--repetition-penalty", "1.5",
        "--presence-penalty", "0.5", "--no-repeat", "2", "--min-tokens", "4", "--logit-bias", "7=-1",
        "--logit-bias", "9=2", "--forbid", "8", "--length-penalty", "2", "--early-stopping",
        "--top-log-probabilities", "3",
    )  # fmt: skip
    (request,) = server.requests
    assert request.decoding == pb.Decoding(
        beams=3, repetition_penalty=1.5, presence_penalty=0.5, no_repeat=2, min_tokens=4,
        logit_bias={7: -1, 9: 2}, forbidden=[8], length_penalty=2, early_stopping=True,
    )  # fmt: skip
    assert request.top_log_probabilities == 3


def test_samples_are_printed_one_after_the_other(lockstep, server):
    ends: Any = {"reason": pb.STOP_REASON_LENGTH, "seed": 3}
    server.streams.generated = [
        pb.GenerateReply(tokens=[4], text="a", sample=1),
        pb.GenerateReply(tokens=[5], text="b"),
        pb.GenerateReply(tokens=[6], text="c", sample=1, **ends),
        pb.GenerateReply(tokens=[7], text="d", **ends),
    ]
    _, lines, _ = lockstep("generate", "-m", "other", "--prompt", "x", "--samples", "2")
    assert lines == ["bd", "ac"]
    assert server.requests[0].samples == 2


def test_generate_on_a_terminal_shows_seed_and_speed(at_terminal):
    _, lines, _ = at_terminal("generate", "-m", "sentiment", "--prompt", "x")
    assert lines[:2] == ["ab", "cd"]
    remark = " ".join(lines[2:])
    assert all(part in remark for part in ("4 tokens", "LENGTH", "seed 11", "tokens/s", "2.5 rows")), remark


# --- translate ----------------------------------------------------------------------------------------


def test_translate_prints_a_line_for_each_text(lockstep, server):
    code, lines, _ = lockstep("translate", "-m", "sentiment", stdin=b"a man\nmen\n")
    assert (code, lines) == (0, ["un homme", "un homme"])
    assert [r.text for r in server.requests] == ["a man", "men"]
    assert not any(r.attention for r in server.requests)


def test_translate_json_ends_with_the_joined_result(lockstep):
    _, lines, _ = lockstep("translate", "-m", "sentiment", "a man", "--attention", "--json")
    first, second, whole = objects(lines)
    assert (first["piece"], first["source_tokens"]) == ("un", ["a", "man"])
    assert second["attention"] == [[0.25, 0.75], [0.5, 0.5]]
    assert (whole["source"], whole["text"], whole["reason"]) == ("a man", "un homme", "END")
    assert whole["attention"] == [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]


def test_attention_in_a_pipe_is_shaded(lockstep):
    _, lines, _ = lockstep("translate", "-m", "sentiment", "a man", "--attention")
    assert lines == [
        "un homme",
        "      a   man",
        "un    ███ ▒▒▒",
        "homme ▒▒▒ ███",
        "</s>  ▓▓▓ ▓▓▓",
        "      ░ from 10%  ▒ from 25%  ▓ from 50%  █ from 75%",
    ]


def test_attention_on_a_terminal_is_coloured(at_terminal):
    _, lines, _ = at_terminal("translate", "-m", "sentiment", "a man", "--attention")
    assert "un    \x1b[48;" in lines[2]
    assert "█" not in "".join(lines)


def test_attention_is_plotted(lockstep, server, tmp_path):
    picture = tmp_path / "attention.png"
    code, lines, error = lockstep("translate", "-m", "sentiment", "a man", "--plot", str(picture))
    assert (code, lines, error) == (0, ["un homme"], "")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert server.requests[0].attention


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b", "--plot", "x.png"), "exactly one text"),
        (("--plot", "x.png"), "exactly one text"),
        (("a", "--plot", "x.txt"), ".png"),
        (("a", "--plot", "/nowhere/x.png"), "no folder /nowhere"),
    ],
)
def test_an_invalid_plot_is_an_error_before_any_request(lockstep, server, arguments, message):
    code, lines, error = lockstep("translate", "-m", "sentiment", *arguments)
    assert (code, lines, server.requests) == (2, [], [])
    assert message in error
    assert error.count("\n") == 1


def test_a_plot_without_matplotlib_names_the_extra(lockstep, server, monkeypatch):
    monkeypatch.setattr("lockstep_client.plots.find_spec", lambda name: None)
    code, _, error = lockstep("translate", "-m", "sentiment", "a", "--plot", "x.png")
    assert code == 2
    hint = "install the extra with pip install 'lockstep-inference[plot]'\n"
    assert error.endswith(f"--plot needs matplotlib: {hint}")
    assert server.requests == []


# --- follow -------------------------------------------------------------------------------------------

FOLLOWED = ["1\ta\tpositive\t0.7500\t1\t1.000", "2\tfilm\tpositive\t0.7500\t1\t1.000"]


@pytest.mark.parametrize(("arguments", "stdin"), [(("a film",), b""), (("-",), b"a\nfilm"), ((), b"a film")])
def test_follow_prints_a_line_for_each_element(lockstep, server, arguments, stdin):
    assert lockstep("follow", "-m", "sentiment", *arguments, stdin=stdin) == (0, FOLLOWED, "")


def test_follow_prints_the_elements_of_a_re_encoding(lockstep, server):
    server.streams.reencoding = ("sentiment",)
    _, lines, _ = lockstep("follow", "-m", "sentiment", "a film")
    assert [line.split("\t")[4:] for line in lines] == [["1", "1.000"], ["2", "2.000"]]


def test_follow_json_is_one_object_an_element(lockstep):
    _, lines, _ = lockstep("follow", "-m", "sentiment", "a film", "--json", "--top-k", "1")
    one, two = objects(lines)
    assert (one["position"], one["element"], two["labels"][0]["name"]) == (1, "a", "positive")


def test_follow_predicts_while_the_pipe_is_open(server):
    running = process("follow", "-m", "sentiment", "--address", server.address, stdin=subprocess.PIPE)
    for position, word in enumerate(("a", "fine"), start=1):
        running.stdin.write(f"{word} ")
        running.stdin.flush()
        assert running.stdout.readline().startswith(f"{position}\t{word}\t")
    out, error = running.communicate("film", timeout=PATIENCE_S)
    assert (running.returncode, error) == (0, "")
    assert out.startswith("3\tfilm\t")


def test_a_server_error_ends_the_command_while_the_pipe_is_open(server, failure):
    server.streams.followed = [failure(grpc.StatusCode.FAILED_PRECONDITION, "evicted")]
    running = process("follow", "-m", "sentiment", "--address", server.address, stdin=subprocess.PIPE)
    running.wait(PATIENCE_S)
    assert (running.returncode, running.stderr.read()) == (1, "lockstep: evicted\n")
    running.communicate()


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, *arguments):
        self._end, theirs = pty.openpty()
        self._before = termios.tcgetattr(self._end)
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def type(self, keys):
        os.write(self._end, keys.encode())

    def wait_for(self, *texts):
        """Wait until all texts have been shown."""
        until = time.monotonic() + PATIENCE_S
        while not all(one in self.shown for one in texts):
            assert select.select([self._end], [], [], until - time.monotonic())[0], self.shown
            self.shown += os.read(self._end, 1 << 16).decode()

    def end(self):
        """The exit code. Asserts that the terminal and its cursor are restored."""
        code = self.process.wait(PATIENCE_S)
        with suppress(OSError):  # the other end is closed
            while more := os.read(self._end, 1 << 16):
                self.shown += more.decode()
        assert self.shown.rfind("\x1b[?25h") >= self.shown.rfind("\x1b[?25l")
        assert termios.tcgetattr(self._end) == self._before
        os.close(self._end)
        return code


@pytest.fixture
def typist(server):
    """`follow` on a terminal, ready for keys."""
    terminal = Terminal("follow", "-m", "sentiment", "--address", server.address)
    terminal.wait_for("the prediction changes with each word")
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()


def test_follow_on_a_terminal_predicts_at_each_word(server, typist):
    typist.type("a fi")
    typist.wait_for("1 read", "positive", "75%", "computed 1 in 1.00 ms")
    typist.type("\x7f\x1b[Dine ")
    typist.wait_for("2 read")
    typist.shown = ""
    typist.type("\n")
    typist.wait_for("the prediction changes with each word")
    typist.type("\x04")
    assert typist.end() == 0
    texts = [m.text for m in server.streams.received if m.WhichOneof("message") == "text"]
    assert texts == ["a ", "fine "]


def test_ctrl_c_on_a_terminal_cancels_and_restores_the_terminal(server, typist):
    typist.type("a ")
    typist.wait_for("1 read")
    typist.process.send_signal(signal.SIGINT)
    assert typist.end() == 130
    assert server.streams.left.wait(PATIENCE_S)
    assert "Traceback" not in typist.shown


def test_ctrl_c_in_a_race_restores_the_terminal(server):
    server.streams.followed = [threading.Event()]  # never set
    terminal = Terminal(
        "race", "--stepwise", "sentiment", "--fused", "", "--oneshot", "", "--address", server.address
    )
    terminal.wait_for("\x1b[?25l")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown


def test_an_error_on_a_terminal_is_one_line(server):
    terminal = Terminal("follow", "-m", "nothing", "--address", server.address)
    terminal.wait_for("lockstep: unknown model 'nothing'; available: sentiment, other, broken")
    assert terminal.end() == 1
    assert "Traceback" not in terminal.shown


# --- all of them --------------------------------------------------------------------------------------

VERBS = {
    "generate": ("generate", "--prompt", "x"),
    "translate": ("translate", "x"),
    "follow": ("follow", "x"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_server_is_one_line(lockstep, nowhere, verb):
    code, lines, error = lockstep(*VERBS[verb], "-m", "m", "--address", nowhere)
    assert (code, lines) == (1, [])
    assert error == f"lockstep: no server at {nowhere}: start one with `make serve` or set --address\n"


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_model_lists_the_available_ones(lockstep, verb):
    code, lines, error = lockstep(*VERBS[verb], "-m", "sentinent")
    assert (code, lines) == (1, [])
    assert error == (
        "lockstep: unknown model 'sentinent'; did you mean 'sentiment'? Available: sentiment, other, broken\n"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_the_wrong_kind_of_model_is_one_line(lockstep, server, failure, verb):
    server.failures += [failure(grpc.StatusCode.INVALID_ARGUMENT, "model 'other' cannot\ndo that")]
    code, lines, error = lockstep(*VERBS[verb], "-m", "other")
    assert (code, lines, error) == (1, [], "lockstep: model 'other' cannot do that\n")


@pytest.mark.parametrize("verb", VERBS)
def test_an_error_after_the_first_part_keeps_the_output(lockstep, server, failure, verb):
    evicted = failure(grpc.StatusCode.FAILED_PRECONDITION, "evicted")
    server.streams.generated[1:] = server.streams.translated[1:] = [evicted]
    server.streams.followed = [pb.FollowReply(element="y"), evicted]
    code, lines, error = lockstep(*VERBS[verb], "-m", "other")
    assert (code, len(lines), error) == (1, 1, "lockstep: evicted\n")
    code, lines, error = lockstep(*VERBS[verb], "-m", "other", "--json")
    assert (code, len(lines), error) == (1, 2, "")
    assert objects(lines)[-1]["meaning"] == "sequence_lost"


@pytest.mark.parametrize("verb", VERBS)
def test_a_deadline_error_names_the_option(lockstep, stuck, verb):
    code, _, error = lockstep(*VERBS[verb], "-m", "other", "--timeout", "0.2")
    assert code == 1
    assert "within 0.2 s: increase --timeout" in error


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_cancels_on_the_server(server, stuck, verb):
    running = process(*VERBS[verb], "-m", "other", "--address", server.address)
    assert server.request_received.wait(PATIENCE_S)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, error) == (130, "")
    assert server.streams.left.wait(PATIENCE_S)


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_during_a_lock_release_exits_quietly(server, stuck, verb):
    # A KeyboardInterrupt here would make the enclosing `with` fail: "cannot release un-acquired lock".
    code = """
import signal, threading
from lockstep_client.__main__ import main
class Condition(threading.Condition):
    def __init__(self, lock=None):
        super().__init__(lock)
        self._let_go, self._release_save = self._release_save, self._interrupted
    def _interrupted(self):
        state = self._let_go()
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        return state
threading.Condition = Condition
main()
"""
    ended = started(code, *VERBS[verb], "-m", "other", "--address", server.address)
    out, error = ended.communicate(timeout=PATIENCE_S)
    assert (ended.returncode, out, error) == (130, "", "")


def test_a_closed_pipe_cancels_on_the_server(server):
    server.streams.generated = [pb.GenerateReply(text="text " * 1000)] * 2000
    running = process("generate", "-m", "other", "--address", server.address)
    running.stdout.read(10)
    running.stdout.close()
    error = running.stderr.read()
    assert running.wait(PATIENCE_S) == 1
    assert error == ""
    assert server.streams.left.wait(PATIENCE_S)
    running.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("translate", ""), b"", "text 1 is empty"),
        (("translate", "-"), b"", "standard input is empty"),
        (("follow", " "), b"", "text 1 is empty"),
        (("follow", "-"), b"", "standard input is empty"),
        (("follow", "-"), b" \n", "standard input is empty"),
        (("follow", "-"), b"a \xff", "not UTF-8"),
        (("follow", "-"), b"a \xc3", "not UTF-8"),
        (("generate", "--seed", "-1"), b"", "seed"),
        (("generate", "--temperature", "-1"), b"", "temperature"),
        (("generate", "--top-p", "2"), b"", "top-p"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(lockstep, arguments, stdin, message):
    code, _, error = lockstep(*arguments, "-m", "sentiment", stdin=stdin)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1

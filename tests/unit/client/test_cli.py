"""The command line: output, exit codes and error messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2
from patience import PATIENCE_S
from typer.testing import CliRunner
from unit.client.command import process, started

from lockstep_client import cli


def test_classify_prints_a_line_for_each_text(lockstep):
    code, lines, error = lockstep("classify", "--model", "sentiment", "good film", "bad\tfilm")
    assert (code, error) == (0, "")
    assert lines == ["positive\t0.7500\tgood film", "positive\t0.7500\tbad film"]


def test_classify_top_k_prints_a_line_for_each_label(lockstep):
    _, lines, _ = lockstep("classify", "-m", "sentiment", "good", "--top-k", "0")
    assert [line.split("\t")[0] for line in lines] == ["positive", "negative"]


def test_classify_json_is_one_object_a_text(lockstep):
    code, lines, error = lockstep("classify", "--model", "sentiment", "good film", "é", "--json")
    assert (code, error, len(lines)) == (0, "", 2)
    first = json.loads(lines[0])
    assert first["text"] == "good film"
    assert first["labels"] == [{"name": "positive", "index": 1, "probability": 0.75, "score": 1.5}]
    assert first["timings"]["batch_rows"] == 3
    assert (first["model"], first["version"], first["length"]) == ("sentiment", "2", 2)


def test_texts_are_read_from_stdin_with_a_dash_or_a_pipe(lockstep):
    for arguments in (("-",), ()):
        code, lines, _ = lockstep("classify", "-m", "sentiment", *arguments, stdin=b"one\ntwo\r\nthree")
        assert code == 0
        assert [line.split("\t")[2] for line in lines] == ["one", "two", "three"]


def test_lines_are_sent_in_calls_of_32(lockstep, server):
    code, lines, _ = lockstep("classify", "-m", "sentiment", stdin=b"text\n" * 70)
    assert (code, len(lines)) == (0, 70)
    assert [len(r.texts) for r in server.requests] == [32, 32, 6]


def test_encode_prints_vectors_and_attention(lockstep):
    assert lockstep("encode", "-m", "sentiment", "good film")[1] == ["0.5 -1 2\tgood film"]
    _, lines, _ = lockstep("encode", "-m", "sentiment", "good film", "--attention")
    assert lines[1:] == ["good\tgood\t0.500", "film\tgood\t0.500"]
    _, lines, _ = lockstep("encode", "-m", "sentiment", "good film", "--attention", "--json")
    assert json.loads(lines[0])["attention"] == [[[[0.5, 0.5], [0.5, 0.5]]] * 2]


def test_models(lockstep):
    assert lockstep("models")[1][2] == "broken\t1\tUNAVAILABLE\tmodel.toml: no [inputs]"
    _, lines, _ = lockstep("models", "--json")
    assert json.loads(lines[0]) == {"name": "sentiment", "version": "1", "state": "READY", "reason": ""}


def test_health_sets_the_exit_code(lockstep, server):
    assert lockstep("health") == (0, ["SERVING"], "")
    assert lockstep("health", "--model", "sentiment") == (0, ["sentiment\tSERVING"], "")
    server.status = health_pb2.HealthCheckResponse.NOT_SERVING
    code, lines, _ = lockstep("health", "--json")
    assert code == 1
    assert json.loads(lines[0]) == {
        "address": server.address,
        "serving": False,
        "model": "",
        "status": "NOT_SERVING",
    }


def test_a_notice_is_printed_to_stderr_once(lockstep, server):
    server.notice = "served without batching: it failed its self-test"
    _, _, error = lockstep("classify", "-m", "sentiment", "a", "b")
    assert error == f"lockstep: {server.notice}\n"


def test_an_unknown_model_lists_the_available_ones(lockstep):
    code, lines, error = lockstep("classify", "-m", "sentinent", "good")
    assert (code, lines) == (1, [])
    assert error == "lockstep: unknown model 'sentinent'; available: sentiment, other, broken\n"


def test_errors_are_json_with_json(lockstep, server, failure):
    server.failures.append(failure(grpc.StatusCode.INTERNAL, "log id 7"))
    code, lines, error = lockstep("models", "--json")
    assert (code, error) == (1, "")
    assert json.loads(lines[0]) == {"code": "INTERNAL", "meaning": "server_failure", "message": "log id 7"}


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("classify", "-m", "sentiment", ""), b"", "text 1 is empty"),
        (("classify", "-m", "sentiment", "a", " "), b"", "text 2 is empty"),
        (("classify", "-m", "sentiment", "-"), b"", "standard input is empty"),
        (("classify", "-m", "sentiment", "-"), b"a\n\nb\n", "line 2 is empty"),
        (("encode", "-m", "sentiment", "-"), b"\xff\n", "line 1 is not UTF-8"),
        (("classify", "good"), b"", "--model"),
        (("models", "--address", "localhost"), b"", "use HOST:PORT"),
        (("models", "--address", "http://localhost:8001"), b"", "remove http://"),
        (("models", "--timeout", "0"), b"", "above 0"),
        (("models", "--timeout", "soon"), b"", "timeout"),
        (("modles",), b"", "modles"),
        (("models", "--jsn"), b"", "--jsn"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(lockstep, arguments, stdin, message):
    code, lines, error = lockstep(*arguments, stdin=stdin)
    assert (code, lines) == (2, [])
    assert message in error
    assert error.count("\n") == 1
    code, lines, error = lockstep(*arguments, "--json", stdin=stdin)
    assert (code, error) == (2, "")
    assert json.loads(lines[-1])["code"] == "USAGE"


def test_a_deadline_error_names_the_option(lockstep, server):
    server.answers.clear()
    code, _, error = lockstep("models", "--timeout", "0.2")
    assert code == 1
    assert "within 0.2 s: increase --timeout" in error


def test_tables_on_a_terminal(lockstep, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, lines, _ = lockstep("classify", "-m", "sentiment", "[bold]good[/bold] film")
    assert code == 0
    assert any("probability" in line for line in lines)
    assert any("[bold]good[/bold] film" in line for line in lines)
    _, lines, _ = lockstep("encode", "-m", "sentiment", "good")
    assert any("0.500 -1.000 2.000" in line for line in lines)


def test_help_and_version():
    runner = CliRunner()
    verbs = ("classify", "encode", "generate", "translate", "follow", "race", "models", "health")
    shown = runner.invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    assert all(verb in shown.output for verb in verbs)
    assert "completion" not in shown.output
    assert runner.invoke(cli.app, []).output == shown.output
    assert runner.invoke(cli.app, ["--version"]).output == f"lockstep {version('lockstep-inference')}\n"
    for verb in verbs:
        output = runner.invoke(cli.app, [verb, "--help"]).output
        assert all(option in output for option in ("--address", "--timeout", "--json"))


def test_no_server_is_one_line_and_no_traceback(nowhere):
    ended = process("classify", "--model", "m", "text", "--address", nowhere)
    out, error = ended.communicate(timeout=PATIENCE_S)
    assert (ended.returncode, out) == (1, "")
    assert error == f"lockstep: no server at {nowhere}: start one with `make serve` or set --address\n"


def test_ctrl_c_ends_with_130_and_no_traceback(server):
    server.answers.clear()
    running = process("models", "--address", server.address)
    assert server.request_received.wait(PATIENCE_S)
    running.send_signal(signal.SIGINT)
    out, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, out, error) == (130, "", "")


def test_an_ignored_ctrl_c_stays_ignored(server):
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from lockstep_client.__main__ import main
signal.raise_signal(signal.SIGINT)
main()
"""
    ended = started(code, "classify", "-m", "sentiment", "x", "--address", server.address)
    out, error = ended.communicate(timeout=PATIENCE_S)
    assert (ended.returncode, out, error) == (0, "positive\t0.7500\tx\n", "")


@pytest.mark.parametrize(("json_too", "expected"), [((), "\\xe9"), (("--json",), "\\u00e9")])
def test_unencodable_text_is_escaped(server, json_too, expected):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = process(
        "classify", "-m", "sentiment", "é", "--address", server.address, *json_too, env=environment
    )
    out, error = ended.communicate(timeout=PATIENCE_S)
    assert (ended.returncode, error) == (0, "")
    assert expected in out


def test_lines_are_answered_as_they_arrive(server):
    running = process("classify", "-m", "sentiment", "--address", server.address, stdin=subprocess.PIPE)
    for text in ("one", "two"):
        running.stdin.write(f"{text}\n")
        running.stdin.flush()
        assert running.stdout.readline() == f"positive\t0.7500\t{text}\n"
    _, error = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, error) == (0, "")


def test_a_closed_pipe_is_no_error(server):
    texts = ["text " * 200] * 500
    running = process("classify", "-m", "sentiment", "--address", server.address, stdin=subprocess.PIPE)
    running.stdout.close()
    running.stdout = None
    _, error = running.communicate("\n".join(texts), timeout=PATIENCE_S)
    assert "Traceback" not in error
    assert "Exception ignored" not in error


def load_generator(monkeypatch, app):
    """Replace the command of the load generator."""
    monkeypatch.setitem(sys.modules, "lockstep_load.command", SimpleNamespace(app=app))


def test_a_missing_package_of_the_load_generator_is_one_line(lockstep, monkeypatch):
    def lacking(arguments, **_):
        raise ModuleNotFoundError("No module named 'hdrh'", name="hdrh")

    load_generator(monkeypatch, lacking)
    code, lines, error = lockstep("load", "run", "--rate", "3")
    assert (code, lines) == (1, [])
    assert (
        error == "lockstep: lockstep load needs hdrh: install the extra with pip install -e '.[load]'"
        " in a checkout of Lockstep\n"
    )


@pytest.mark.parametrize("arguments", [(), ("--help",), ("run", "--rate", "3", "--json")])
def test_the_load_generator_parses_its_own_arguments(lockstep, monkeypatch, arguments):
    received = []

    def generator(given, **_):
        received.extend(given)
        return 3

    load_generator(monkeypatch, generator)
    assert lockstep("load", *arguments)[0] == 3
    assert received == list(arguments)

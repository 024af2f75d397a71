"""The command line: output, exit codes and error messages."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
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


def test_a_blank_line_is_an_error_of_its_own(lockstep):
    code, lines, error = lockstep("classify", "-m", "sentiment", "-", stdin=b"a\n\nb\n")
    assert (code, lines) == (1, ["positive\t0.7500\ta", "positive\t0.7500\tb"])
    assert error == "lockstep: line 2 is empty: expected one text per line\n"
    _, lines, _ = lockstep("classify", "-m", "sentiment", "-", "--json", stdin=b"a\n\nb\n \n")
    outcomes = [json.loads(line) for line in lines]
    assert [one.get("text", one.get("line")) for one in outcomes] == ["a", 2, "b", 4]
    assert outcomes[1]["code"] == "INVALID_ARGUMENT"


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


def test_models_of_a_server_that_describes_none_are_listed_by_their_states(lockstep):
    assert lockstep("models")[1] == [
        "model      version  state        task  inputs  forms  verb  note",
        "sentiment  1        READY",
        "other      1        READY",
        "broken     1        UNAVAILABLE                             model.toml: no [inputs]",
    ]
    assert lockstep("repository", "list")[1] == lockstep("models")[1]
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


def test_health_waits_until_the_server_serves(lockstep, server, failure):
    server.status = health_pb2.HealthCheckResponse.NOT_SERVING
    assert lockstep("health", "--wait", "0.3")[:2] == (1, ["NOT_SERVING"])
    asked = len(server.requests)
    assert asked > 1
    server.failures.append(failure(grpc.StatusCode.UNAVAILABLE, "the server is starting"))
    states = health_pb2.HealthCheckResponse
    server.statuses = [states.NOT_SERVING, states.SERVING]
    assert lockstep("health", "--wait", "60") == (0, ["SERVING"], "")


def test_health_waits_no_longer_than_it_was_told(lockstep, nowhere):
    code, lines, error = lockstep("health", "--wait", "0.3", "--address", nowhere)
    assert (code, lines) == (1, [])
    assert error.startswith(f"lockstep: no server at {nowhere}")


def test_statistics_are_a_table(lockstep):
    header, row = lockstep("stats")[1]
    assert header.split()[:5] == ["model", "version", "answered", "failed", "runs"]
    assert row.split() == ["sentiment", "2", "0", "0", "2", "2.5", "-", "0.00", "-"]
    assert json.loads(lockstep("stats", "--json")[1][0])["runs"] == 2


def test_models_are_loaded_and_unloaded(lockstep, server):
    for change in ("load", "unload"):
        code, lines, _ = lockstep("repository", change, "sentiment")
        assert code == 0
        assert lines[0].startswith(f"{change}ed sentiment in ")
    assert [request.model_name for request in server.requests] == ["sentiment"] * 2
    assert lockstep("repository", "load", "sentimnet")[2].startswith("lockstep: unknown model 'sentimnet'")


def test_tensors_are_read_from_json_and_files_and_printed(lockstep, tmp_path):
    file = tmp_path / "ids.npy"
    np.save(file, np.array([[12, 7]], np.int64))
    for given in (("tokens=[[12, 7]]",), ("[[12, 7]]",), (f"tokens={file}",)):
        code, lines, error = lockstep("infer", "-m", "sentiment", *given)
        assert (code, lines, error) == (0, ["tokens int64 [1, 2]", "[[12,  7]]"], "")
    _, lines, _ = lockstep("infer", "-m", "sentiment", "-", "--json", stdin=b'{"tokens": [[1]]}')
    assert json.loads(lines[0])["outputs"] == {"tokens": [[1]]}
    assert lockstep("infer", "-m", "sentiment", "[[3]]", "--save", str(tmp_path / "out.npz"))[0] == 0
    assert np.load(tmp_path / "out.npz")["tokens"].tolist() == [[3]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("words=[[1]]", "the model has no input 'words'; it has tokens"),
        ("tokens=[[1.5]]", "input 'tokens': not an array of INT64: its elements are float64"),
        ("tokens=[[1], [2, 3]]", "input 'tokens': not an array of INT64"),
        ("tokens=[[1", "input 'tokens': neither JSON nor the name of a .npy file"),
        ("tokens=missing.npy", "missing.npy: cannot be read as .npy"),
        ("tokens=[[99999999999999999999]]", "input 'tokens': not an array of INT64"),
    ],
)
def test_an_input_that_cannot_be_read_is_named(lockstep, given, message):
    code, lines, error = lockstep("infer", "-m", "sentiment", given)
    assert (code, lines) == (2, [])
    assert message in error


def test_a_server_of_another_kind_is_named(lockstep, server):
    code, _, error = lockstep("describe", "sentiment")
    assert code == 1
    assert error == (
        f"lockstep: {server.address} does not offer this call: it is not a Lockstep server, or an older one\n"
    )


def test_a_notice_is_printed_to_stderr_once(lockstep, server):
    server.notice = "served without batching: it failed its self-test"
    _, _, error = lockstep("classify", "-m", "sentiment", "a", "b")
    assert error == f"lockstep: {server.notice}\n"


def test_an_unknown_model_lists_the_available_ones(lockstep):
    code, lines, error = lockstep("classify", "-m", "sentinent", "good")
    assert (code, lines) == (1, [])
    assert error == (
        "lockstep: unknown model 'sentinent'; did you mean 'sentiment'? Available: sentiment, other, broken\n"
    )
    assert "did you mean" not in lockstep("classify", "-m", "zzz", "good")[2]


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
    verbs = (
        "classify", "encode", "generate", "translate", "follow", "race", "models", "health", "infer",
        "stats", "describe", "capacity", "runs", "why",
    )  # fmt: skip
    shown = runner.invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    assert all(verb in shown.output for verb in (*verbs, "sequence", "doctor", "completion"))
    assert "-completion" not in shown.output  # options for every user, where one verb does it
    assert runner.invoke(cli.app, []).output == shown.output
    assert runner.invoke(cli.app, ["--version"]).output == f"lockstep {version('lockstep-inference')}\n"
    assert re.search(r"^  load +Load tester: ", shown.output, re.MULTILINE)
    for verb in (*verbs, "repository load"):
        output = runner.invoke(cli.app, [*verb.split(), "--help"]).output
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
    install = "install the extra with pip install 'lockstep-inference[load]'"
    assert error == f"lockstep: lockstep load needs hdrh: {install}\n"


def test_a_missing_package_of_the_page_is_one_line(lockstep, monkeypatch):
    monkeypatch.delitem(sys.modules, "lockstep_ui.serving", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, lines, error = lockstep("ui")
    assert (code, lines) == (1, [])
    assert error.startswith(
        "lockstep: lockstep ui needs uvicorn: install the extra with pip install 'lockstep-inference[ui]'"
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


NEEDS = "this command needs"
EXTRA = "install the extra with pip install 'lockstep-inference[export]', or run `make setup`"


@pytest.mark.parametrize(
    ("module", "arguments", "missing", "message"),
    [
        (
            "lockstep_export",
            "zoo list",
            "torch",
            f"lockstep-export: {NEEDS} torch: {EXTRA}",
        ),
        pytest.param(
            "lockstep_export",
            "check rnn",
            "sacrebleu",
            f"lockstep-export: {NEEDS} sacrebleu: ",
            marks=pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is missing first"),
        ),
        ("lockstep_export", "study gradients", "torch", f"lockstep-export: {NEEDS} torch: "),
        ("lockstep_export", "adopt m --out n", "onnx", f"lockstep-export: {NEEDS} onnx: "),
        ("lockstep_export", "variant m --kind int8", "onnx", f"lockstep-export: {NEEDS} onnx: "),
        (
            "lockstep_server",
            "",
            "onnxruntime",
            "lockstep-serve needs onnxruntime: install the extra with pip",
        ),
        ("lockstep_server", "--help", "click", "lockstep-serve needs click: "),
    ],
)
def test_a_command_whose_extra_is_missing_names_it(
    module: str, arguments: str, missing: str, message: str
) -> None:
    ended = started(without(missing, module), *arguments.split())
    out, error = ended.communicate(timeout=PATIENCE_S)
    assert (ended.returncode, out) == (1, "")
    assert error.startswith(message)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "arguments", "code"),
    [
        ("lockstep_export", "--help", 0),
        ("lockstep_export", "adopt --help", 0),
        ("lockstep_export", "study --help", 0),
        ("lockstep_export", "train --no-such-flag", 2),
        ("lockstep_export", "variant m", 2),
        ("lockstep_server", "--help", 0),
        ("lockstep_server", "--no-such-flag", 2),
    ],
)
def test_help_and_usage_errors_need_no_extra(module: str, arguments: str, code: int) -> None:
    ended = started(without("torch", module, "onnx", "onnxruntime", "tokenizers"), *arguments.split())
    out, error = ended.communicate(timeout=PATIENCE_S)
    assert ended.returncode == code
    assert "Usage: " in (error if code else out)
    assert "needs" not in error


def without(missing: str, module: str, *more: str) -> str:
    """Code of the command where some packages are not installed."""
    absent = f"sys.modules.update(dict.fromkeys({(missing, *more)!r}))"
    return f"import sys; {absent}; from {module}.__main__ import main; main()"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_verbs_options_and_models(server) -> None:
    script = """
        eval "$(lockstep completion bash)"
        ask() {
            COMPREPLY=() COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            "_${1//-/_}_completion" "$1"
            echo "${COMPREPLY[*]}"
        }
        ask lockstep cl
        ask lockstep classify --to
        ask lockstep classify --model s
        ask lockstep-serve --engine-n
        ask lockstep-export zoo exp
    """
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LOCKSTEP_ADDRESS": server.address,
    }
    ended = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    verbs, options, models, serve, export = (line.split() for line in ended.stdout.splitlines())
    assert (verbs, options) == (["classify", "classify-tokens"], ["--top-k"])
    assert (serve, export) == (["--engine-nice"], ["export"])
    assert models
    assert all(name.startswith("s") for name in models)


def test_a_group_without_its_verb_lists_them(lockstep) -> None:
    code, lines, error = lockstep("sequence")
    assert (code, lines) == (2, [])
    assert {"get", "put"} <= {line.split()[0] for line in error.splitlines() if line.startswith("  ")}


def test_the_error_for_an_option_before_the_verb_shows_its_place(lockstep) -> None:
    code, lines, error = lockstep("--address", "localhost:1", "health")
    assert (code, lines) == (2, [])
    assert error.endswith("--address; options come after the verb: lockstep VERB --option\n")


def test_the_error_for_a_missing_model_names_the_verb_that_lists_them(lockstep) -> None:
    code, lines, error = lockstep("classify", "a fine film")
    assert (code, lines) == (2, [])
    assert error == "lockstep: Missing option '--model' / '-m'; `lockstep models` lists them\n"

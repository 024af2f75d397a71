"""The verbs that say what a server serves, on the shipped models: what they show works when it is typed."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE_S

from lockstep_client import Client, cli, description

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.harness import Served

    Lockstep = Callable[..., tuple[int, list[str], str]]

SHIPPED = ("sentiment-bow", "sentiment-lstm", "shakespeare-char-lstm", "translate-en-fr", "shakespeare-gpt")


@pytest.fixture
def lockstep(shipped: Served, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Lockstep:
    """Run the command against the real server. Returns exit code, lines of stdout, and stderr."""
    monkeypatch.setenv("LOCKSTEP_ADDRESS", shipped.address)

    def run(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


@pytest.fixture
def client(shipped: Served) -> Iterator[Client]:
    with Client(shipped.address) as connected:
        yield connected


def test_models_say_what_they_take_and_which_verb_answers(lockstep: Lockstep) -> None:
    code, lines, error = lockstep("models")
    assert (code, error) == (0, "")
    header = lines[0]
    columns = {name: header.index(name) for name in header.split()}
    rows = {line.split()[0]: line for line in lines[1:]}
    assert "sentiment-lstm.step" not in rows

    def cell(model: str, column: str, until: str) -> str:
        return rows[model][columns[column] : columns[until]].strip()

    assert cell("sentiment-lstm", "task", "inputs") == "classify"
    assert cell("sentiment-lstm", "inputs", "forms") == "text"
    assert cell("sentiment-lstm", "forms", "verb") == "one-shot, step-wise"
    assert {model: cell(model, "verb", "note") for model in SHIPPED} == {
        "sentiment-bow": "classify", "sentiment-lstm": "classify", "shakespeare-char-lstm": "generate",
        "translate-en-fr": "translate", "shakespeare-gpt": "generate",
    }  # fmt: skip


@pytest.mark.parametrize("model", SHIPPED)
def test_a_description_has_examples_that_work(
    lockstep: Lockstep, client: Client, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, error = lockstep("describe", model)
    assert (code, error) == (0, "")
    assert lines[0].startswith(f"{model}, version 1: task ")
    forms = client.describe(model)
    examples = description.examples(forms, client.address)
    assert set(examples) == {"shell", "Python", "tritonclient"}
    for text in examples.values():
        assert all(f"  {line}".rstrip() in [one.rstrip() for one in lines] for line in text.splitlines())
    command, *arguments = shlex.split(examples["shell"])
    assert command == "lockstep"
    code, printed, error = lockstep(*arguments)
    assert (code, bool(printed)) == (0, True), error
    exec(examples["Python"], {})
    assert capsys.readouterr().out.strip() not in ("", "None")


def test_the_examples_for_tritonclient_work(client: Client) -> None:
    """In a process of their own: tritonclient registers the messages of the server's protocol too."""
    if find_spec("tritonclient") is None:
        pytest.skip("tritonclient is not installed")
    examples = [description.examples(client.describe(name), client.address) for name in SHIPPED]
    code = "\n".join(one["tritonclient"] for one in examples)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "None" not in ended.stdout
    assert ended.stdout.count("[[") >= len(SHIPPED)


def test_every_form_can_be_called_with_tensors_as_described(client: Client, lockstep: Lockstep) -> None:
    for form in client.describe():
        values = [f"{t.name}={description.sample_value(t)}" for t in form.inputs if not t.optional]
        sequence = ("--sequence", "described", "--start", "--end") if form.step_wise else ()
        code, lines, error = lockstep("infer", "--model", form.name, *values, *sequence, "--json")
        assert (code, error) == (0, ""), form.name
        assert set(json.loads(lines[0])["outputs"]) == {one.name for one in form.outputs}


def test_a_description_says_what_a_model_costs_and_returns(client: Client, lockstep: Lockstep) -> None:
    whole, step = client.describe("sentiment-lstm")
    assert (whole.name, step.name) == ("sentiment-lstm", "sentiment-lstm.step")
    assert whole.labels == ("negative", "positive")
    assert "Classify" in whole.methods
    assert step.max_sequences > 1
    assert {(one.name, one.axes) for one in whole.inputs} == {("tokens", ("batch", "words"))}
    assert whole.lengths["words"] >= 512
    by_size = {(cost.rows, cost.length): cost.seconds for cost in whole.costs}
    assert by_size[1, 8] < by_size[1, 512]
    _, lines, _ = lockstep("describe", "sentiment-lstm", "--json")
    assert [json.loads(line)["name"] for line in lines] == [whole.name, step.name]


def test_servers_are_planned_from_what_runs_cost(lockstep: Lockstep, shipped: Served) -> None:
    load = ("capacity", "-m", "sentiment-lstm", "--rate", "5000", "--p99", "200")
    metrics = f"127.0.0.1:{shipped.app.metrics_port}"
    code, lines, _ = lockstep(*load, "--metrics", metrics, "--price", "0.5", "--json")
    planned = json.loads(lines[0])
    assert planned["cost_per_hour"] == planned["servers"] * 0.5
    assert 1e8 < planned["memory_bytes"] < 1e11
    _, lines, _ = lockstep(*load, "--metrics", metrics, "--price", "0.5")
    assert [words in "\n".join(lines) for words in ("GB of memory each", "for a million requests")] == [
        True
    ] * 2
    code, _, error = lockstep(*load, "--metrics", "127.0.0.1:1")
    assert (code, "--metrics" in error) == (2, True)
    code, lines, _ = lockstep(*load, "--json")
    one = planned["one_server"]["requests/s"]
    assert (code, one["latency_s"] <= 0.2) == (0, True)
    assert (planned["servers"] - 2) * one["amount"] < 5000 <= (planned["servers"] - 1) * one["amount"]
    code, _, error = lockstep("capacity", "-m", "sentiment-lstm", "--rate", "5000", "--p99", "0.1")
    assert (code, "choose a larger --p99" in error) == (2, True), error


def test_an_unknown_model_is_named_with_the_most_similar_one(lockstep: Lockstep) -> None:
    code, _, error = lockstep("describe", "sentiment-lstn")
    assert code == 1
    assert "did you mean 'sentiment-lstm'?" in error

"""The flight recorder on a real server: which requests shared which runs, and why one was slow."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import Served, serve
from patience import PATIENCE_S
from security import bearer, digest, write_auth

from lockstep_client import Client, cli
from lockstep_proto.v1 import operations_pb2 as opb
from lockstep_proto.v1 import operations_pb2_grpc
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lockstep_client import Run

WORDS = """
[lengths.words]
max = 64
[inputs.x]
batch_axis = 0
lengths = { 1 = "words" }
[outputs.y]
batch_axis = 0
lengths = { 1 = "words" }
"""
SECRET = "abcabcabcabc"
"""A prompt that no record may show."""


def write_models(root: Path) -> None:
    steps.language(root)
    steps.language(root, "forced", prefill=False)
    steps.adder(root)
    fakes.write_model(root, "words", fakes.identity(), WORDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    write_models(root)
    with serve(root) as started:
        yield started


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def run_together(server: Served, rows: dict[str, list[float]]) -> None:
    """Run requests of one row each, by their ids, that have waited for the device together."""
    with server.hold():
        calls = [
            server.inference.ModelInfer.future(
                fakes.floats("words", [row], request_id=name), timeout=PATIENCE_S
            )
            for name, row in rows.items()
        ]
        server.wait_waiting("words", len(rows))
    for call in calls:
        call.result()


def generate(server: Served, model: str, tokens: int) -> pb.Timings:
    request = pb.GenerateRequest(model=model, text=SECRET, seed=1, max_tokens=tokens)
    return list(server.sequences.Generate(request, timeout=PATIENCE_S))[-1].timings


def recorded(client: Client, model: str, after: int = 0) -> list[Run]:
    return client.runs(model, after=after).result()


def last_number(client: Client) -> int:
    return max((run.number for run in client.runs().result()), default=0)


def test_requests_that_share_a_run_are_in_its_record(server: Served, client: Client) -> None:
    before = last_number(client)
    run_together(server, {"one": [1.0] * 3, "two": [2.0] * 5, "three": [3.0] * 8})
    runs = recorded(client, "words", before)
    ids = {client.ended_requests(request_id=name)[0].request_id for name in ("one", "two", "three")}
    assert {name for run in runs for name in run.requests} == ids
    assert sum(run.rows for run in runs) == 3
    assert sum(run.elements for run in runs) == 16
    for run in runs:
        assert (run.model, run.version, run.kind) == ("words", "1", "ONE_SHOT")
        assert run.padded_elements == run.padded_rows * run.length
        assert run.queue_s > 0
        assert run.compute_s > 0
        assert not run.joined
        assert not run.failed


@pytest.mark.parametrize("model", ["lm", "forced"])
def test_streams_join_and_leave_the_steps_that_the_record_shows(
    server: Served, client: Client, model: str
) -> None:
    before = last_number(client)
    with ThreadPoolExecutor(5) as pool:
        timings = list(pool.map(lambda tokens: generate(server, model, tokens), (3, 5, 9, 9, 20)))
    runs = recorded(client, model, before)
    own_steps = {one.request_id: one.steps for one in timings}
    in_batch: set[str] = set()  # all streams share one batch
    for run in runs:
        if run.kind != "STEP":
            continue
        in_batch |= set(run.joined)
        assert set(run.requests) == in_batch
        assert len(run.requests) == run.rows
        in_batch -= set(run.left)
    assert not in_batch
    for name, count in own_steps.items():
        assert sum(run.kind == "STEP" and name in run.requests for run in runs) == count
        assert sum(name in run.joined for run in runs) == 1
        assert sum(run.kind == "PREFILL" and name in run.requests for run in runs) == (model == "lm")


def test_steps_of_callers_are_recorded_too(server: Served, client: Client) -> None:
    before = last_number(client)
    for start, end in ((True, False), (False, True)):
        client.infer("adder", {"x": np.ones((1, 2), "f4")}, sequence_id=7, sequence_start=start,
                     sequence_end=end)  # fmt: skip
    runs = recorded(client, "adder", before)
    assert [(run.kind, run.rows, len(run.requests)) for run in runs] == [("CLIENT_STEP", 1, 1)] * 2
    assert runs[0].requests != runs[1].requests


def test_a_reader_that_follows_gets_new_runs(server: Served, client: Client) -> None:
    before = last_number(client)
    with client.runs("words", after=before, follow=True, timeout_s=math.inf) as stream:
        arriving = iter(stream)
        for row in ([1.0], [1.0, 2.0]):
            run_together(server, {"followed": row})
            [run] = next(arriving)
            assert run.length == len(row)


def test_a_request_is_explained_by_its_id_and_its_request_id(
    server: Served, client: Client, lockstep: Callable[..., tuple[int, list[str], str]]
) -> None:
    run_together(server, {"held": [1.0] * 4})
    [found] = client.ended_requests(request_id="held")
    for name in ("held", found.request_id):
        code, lines, error = lockstep("why", name)
        assert (code, error) == (0, "")
        assert lines[0].startswith(f"{found.request_id}: ModelInfer of words, version 1, at ")
        assert [line.split()[0] for line in lines[1:6]] == ["part", "admission", "queue", "runs", "other"]
        assert re.match(r"\d+% of the time went by ", lines[6])
        assert any(line.startswith("It ran alone in a run of 1 row of 4 elements") for line in lines)
    _, lines, _ = lockstep("why", "held", "--json")
    explained = json.loads(lines[0])
    assert sum(part["seconds"] for part in explained["parts"]) == pytest.approx(found.seconds)
    assert len(explained["runs"]) == 1


def test_the_slowest_request_of_a_minute_is_explained(
    server: Served, client: Client, lockstep: Callable[..., tuple[int, list[str], str]]
) -> None:
    run_together(server, {"one": [1.0] * 3, "two": [2.0]})
    [slowest, *others] = client.ended_requests("words", since_s=60, limit=1000)
    assert slowest.seconds >= max(one.seconds for one in others)
    code, lines, _ = lockstep("why", "--slowest", "--model", "words")
    assert code == 0
    assert lines[0].startswith(f"{slowest.request_id}: ")


def test_why_says_what_it_does_not_know(lockstep: Callable[..., tuple[int, list[str], str]]) -> None:
    code, lines, error = lockstep("why", "nobody's")
    assert (code, lines) == (1, [])
    assert error == 'lockstep: no request with id "nobody\'s": it has not ended yet, or it is forgotten\n'
    assert lockstep("why")[0] == lockstep("why", "a", "--slowest")[0] == 2


def test_runs_are_printed_and_written_as_json(
    server: Served, client: Client, lockstep: Callable[..., tuple[int, list[str], str]]
) -> None:
    run_together(server, {"printed": [1.0] * 7})
    code, lines, error = lockstep("runs", "--model", "words", "--last", "1")
    assert (code, error, len(lines)) == (0, "", 1)
    cells = lines[0].split("\t")
    assert cells[2:7] == ["words", "one-shot", "1", "7", "0%"]
    _, lines, _ = lockstep("runs", "--model", "words", "--last", "1", "--json")
    run = json.loads(lines[0])
    assert (run["model"], run["kind"], run["length"]) == ("words", "ONE_SHOT", 7)
    assert run["requests"] == [client.ended_requests(request_id="printed")[0].request_id]
    code, lines, error = lockstep("runs", "--model", "wordz")
    assert (code, lines) == (1, [])
    assert error.startswith("lockstep: unknown model 'wordz'")
    assert "did you mean 'words'?" in error


@pytest.fixture
def lockstep(server: Served, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command against the server. Returns exit code, lines of stdout, and stderr."""
    monkeypatch.setenv("LOCKSTEP_ADDRESS", server.address)

    def run(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


def test_records_hold_no_text_and_no_id_of_a_caller(server: Served) -> None:
    generate(server, "lm", 4)
    run_together(server, {"caller-made-id": [1.0]})
    stub = operations_pb2_grpc.OperationsStub(server.channel)
    replies = list(stub.Runs(opb.RunsRequest(), timeout=PATIENCE_S))
    replies.append(stub.Requests(opb.RequestsRequest(limit=1000), timeout=PATIENCE_S))
    sent = b"".join(reply.SerializeToString() for reply in replies)
    assert len(replies[-1].requests) > 2
    assert SECRET.encode() not in sent
    assert b"caller-made-id" not in sent
    assert b"127.0.0.1" not in sent


def test_an_admin_sees_the_runs_of_its_models_only(tmp_path: Path, serving: Callable[..., Served]) -> None:
    models = tmp_path / "models"
    write_models(models)
    auth = write_auth(
        tmp_path / "auth.toml",
        'anonymous = ["health"]\n' + "".join(
            f'[callers.{name}]\ntokens = ["{digest(name)}"]\npermissions = ["admin", "infer", "read"]\n{more}'
            for name, more in (("all", ""), ("some", 'models = ["l*"]\n'))
        ),
    )  # fmt: skip
    server = serving(models, auth_file=auth)
    with Client(server.address, token="all") as everything, Client(server.address, token="some") as some:
        everything.infer("words", {"x": np.ones((1, 3), "f4")})
        everything.generate("lm", SECRET, max_tokens=3).result()
        assert {run.model for run in everything.runs().result()} == {"words", "lm"}
        assert {run.model for run in some.runs().result()} == {"lm"}
        assert {one.model for one in some.ended_requests(limit=9)} == {"lm"}
        assert {form.model for form in some.describe()} == {"lm"}
        stub = operations_pb2_grpc.OperationsStub(server.channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Runs(opb.RunsRequest(model="words"), metadata=bearer("some"), timeout=PATIENCE_S))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_runs_cross_the_process_boundary_in_pieces_and_begin_again_with_a_new_process(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    steps.language(tmp_path)
    server = serving(tmp_path, engine="process")
    with Client(server.address) as client:
        client.generate("lm", "a", max_tokens=300, seed=1).result()
        pieces = list(client.runs())
        assert len(pieces) > 2
        runs = [run for piece in pieces for run in piece]
        assert [run.number for run in runs] == list(range(1, len(runs) + 1))
        assert [run.kind for run in runs] == ["PREFILL"] + ["STEP"] * 299
        os.kill(server.transport.pid, signal.SIGKILL)
        server.wait_serving(serving=False)
        server.wait_serving()
        client.generate("lm", "a", max_tokens=2, seed=1).result()
        assert [run.kind for run in client.runs(after=250).result()] == ["PREFILL", "STEP"]


def test_a_server_that_remembers_nothing_says_nothing(tmp_path: Path, serving: Callable[..., Served]) -> None:
    steps.language(tmp_path)
    server = serving(tmp_path, recorded_runs=0)
    with Client(server.address) as client:
        client.generate("lm", "a", max_tokens=3).result()
        assert client.runs().result() == []
        assert client.ended_requests() == []

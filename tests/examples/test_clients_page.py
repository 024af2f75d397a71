"""docs/clients.md: the grpcurl lines work on a real server and cover every RPC; the Node example works."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest
import tagger
from google.protobuf import json_format, message_factory
from grpc_health.v1 import health_pb2
from integration.harness import serve
from patience import PATIENCE_S, limit_s

from lockstep_proto import open_inference_pb2
from lockstep_proto.v1 import operations_pb2, sequences_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.harness import Served

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()
LINE = re.compile(r"^grpcurl -plaintext (?:-d '([^']*)' )?localhost:8001 ([\w.]+)/(\w+)$", re.MULTILINE)
SERVICES = {
    one.full_name: one
    for file in (sequences_pb2, operations_pb2, open_inference_pb2, health_pb2)
    for one in file.DESCRIPTOR.services_by_name.values()
}


_SECOND = ("ClassifyTokens", "Transcribe", "SystemSharedMemory")
"""The methods of which the shipped models and settings have none."""


_FIRST_STEP = {
    "model_name": "sentiment-lstm.step",
    "inputs": [{"name": "token", "datatype": "INT64", "shape": [1], "contents": {"int64_contents": [12]}}],
    "parameters": {"sequence_id": {"int64_param": 7}, "sequence_start": {"bool_param": True}},
}


class Line(NamedTuple):
    """A grpcurl call of the page."""

    service: str
    method: str
    messages: list[Any]


def lines() -> list[Line]:
    return [Line(service, method, parsed(given)) for given, service, method in LINE.findall(PAGE)]


def parsed(given: str) -> list[Any]:
    """The JSON objects of `-d`; like grpcurl, one empty object if there are none."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while at < len(given):
        one, at = decoder.raw_decode(given, at)
        found.append(one)
        at += given[at:].startswith(" ")
    return found or [{}]


def called(served: Served, line: Line) -> list[Any]:
    """The replies; only the first one of a Watch, which does not end."""
    method = SERVICES[line.service].methods_by_name[line.method]
    kinds = [message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type)]
    messages = [json_format.ParseDict(one, kinds[0]()) for one in line.messages]
    request = iter(messages) if method.client_streaming else messages[0]
    shape = f"{kind(method.client_streaming)}_{kind(method.server_streaming)}"
    call = getattr(served.channel, shape)(
        f"/{line.service}/{line.method}", kinds[0].SerializeToString, kinds[1].FromString
    )(request, timeout=PATIENCE_S)
    if not method.server_streaming:
        return [call]
    if line.method == "Watch":
        first = next(call)
        call.cancel()
        return [first]
    return list(call)


def copied(served: Served, line: Line) -> list[Any]:
    """The replies about sequence 7, which begins by a step, and which PutSequence copies."""
    called(served, Line("inference.GRPCInferenceService", "ModelInfer", [_FIRST_STEP]))
    [get] = [one for one in lines() if one.method == "GetSequence"]
    state = called(served, get)
    if line.method == "GetSequence":
        return state
    put = {**line.messages[0], "state": base64.b64encode(state[0].state).decode()}
    return called(served, line._replace(messages=[put]))


def kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def test_every_rpc_has_a_line() -> None:
    listed = [(line.service, line.method) for line in lines()]
    defined = [(name, method.name) for name, service in SERVICES.items() for method in service.methods]
    assert sorted(listed) == sorted(set(defined) - {("grpc.health.v1.Health", "List")})  # not implemented
    assert PAGE.count("\ngrpcurl -plaintext") == len(listed)


@pytest.fixture(scope="module")
def tagging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a tagger and a CTC model, of which none is shipped, and shared memory, which is off by
    default."""
    root = tmp_path_factory.mktemp("models")
    tagger.write(root)
    shutil.copytree(ROOT / "examples" / "models" / "touchtones", root / "touchtones")
    with serve(root, shared_memory_keys="/lockstep-") as running:
        yield running


@pytest.fixture
def memory() -> Iterator[None]:
    """What the line for SystemSharedMemoryRegister names."""
    file = Path("/dev/shm/lockstep-tensors")
    file.write_bytes(bytes(1024))
    yield
    file.unlink()


@pytest.mark.parametrize("line", lines(), ids=lambda line: line.method)
def test_a_line_works(shipped: Served, tagging: Served, memory: None, line: Line) -> None:
    if line.method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        with pytest.raises(grpc.RpcError) as refused:
            called(shipped, line)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        return
    if line.method in ("GetSequence", "PutSequence"):
        assert all(one.position == 1 for one in copied(shipped, line))
        return
    replies = called(tagging if line.method.startswith(_SECOND) else shipped, line)
    assert replies or line.method == "Runs"  # there may have been none
    assert not any(getattr(one, "error_message", "") for one in replies)
    outcomes = [one for reply in replies for one in getattr(reply, "outcomes", ())]
    assert not any(one.HasField("failure") for one in outcomes)


def test_the_page_lists_every_call_and_error() -> None:
    import lockstep_client as lc

    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        ast.parse(block)
    calls = re.findall(r"`(\w+)`", PAGE.split("| call | returns |")[1].split("\n\n")[0])
    methods = {name for name in vars(lc.Client) if not name.startswith("_")} - {"close"}
    assert {name for name in calls if hasattr(lc.Client, name)} == methods
    errors = PAGE.split("| class | status |")[1].split("\n\n")[0]
    raised = {
        name for name in lc.__all__ if isinstance(kind := getattr(lc, name), type) and
        issubclass(kind, lc.LockstepError)
    } - {"LockstepError"}  # fmt: skip
    assert {name for name in re.findall(r"`(\w+)`", errors) if hasattr(lc, name)} == raised


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its packages installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "client.js"):
        shutil.copy(ROOT / "examples" / "node" / name, folder)
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=limit_s(100))
    except subprocess.TimeoutExpired:
        pytest.skip("the packages of the example cannot be installed here: npm took more than 100 s")
    if done.returncode:
        pytest.skip(f"the packages of the example cannot be installed here: {done.stderr.strip()[-300:]}")
    return folder


def test_the_node_example_works(shipped: Served, node: Path) -> None:
    ended = subprocess.run(
        ["node", "client.js", shipped.address],
        cwd=node,
        env={**os.environ, "LOCKSTEP_PROTOS": str(ROOT / "proto")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    for pattern in (
        r"^(positive|negative) 0?\.?\d+\.?\d* a warm , funny",
        r"^-- ended by STOP_REASON_LENGTH$",
        r"^6 sad ",
        r"^1000 texts over one stream$",
        r"^NOT_FOUND: unknown model 'nobody'",
    ):
        assert re.search(pattern, ended.stdout, re.MULTILINE), (pattern, ended.stdout)

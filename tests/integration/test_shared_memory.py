"""Tensors in POSIX shared memory: what is read and written there, and what nobody may reach through it."""

from __future__ import annotations

import os
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
from integration.harness import Served, refused, serve
from patience import PATIENCE_S

from lockstep_proto import open_inference_pb2 as pb
from lockstep_server.api import shared_memory
from lockstep_server.errors import ServingError
from lockstep_server.frontend.callers import Caller, current

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = f"lockstep-test-{os.getpid()}"
X = np.arange(12, dtype=np.float32).reshape(2, 6)
BIG = np.arange(1 << 19, dtype=np.float32).reshape(2, -1)  # 2 MB, copied by a thread


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    fakes.write_model(root, "same", fakes.identity())
    fakes.write_model(root, "words", fakes.identity("BYTES"))
    with serve(root, shared_memory_keys=f"/{PREFIX}", max_message_mb=4) as running:
        yield running


@pytest.fixture
def memory(server: Served) -> Iterator[Any]:
    """Registered as "tensors", 8 MB."""
    made = SharedMemory(f"{PREFIX}-tensors", create=True, size=8 << 20)
    register(server, "tensors", made.name, 8 << 20)
    yield made
    call(server, "Unregister", pb.SystemSharedMemoryUnregisterRequest())
    made.close()
    made.unlink()


def call(server: Served, verb: str, request: Any) -> Any:
    return getattr(server.inference, f"SystemSharedMemory{verb}")(request, timeout=PATIENCE_S)


def register(server: Served, name: str, key: str, size: int, offset: int = 0) -> None:
    call(
        server,
        "Register",
        pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size, offset=offset),
    )


def place(parameters: Any, size: int, offset: int = 0, region: str = "tensors") -> None:
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = size
    parameters["shared_memory_offset"].int64_param = offset


def request(array: Any = X, model: str = "same", datatype: str = "FP32") -> pb.ModelInferRequest:
    """Input at the begin of the region, output 4 MB after it."""
    made = pb.ModelInferRequest(model_name=model)
    place(made.inputs.add(name="x", datatype=datatype, shape=array.shape).parameters, array.nbytes)
    place(made.outputs.add(name="y").parameters, 4 << 20, 4 << 20)
    return made


def infer(server: Served, sent: pb.ModelInferRequest) -> Any:
    return server.inference.ModelInfer(sent, timeout=PATIENCE_S)


@pytest.mark.parametrize("array", [X, BIG], ids=["small", "large"])
@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
def test_tensors_are_read_and_written(server: Served, memory: Any, array: Any, streamed: bool) -> None:
    memory.buf[: array.nbytes] = array.tobytes()
    sent = request(array)
    if streamed:
        (answer,) = server.inference.ModelStreamInfer(iter([sent]), timeout=PATIENCE_S)
        assert not answer.error_message
        reply = answer.infer_response
    else:
        reply = infer(server, sent)
    assert list(reply.raw_output_contents) == [b""]
    (output,) = reply.outputs
    assert (list(output.shape), output.parameters["shared_memory_byte_size"].int64_param) == (
        list(array.shape),
        array.nbytes,
    )
    assert output.parameters["shared_memory_region"].string_param == "tensors"
    assert bytes(memory.buf[4 << 20 : (4 << 20) + array.nbytes]) == array.tobytes()


def test_words_are_read_and_written(server: Served, memory: Any) -> None:
    content = b"".join(len(one).to_bytes(4, "little") + one for one in (b"two", "naïve".encode()))
    memory.buf[: len(content)] = content
    sent = request(np.empty((1, 2), object), "words", "BYTES")
    sent.inputs[0].parameters["shared_memory_byte_size"].int64_param = len(content)
    infer(server, sent)
    assert bytes(memory.buf[4 << 20 : (4 << 20) + len(content)]) == content


def test_only_the_input_may_be_there(server: Served, memory: Any) -> None:
    memory.buf[: X.nbytes] = X.tobytes()
    sent = request()
    del sent.outputs[:]
    assert infer(server, sent).raw_output_contents[0] == X.tobytes()


def test_status_lists_the_regions(server: Served, memory: Any) -> None:
    register(server, "part", memory.name, 100, offset=28)
    status = call(server, "Status", pb.SystemSharedMemoryStatusRequest())
    assert {one.name: (one.key, one.offset, one.byte_size) for one in status.regions.values()} == {
        "tensors": (memory.name, 0, 8 << 20),
        "part": (memory.name, 28, 100),
    }
    call(server, "Unregister", pb.SystemSharedMemoryUnregisterRequest(name="part"))
    with refused(grpc.StatusCode.NOT_FOUND, words="part"):
        call(server, "Status", pb.SystemSharedMemoryStatusRequest(name="part"))
    metadata = server.inference.ServerMetadata(pb.ServerMetadataRequest(), timeout=PATIENCE_S)
    assert "system_shared_memory" in metadata.extensions


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("other", "not allowed"),
        (f"{PREFIX}/../x", "not allowed"),
        (f"../shm/{PREFIX}", "not allowed"),
        (f"{PREFIX}-nothing", "cannot be opened"),
        (f"{PREFIX}-link", "cannot be opened"),
    ],
    # The same in all processes: without the process id.
    ids=["not named", "folder above", "other folder", "nothing", "link"],
)
def test_other_memory_and_files_are_out_of_reach(server: Served, key: str, words: str) -> None:
    link = f"/dev/shm/{PREFIX}-link"
    os.symlink(__file__, link)
    try:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "key", words):
            register(server, "wrong", key, 8)
    finally:
        os.unlink(link)


def test_a_region_must_be_in_the_memory(server: Served, memory: Any) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "byte_size", "not in memory"):
        register(server, "long", memory.name, 8 << 20, offset=1 << 20)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "name", "registered already"):
        register(server, "tensors", memory.name, 8)


def change(**fields: int) -> pb.ModelInferRequest:
    made = request()
    for name, value in fields.items():
        side, _, key = name.partition("_")
        tensors: Any = made.inputs if side == "input" else made.outputs
        tensors[0].parameters[f"shared_memory_{key}"].int64_param = value
    return made


@pytest.mark.parametrize(
    ("sent", "field", "words"),
    [
        (change(input_offset=8 << 20), "x", "not in the region"),
        (change(input_offset=-1), "x", "not in the region"),
        (change(input_byte_size=7), "x", "raw content has 7 bytes"),
        (change(input_byte_size=5 << 20), "inputs.shared_memory_byte_size", "at most"),
        (change(output_byte_size=8), "outputs.y", "send a larger one"),
    ],
    ids=["outside", "negative", "another size", "too large", "no place for the output"],
)
def test_wrong_places_are_named(
    server: Served, memory: Any, sent: pb.ModelInferRequest, field: str, words: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, field, words):
        infer(server, sent)


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_an_unknown_region_is_named_and_counted_as_refused(
    server: Served, memory: Any, side: str, streamed: bool
) -> None:
    def counts() -> tuple[float, float]:
        method = "ModelStreamInfer" if streamed else "ModelInfer"
        refused = server.metric("lockstep_refused_total", model="same", method=method, code="not_found")
        return refused, server.metric("lockstep_accepted_total")

    sent, (before, accepted) = request(), counts()
    getattr(sent, side)[0].parameters["shared_memory_region"].string_param = "nothing"
    if streamed:
        (reply,) = server.inference.ModelStreamInfer(iter([sent]), timeout=PATIENCE_S)
        assert "'nothing' is not registered" in reply.error_message
    else:
        with refused(grpc.StatusCode.NOT_FOUND, words="'nothing' is not registered"):
            infer(server, sent)
    assert counts() == (before + 1, accepted)


@pytest.mark.parametrize("side", ["input", "output"])
def test_memory_that_shrinks_is_an_error_and_harms_nobody(server: Served, memory: Any, side: str) -> None:
    sent = request()
    if side == "output":
        del sent.inputs[0].parameters["shared_memory_region"]
        sent.raw_input_contents.append(X.tobytes())
    os.truncate(f"/dev/shm/{memory.name}", 16)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "shared_memory_region", "smaller"):
        infer(server, sent)
    assert infer(server, fakes.floats("same", X)).model_name == "same"


def test_named_callers_have_their_own_regions(memory: Any) -> None:
    regions = shared_memory.SharedMemory(PREFIX, 1 << 20, lambda _: None)
    wanted = pb.SystemSharedMemoryRegisterRequest(name="mine", key=memory.name, byte_size=8)
    alice, bob = (Caller(name, account=name) for name in ("alice", "bob"))
    current.set(alice)
    regions.register(wanted)
    current.set(bob)
    assert not regions.status("").regions
    regions.unregister("mine")
    with pytest.raises(ServingError, match="not registered"):
        regions.status("mine")
    current.set(alice)
    assert list(regions.status("").regions) == ["mine"]

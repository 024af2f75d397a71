"""Uses the server through tritonclient, in a separate process because it also defines `inference.*`.

Run as `python triton_checks.py HOST:PORT`, with tests/ in PYTHONPATH; prints {check: "" or error} as JSON.
"""

from __future__ import annotations

import json
import queue
import sys
import traceback
from typing import TYPE_CHECKING, Any

from patience import PATIENCE_S

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

CHECKS = (
    "infer",
    "strings",
    "asynchronous",
    "stream",
    "errors",
    "metadata_calls",
    "statistics",
    "repository",
    "classes",
    "final_response",
    "shared_memory",
)


def _inputs(rows: list[list[float]]) -> list[Any]:
    import numpy as np
    from tritonclient import grpc as triton

    array = np.array(rows, np.float32)
    one = triton.InferInput("x", array.shape, "FP32")
    one.set_data_from_numpy(array)
    return [one]


def infer(client: InferenceServerClient) -> None:
    from tritonclient import grpc as triton

    result = client.infer(
        "same",
        _inputs([[1, 2]]),
        outputs=[triton.InferRequestedOutput("y")],
        request_id="7",
        priority=1,
        timeout=10**7,
    )
    assert result.as_numpy("y").tolist() == [[1, 2]]
    assert result.get_response().id == "7"


def strings(client: InferenceServerClient) -> None:
    import numpy as np
    from tritonclient import grpc as triton

    one = triton.InferInput("x", [1, 2], "BYTES")
    one.set_data_from_numpy(np.array([["naïve", ""]], object))
    got = client.infer("words", [one]).as_numpy("y")
    assert [element.decode() for element in got[0]] == ["naïve", ""]


def asynchronous(client: InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    for i in range(20):
        client.async_infer(
            "same", _inputs([[i]]), lambda result, error: answers.put((result, error)), request_id=str(i)
        )
    found = [answers.get(timeout=PATIENCE_S) for _ in range(20)]
    assert all(error is None for _, error in found)
    assert {r.get_response().id: r.as_numpy("y").item() for r, _ in found} == {str(i): i for i in range(20)}


def classes(client: InferenceServerClient) -> None:
    from tritonclient import grpc as triton

    best = triton.InferRequestedOutput("y", class_count=1)
    got = client.infer("same", _inputs([[1, 5], [7, 2]]), outputs=[best]).as_numpy("y")
    assert [[element.decode() for element in row] for row in got] == [["5.000000:1"], ["7.000000:0"]]


def final_response(client: InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("same", _inputs([[1, 2]]), enable_empty_final_response=True)
    result, error = answers.get(timeout=PATIENCE_S)
    client.stop_stream()
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param


def shared_memory(client: InferenceServerClient) -> None:
    import os

    import numpy as np
    import tritonclient.utils.shared_memory as shm
    from tritonclient import grpc as triton

    x = np.array([[1, 2], [3, 4]], np.float32)
    key, size = f"/lockstep-test-{os.getpid()}", x.nbytes
    region = shm.create_shared_memory_region("tensors", key, 2 * size)
    try:
        shm.set_shared_memory_region(region, [x])
        client.register_system_shared_memory("tensors", key, 2 * size)
        assert list(client.get_system_shared_memory_status(as_json=True)["regions"]) == ["tensors"]
        sent = triton.InferInput("x", x.shape, "FP32")
        sent.set_shared_memory("tensors", size)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("tensors", size, offset=size)
        output = client.infer("same", [sent], outputs=[wanted]).get_output("y")
        assert output.parameters["shared_memory_byte_size"].int64_param == size
        found = shm.get_contents_as_numpy(region, np.float32, [2, 2], offset=size)
        assert found.tolist() == x.tolist()
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status(as_json=True).get("regions")
    finally:
        shm.destroy_shared_memory_region(region)


def stream(client: InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for i in range(20):
        client.async_stream_infer("same", _inputs([[i]]), request_id=str(i), enable_empty_final_response=True)
    client.async_stream_infer("nobody", _inputs([[1]]), request_id="wrong")
    client.async_stream_infer("same", _inputs([[99]]), request_id="99")
    found = [answers.get(timeout=PATIENCE_S) for _ in range(22)]
    client.stop_stream()
    good = {r.get_response().id: r.as_numpy("y").item() for r, error in found if error is None}
    assert good == {**{str(i): i for i in range(20)}, "99": 99}
    (error,) = [error for _, error in found if error is not None]
    assert "nobody" in str(error)
    assert answers.empty()


def errors(client: InferenceServerClient) -> None:
    from tritonclient.utils import InferenceServerException

    for model, rows, status in (("nobody", [[1.0]], "NOT_FOUND"), ("wide", [[1.0]], "INVALID_ARGUMENT")):
        try:
            client.infer(model, _inputs(rows))
        except InferenceServerException as error:
            assert status in str(error.status())  # noqa: PT017
        else:
            raise AssertionError(f"{model} answered")


def metadata_calls(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("same")
    assert client.is_model_ready("same", "1")
    assert client.get_server_metadata(as_json=True)["name"] == "lockstep"
    metadata = client.get_model_metadata("same", as_json=True)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "-1"]}]
    config = client.get_model_config("same", as_json=True)["config"]
    assert config["max_batch_size"] == 64
    assert "dynamic_batching" in config
    assert config["input"][0]["name"] == "x"


def statistics(client: InferenceServerClient) -> None:
    def queue_count() -> int:
        (one,) = client.get_inference_statistics("same", as_json=True)["model_stats"]
        assert int(one["version"]) == 1
        return int(one["inference_stats"]["queue"].get("count", 0))

    before = queue_count()
    client.infer("same", _inputs([[1]]))
    assert queue_count() == before + 1


def repository(client: InferenceServerClient) -> None:
    from tritonclient.utils import InferenceServerException

    index = client.get_model_repository_index(as_json=True)["models"]
    assert {(one["name"], one["state"]) for one in index} == {(n, "READY") for n in ("same", "wide", "words")}
    try:
        client.unload_model("same")
    except InferenceServerException as error:
        assert "PERMISSION_DENIED" in str(error.status())  # noqa: PT017
    else:
        raise AssertionError("unloading is off")


def main(address: str) -> None:
    from tritonclient import grpc as triton

    found = {}
    with triton.InferenceServerClient(address) as client:
        for name in CHECKS:
            try:
                globals()[name](client)
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

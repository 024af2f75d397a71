"""Engines in a separate process: the same answers as with threads, and restarts after a crash."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import REPOSITORY, Served, refused
from patience import PATIENCE_S, wait_until

from lockstep_client.server_process import ServerProcess
from lockstep_proto import open_inference_pb2 as ipb
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = ["a fine film", "dull and long", "not bad at all , but not good", "yes"] * 20


@pytest.fixture
def server(tmp_path: Path, serving: Callable[..., Served]) -> Served:
    steps.language(tmp_path)
    fakes.write_model(tmp_path, "identity", fakes.identity())
    return serving(tmp_path, engine="process")


def endless(server: Served) -> Any:
    request = pb.GenerateRequest(model="lm", text="a", max_tokens=10_000_000)
    return server.sequences.Generate(request, timeout=PATIENCE_S)


def kill(server: Served, number: int = signal.SIGKILL) -> int:
    pid: int = server.transport.pid
    os.kill(pid, number)
    return pid


def test_an_engine_process_gives_the_same_answers_as_threads(
    shipped: Served, serving: Callable[..., Served]
) -> None:
    server = serving(REPOSITORY, engine="process", only="sentiment-lstm")
    request = pb.ClassifyRequest(model="sentiment-lstm", texts=TEXTS)
    threads, process = (one.sequences.Classify(request, timeout=PATIENCE_S) for one in (shipped, server))
    assert [one.labels[0].score for one in threads.results] == [
        one.labels[0].score for one in process.results
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a nice value per thread")
def test_only_one_shot_threads_have_a_lower_priority(server: Served) -> None:
    threads = Path(f"/proc/{server.transport.pid}/task").iterdir()
    priorities = sorted(os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads)
    lowered = [one for one in priorities if one != priorities[0]]
    assert lowered == [priorities[0] + 5]  # the thread of the only one-shot model


def test_large_tensors_cross_the_process_boundary_unchanged(server: Served) -> None:
    sent = np.random.default_rng(1).standard_normal((600, 1500)).astype(np.float32)
    reply = server.infer(fakes.request("identity", {"x": ("FP32", sent)}))
    assert np.array_equal(fakes.values(reply, "y"), sent)


def test_a_dead_process_fails_its_requests_and_is_restarted(server: Served) -> None:
    calls = [endless(server) for _ in range(4)]
    for call in calls:
        next(call)
    first = kill(server)
    for call in calls:
        with refused(grpc.StatusCode.UNAVAILABLE, words="restarting"):
            list(call)
    wait_until(lambda: not server.serving("lm") or server.transport.pid != first, "NOT_SERVING or restarted")
    server.wait_serving()
    assert server.serving("lm")
    assert server.transport.pid != first
    request = pb.GenerateRequest(model="lm", text="a", max_tokens=5)
    assert sum(len(one.tokens) for one in server.sequences.Generate(request, timeout=PATIENCE_S)) == 5
    assert server.metric("lockstep_accepted_total") == server.metric("lockstep_requests_total")
    assert server.metric("lockstep_engine_restarts_total") == 1
    assert server.metric("lockstep_engine_up") == 1


def test_calls_during_a_restart_are_unavailable(server: Served) -> None:
    kill(server)
    wait_until(lambda: not server.serving("lm"), "NOT_SERVING")
    with refused(grpc.StatusCode.UNAVAILABLE, words="loading"):
        server.infer(fakes.request("identity", {"x": ("FP32", np.ones((1, 1)))}))
    assert server.metric("lockstep_refused_total", model="identity", version="", code="unavailable") == 1
    assert server.serving("live")
    server.wait_serving()


def test_what_was_unloaded_or_removed_stays_so_after_a_restart(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    for name in ("kept", "removed", "unloaded", "unloaded-and-removed"):
        fakes.write_model(tmp_path, name, fakes.identity())
    server = serving(engine="process", model_control="explicit")
    for name in ("unloaded", "unloaded-and-removed"):
        server.inference.RepositoryModelUnload(ipb.RepositoryModelUnloadRequest(model_name=name))
    for name in ("removed", "unloaded-and-removed"):
        shutil.rmtree(tmp_path / name)
    kill(server)
    wait_until(lambda: not server.serving("kept"), "NOT_SERVING")
    server.wait_serving()
    index = server.inference.RepositoryIndex(ipb.RepositoryIndexRequest()).models
    states = {one.name: one.state for one in index}
    assert states.pop("kept") == "READY"
    assert set(states.values()) == {"UNAVAILABLE"}
    with refused(grpc.StatusCode.NOT_FOUND, words="not in the repository any more"):
        server.infer(fakes.floats("removed", [[1]]))
    load = ipb.RepositoryModelLoadRequest(model_name="unloaded")
    server.inference.RepositoryModelLoad(load, timeout=PATIENCE_S)
    assert fakes.values(server.infer(fakes.floats("unloaded", [[1]])), "y").item() == 1


def test_a_selected_model_that_was_removed_does_not_prevent_a_restart(
    tmp_path: Path, serving: Callable[..., Served]
) -> None:
    for name in ("kept", "removed", "loaded-later"):
        fakes.write_model(tmp_path, name, fakes.identity())
    server = serving(engine="process", model_control="explicit", only="kept,removed")
    load = ipb.RepositoryModelLoadRequest(model_name="loaded-later")
    server.inference.RepositoryModelLoad(load, timeout=PATIENCE_S)
    shutil.rmtree(tmp_path / "removed")
    kill(server)
    wait_until(lambda: not server.serving("kept"), "NOT_SERVING")
    server.wait_serving()
    assert server.serving("kept")
    assert server.serving("loaded-later")
    assert not server.serving("removed")


def test_the_engine_process_ignores_sigint_and_sigterm(server: Served) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        kill(server, number)
    call = endless(server)
    next(call)
    call.cancel()


def test_killing_the_front_end_leaves_no_engine_process(tmp_path: Path) -> None:
    steps.language(tmp_path)
    with ServerProcess("--models", str(tmp_path)) as server:
        server.wait_listening(PATIENCE_S)
        (engine,) = _children(server.process.pid)
        server.process.kill()
    wait_until(lambda: not _alive(engine), "the engine process has ended")


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_missing_repository_is_an_error(tmp_path: Path, serving: Callable[..., Served]) -> None:
    with pytest.raises(LoadError, match="no such folder"):
        serving(tmp_path / "none", engine="process")

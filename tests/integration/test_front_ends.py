"""Several front ends before one engine: what one knows the others know, and one that dies is replaced.

Calls go over several connections in turn, which reach both front ends. Which connection reaches which of them
is the system's choice, so every test holds for any choice.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import FRONT_ENDS, Served, Stubs, refused, serve, settings
from patience import PATIENCE_S, wait_until
from security import bearer, digest, write_auth

from lockstep_client.server_process import ServerProcess
from lockstep_proto import open_inference_pb2 as ipb
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.errors import LoadError
from lockstep_server.ipc import heartbeat
from lockstep_server.supervisor import Supervisor, reserve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECTIONS = 8
ENDLESS = 10_000_000
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    steps.language(root)
    steps.adder(root, slots=32)
    fakes.write_model(root, "identity", fakes.identity())
    fakes.write_model(root, "slow", fakes.slow())
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Served]:
    more = {"model_control": "explicit", "max_stall_s": 3600}  # so no stream ends by itself
    with serve(models, engine=FRONT_ENDS, **more) as started:
        yield started


def identity(server: Stubs, **more: Any) -> Any:
    return server.inference.ModelInfer(fakes.floats("identity", [[1]]), timeout=PATIENCE_S, **more)


def add(server: Stubs, sequence: int, *, start: bool = False) -> float:
    request = fakes.request("adder", {"x": ("FP32", np.ones((1, 2)))})
    request.parameters["sequence_id"].int64_param = sequence
    request.parameters["sequence_start"].bool_param = start
    return float(fakes.values(server.infer(request), "y")[0, 0])


def generate(server: Stubs, tokens: int, **more: Any) -> Any:
    request = pb.GenerateRequest(model="lm", text="a", max_tokens=tokens, seed=3)
    return server.sequences.Generate(request, **{"timeout": PATIENCE_S, **more})


def slots(server: Served) -> float:
    """How many sequences there are, in any state."""
    return server.metric("lockstep_sequences", model="lm")


def pids(server: Served) -> dict[int, int]:
    """The front ends that serve: process ids by number."""
    return {number: one.pid for number, one in server.app.front_ends.items() if one.serves}


def kill(server: Served, number: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Kill a front end, and wait until another one serves in its place."""
    os.kill(pids(server)[number], how)
    wait_until(lambda: number not in pids(server) and len(pids(server)) == 2, "another front end")


def test_metrics_and_statistics_are_sums_and_survive_a_dead_front_end(server: Served) -> None:
    def counted() -> list[float]:
        request = ipb.ModelStatisticsRequest(name="identity")
        (statistics,) = server.inference.ModelStatistics(request, timeout=PATIENCE_S).model_stats
        return [
            server.metric("lockstep_accepted_total", model="identity"),
            server.metric("lockstep_requests_total", model="identity", outcome="ok"),
            server.metric("lockstep_request_seconds_count", model="identity"),
            statistics.inference_stats.success.count,
        ]

    before = counted()
    for _ in range(2 * CONNECTIONS):
        identity(server)
    after = counted()
    assert [one - other for one, other in zip(after, before, strict=True)] == [2 * CONNECTIONS] * 4
    restarts = server.metric("lockstep_frontend_restarts_total")
    kill(server, min(pids(server)))
    assert counted()[:3] == after[:3]
    assert server.metric("lockstep_frontend_restarts_total") == restarts + 1
    assert server.samples("lockstep_engine_up") == {(): 1.0}
    assert server.metric("lockstep_model_ready", model="identity") == 1


def test_a_killed_front_end_ends_its_streams_only(server: Served) -> None:
    calls = [generate(server, ENDLESS) for _ in range(2 * CONNECTIONS)]
    for call in calls:
        next(call)
    assert slots(server) == len(calls)
    kill(server, max(pids(server)))
    alive = []
    for call in calls:
        with suppress(grpc.RpcError):
            for _ in range(20):
                next(call)
            alive.append(call)
    assert {call.code() for call in calls if call not in alive} == {grpc.StatusCode.UNAVAILABLE}
    assert 0 < len(alive) < len(calls)
    wait_until(lambda: slots(server) == len(alive), "the slots of the others are free")
    for call in alive:
        call.cancel()
    wait_until(lambda: slots(server) == 0, "all slots are free")
    for _ in range(CONNECTIONS):
        assert sum(len(one.tokens) for one in generate(server, 5)) == 5


def test_a_sequence_outlives_every_front_end_that_served_it(server: Served) -> None:
    steps_taken = 1
    assert add(server, 5, start=True) == 1
    for number in sorted(pids(server)):
        kill(server, number)
        server.wait_serving()
        for _ in range(CONNECTIONS):
            steps_taken += 1
            assert add(server, 5) == steps_taken


def test_a_front_end_that_hangs_is_replaced(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_TICK_S", 0.4)
    kill(server, min(pids(server)), signal.SIGSTOP)
    for _ in range(CONNECTIONS):
        identity(server)


def test_a_load_or_unload_is_known_to_all_before_it_is_answered(server: Served) -> None:
    load = ipb.RepositoryModelLoadRequest(model_name="identity")
    unload = ipb.RepositoryModelUnloadRequest(model_name="identity")
    for _ in range(3):
        server.inference.RepositoryModelUnload(unload, timeout=PATIENCE_S)
        for _ in range(CONNECTIONS):
            with refused(grpc.StatusCode.NOT_FOUND):
                identity(server)
        server.inference.RepositoryModelLoad(load, timeout=PATIENCE_S)
        for _ in range(CONNECTIONS):
            identity(server)
            index = server.inference.RepositoryIndex(ipb.RepositoryIndexRequest(), timeout=PATIENCE_S)
            assert {one.state for one in index.models if one.name == "identity"} == {"READY"}


def test_all_front_ends_see_the_death_of_the_engine(server: Served) -> None:
    calls = [generate(server, ENDLESS) for _ in range(CONNECTIONS)]
    for call in calls:
        next(call)
    first = server.transport.pid
    os.kill(first, signal.SIGKILL)
    for call in calls:
        with refused(grpc.StatusCode.UNAVAILABLE, words="restarting"):
            list(call)
    wait_until(lambda: server.transport.up and server.transport.pid != first, "another engine")
    server.wait_serving()
    wait_until(lambda: all(server.serving("lm") for _ in range(CONNECTIONS)), "all serve again")
    for _ in range(CONNECTIONS):
        assert sum(len(one.tokens) for one in generate(server, 5)) == 5
    assert server.metric("lockstep_engine_up") == 1


# --- callers and their limits ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    auth = tmp_path_factory.mktemp("auth") / "auth.toml"
    text = "\n".join(
        [
            'anonymous = ["health", "metrics"]',
            f'[callers.light]\ntokens = ["{digest("light")}"]\nbytes = 1000',
            f'[callers.brief]\ntokens = ["{digest("brief")}"]\ntokens_per_second = 100',
        ]
    )
    write_auth(auth, text)
    with serve(models, engine=FRONT_ENDS, auth_file=str(auth)) as started:
        yield started, auth


def passes(server: Served, code: grpc.StatusCode, name: str, x: Any = 1.0) -> bool:
    """Whether a request of a caller passes, over the next connection; otherwise it is refused with `code`."""
    call = server.inference.ModelInfer.future(
        fakes.floats("identity", np.atleast_2d(x)), metadata=bearer(name), timeout=PATIENCE_S
    )
    assert call.code() in (grpc.StatusCode.OK, code), call.details()
    return bool(call.code() is grpc.StatusCode.OK)


def passed(server: Served, code: grpc.StatusCode, name: str, x: Any = 1.0) -> int:
    """How many of the connections let a request of a caller pass."""
    return sum(passes(server, code, name, x) for _ in range(CONNECTIONS))


def test_the_bytes_of_a_caller_are_counted_over_all_front_ends(guarded: tuple[Served, Path]) -> None:
    server, _ = guarded
    long = fakes.request("slow", {"x": ("FP32", np.ones(1)), "times": ("INT64", np.array(3000))})
    nearly_all = np.ones((1, 248))  # 992 bytes; the long request holds 12

    def hold() -> Any:
        return server.inference.ModelInfer.future(long, metadata=bearer("light"), timeout=PATIENCE_S)

    held = hold()
    for _ in range(50):
        if not passed(server, EXHAUSTED, "light", nearly_all):
            break
        if held.done():
            held = hold()
    else:
        pytest.fail("a connection has room for 992 bytes beside the 12 that are held, of 1000")
    held.cancel()
    wait_until(
        lambda: passed(server, EXHAUSTED, "light", nearly_all) == CONNECTIONS,
        "there is room again everywhere",
    )


def test_a_quota_that_is_used_up_is_used_up_everywhere(guarded: tuple[Served, Path]) -> None:
    server, _ = guarded
    assert passes(server, EXHAUSTED, "brief", np.ones((20_000, 1)))  # 200 s worth of its tokens
    others = 0
    while others < 80 and (more := passed(server, EXHAUSTED, "brief")):
        others += more
    assert others < 80  # a front end that counts for itself has 100 at once


def test_all_front_ends_read_the_auth_file_again(guarded: tuple[Served, Path]) -> None:
    server, auth = guarded
    write_auth(auth, auth.read_text() + f'\n[callers.late]\ntokens = ["{digest("late")}"]')

    unknown = grpc.StatusCode.UNAUTHENTICATED
    wait_until(lambda: passed(server, unknown, "late") == CONNECTIONS, "the caller is known everywhere")


# --- start and stop -------------------------------------------------------------------------------------


def processes_of(parent: int) -> list[int]:
    """The living children of a process."""
    with open(f"/proc/{parent}/task/{parent}/children") as children:
        return [int(pid) for pid in children.read().split()]


def test_sigterm_drains_all_front_ends_and_leaves_no_process(models: Path) -> None:
    flags = ("--models", str(models), "--cache", "", "--frontends", "2", "--drain-s", f"{PATIENCE_S}")
    with ServerProcess(*flags) as process:
        process.wait_ready(timeout_s=PATIENCE_S)
        server = Stubs(process.address, CONNECTIONS)
        calls = [generate(server, 2000) for _ in range(CONNECTIONS)]
        for call in calls:
            next(call)
        children = processes_of(process.process.pid)
        assert len(children) == 3
        process.process.send_signal(signal.SIGTERM)
        for call in calls:
            assert 0 < sum(len(one.tokens) for one in call) <= 2000
        assert process.process.wait(PATIENCE_S) == 0
        assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]
        server.channel.close()


def test_what_does_not_end_in_time_is_unavailable(models: Path) -> None:
    flags = ("--models", str(models), "--cache", "", "--frontends", "2", "--drain-s", "0.2")
    with ServerProcess(*flags) as process:
        process.wait_ready(timeout_s=PATIENCE_S)
        server = Stubs(process.address, CONNECTIONS)
        calls = [generate(server, ENDLESS) for _ in range(CONNECTIONS)]
        for call in calls:
            next(call)
        process.process.send_signal(signal.SIGTERM)
        for call in calls:
            with refused(grpc.StatusCode.UNAVAILABLE):
                list(call)
        assert process.process.wait(PATIENCE_S) == 0
        server.channel.close()


def test_no_process_outlives_a_supervisor_that_was_killed(models: Path) -> None:
    with ServerProcess("--models", str(models), "--cache", "", "--frontends", "2") as process:
        process.wait_listening(PATIENCE_S)
        children = processes_of(process.process.pid)
        process.process.kill()
        process.process.wait(PATIENCE_S)
        wait_until(lambda: not [pid for pid in children if _runs(pid)], "all processes have ended")


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_server_on_the_port_fails(server: Served, models: Path) -> None:
    with pytest.raises(LoadError, match=f"--port {server.app.port}: cannot listen"):
        reserve(settings(models, port=server.app.port))
    with pytest.raises(LoadError, match="cannot listen"):
        Served(settings(models, port=server.app.port))


@pytest.mark.parametrize(
    ("more", "why"),
    [({"engine": "thread"}, "--engine process"), ({"shared_memory_keys": "a"}, "--shared-memory-keys")],
)
def test_settings_that_need_one_front_end(models: Path, more: dict[str, Any], why: str) -> None:
    with pytest.raises(LoadError, match=why):
        Supervisor(settings(models, **{"engine": "process", "frontends": 2, **more}))

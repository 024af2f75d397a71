"""Live sequences move between servers: when one stops, and when a step comes to another one."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import FRONT_ENDS, Served, refused, settings
from patience import PATIENCE_S, wait_until
from security import bearer, certificates, credentials, digest, tls, write_auth

from lockstep_client import Client
from lockstep_proto import open_inference_pb2_grpc
from lockstep_proto.v1 import peers_pb2, peers_pb2_grpc
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server import messages
from lockstep_server.errors import LoadError
from lockstep_server.frontend import moving, pulls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MORE = 100
"""Tokens that are read after a text has moved."""

AUTH = 'anonymous = ["health", "metrics"]\n' + "".join(
    f'[callers.{name}]\ntokens = ["{digest(f"token-{name}")}"]\npermissions = ["infer"]\n'
    for name in ("alice", "bob")
)
KEY = "0123456789abcdef0123456789abcdef"
UNAVAILABLE, PRECONDITION = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    steps.adder(folder, slots=4)
    steps.language(folder)
    return folder


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Fleet:
    """Servers that are peers of one another."""

    def __init__(self, root: Path, key_file: str) -> None:
        self.root, self.key_file = root, key_file
        self.ports, self.host = free_ports(3), "127.0.0.1"
        self.servers: dict[int, Served] = {}

    def start(self, number: int, root: Path | None = None, *, wait: bool = True, **more: Any) -> Served:
        usual: dict[str, Any] = {
            "drain_s": 60,
            "peers": ",".join(f"{self.host}:{port}" for port in self.ports),
            "sequence_key_file": self.key_file,
            "port": self.ports[number],
        }
        server = Served(settings(root or self.root, **{**usual, **more}))
        self.servers[number] = server
        if wait:
            server.wait_serving()
        return server

    def stop(self, number: int) -> None:
        self.servers.pop(number).drain()

    @contextlib.contextmanager
    def stopping(self, number: int, tries: int = 0) -> Iterator[None]:
        """Stops a server, whose drain lasts until the end of the block. One of several front ends moves its
        sequences, so many that there are `tries`."""
        server = self.servers[number]
        request = pb.GenerateRequest(model="lm", ids=pb.Ids(ids=[1]), max_tokens=50_000, seed=1)
        stream = server.sequences.Generate(request, timeout=PATIENCE_S)
        next(stream)
        closing = threading.Thread(target=self.stop, args=(number,))
        closing.start()
        try:
            if tries:
                wait_until(lambda: moves(server, "out") >= tries, "sequences to be moved")
            else:
                wait_until(server.app.mover.sequences_moved.is_set, "sequences to be moved")
            yield
        finally:
            stream.cancel()
            closing.join(PATIENCE_S)

    def address(self, number: int) -> str:
        return f"127.0.0.1:{self.ports[number]}"


@pytest.fixture
def fleet(root: Path, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(root, write_auth(tmp_path / "key", KEY))
    yield made
    for number in list(made.servers):
        made.stop(number)


@pytest.fixture
def texts_move_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole drain is the part of it in which texts that have not ended are moved."""
    monkeypatch.setattr(moving, "_LAST_PART", 1)
    monkeypatch.setattr(moving, "_LAST_S", float("inf"))


def step(server: Served, sequence: int | str, value: float, caller: str = "", **more: bool) -> float:
    request = fakes.request("adder", {"x": ("FP32", [[value, 1.0]])})
    kind = "string_param" if isinstance(sequence, str) else "int64_param"
    setattr(request.parameters["sequence_id"], kind, sequence)
    for name, is_set in more.items():
        request.parameters[f"sequence_{name}"].bool_param = is_set
    metadata = bearer(f"token-{caller}") if caller else ()
    reply = server.inference.ModelInfer(request, timeout=PATIENCE_S, metadata=metadata)
    return float(fakes.values(reply, "y").ravel()[0])


def moves(server: Served, result: str) -> float:
    return server.metric("lockstep_sequence_moves_total", result=result)


def trailers(error: grpc.RpcError) -> dict[str, Any]:
    metadata: Any = error.trailing_metadata()
    return dict(metadata or ())


def element(value: float) -> pb.FollowRequest:
    return pb.FollowRequest(
        frames=pb.Frames(
            tensors=[
                pb.NamedTensor(
                    datatype="FP32", shape=[1, 2], contents=np.array([[value, 1]], np.float32).tobytes()
                )
            ]
        )
    )


def summed(reply: pb.FollowReply) -> float:
    return float(np.frombuffer(reply.outputs[0].contents, np.float32)[0])


# --- a step finds its sequence --------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [7, "seven"])
def test_a_step_finds_its_sequence_wherever_it_comes(fleet: Fleet, sequence: int | str) -> None:
    one, two, three = (fleet.start(number) for number in range(3))
    assert one.samples("lockstep_sequence_moves_total", model="adder").keys() == {
        (result,) for result in ("in", "out", "refused", "lost")
    }
    assert step(one, sequence, 1, start=True) == 1
    assert [step(server, sequence, 1) for server in (two, three, one, one, two)] == [2, 3, 4, 5, 6]
    assert (moves(two, "in"), moves(two, "out")) == (2, 1)
    assert step(three, sequence, 1, end=True) == 7
    for server in (one, two, three):
        with refused(PRECONDITION, words="start it again"):
            step(server, sequence, 1)
    with refused(PRECONDITION, words="unknown sequence"):
        step(one, 70, 1)


def test_steps_that_come_while_their_sequence_does_run_in_order(fleet: Fleet) -> None:
    one, two = fleet.start(0), fleet.start(1)
    step(one, 1, 0, start=True)
    requests = []
    for value in range(1, 40):
        request = fakes.request("adder", {"x": ("FP32", [[value, 1.0]])}, request_id=str(value))
        request.parameters["sequence_id"].int64_param = 1
        requests.append(request)
    replies = list(two.inference.ModelStreamInfer(iter(requests), timeout=PATIENCE_S))
    sums = {r.infer_response.id: float(fakes.values(r.infer_response, "y").ravel()[0]) for r in replies}
    assert sums == {str(value): value * (value + 1) / 2 for value in range(1, 40)}


def test_sequences_stay_with_their_callers_and_peers_need_no_token(fleet: Fleet, tmp_path: Path) -> None:
    auth = write_auth(tmp_path / "auth.toml", AUTH)
    one, two = fleet.start(0, auth_file=auth), fleet.start(1, auth_file=auth)
    assert step(one, 1, 1, "alice", start=True) == 1
    with refused(PRECONDITION, words="unknown sequence"):
        step(two, 1, 1, "bob")
    assert step(two, 1, 1, "alice") == 2


@pytest.mark.parametrize("mutual", [False, True])
def test_peers_talk_over_tls(fleet: Fleet, mutual: bool) -> None:
    folder = certificates()
    more: dict[str, Any] = {**tls(folder, mutual=mutual), "metrics_tls": False}
    more |= {} if mutual else {"peer_ca": str(folder / "ca.pem")}
    fleet.host = "localhost"
    servers = [fleet.start(number, wait=False, **more) for number in range(2)]
    shown = credentials(folder, "alice" if mutual else "")
    values = []
    for number, server in enumerate(servers):
        wait_until(server.app.registry.ready, "the models")
        with grpc.secure_channel(f"localhost:{fleet.ports[number]}", shown) as channel:
            server.inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            values.append(step(server, 1, 1, start=not number))
    assert values == [1, 2]


def test_a_flood_of_unknown_ids_is_refused_with_a_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls, "_SEARCHES", 2.0)
    monkeypatch.setattr(pulls, "_SEARCHES_PER_S", 0.001)
    one, two = fleet.start(0), fleet.start(1)
    step(one, 1, 1, start=True)
    for unknown in (100, 101):
        with refused(PRECONDITION, words="unknown sequence"):
            step(two, unknown, 1)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words="unknown sequences; retry after"):
        step(two, 102, 1)


# --- a peer that does not take it -----------------------------------------------------------------


def test_a_peer_with_other_files_takes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    steps.adder(tmp_path, slots=5)
    one, two = fleet.start(0), fleet.start(1, root=tmp_path)
    step(one, 1, 1, start=True)
    with refused(UNAVAILABLE, words="files of model 'adder' differ"):
        step(two, 1, 1)
    assert step(one, 1, 1) == 2
    assert moves(one, "refused") == 1


def test_a_full_peer_refuses_and_the_next_one_takes_it(fleet: Fleet) -> None:
    one, two = fleet.start(0), fleet.start(1)
    for sequence in range(10, 14):
        step(two, sequence, 1, start=True)
    step(one, 1, 1, start=True)
    with refused(UNAVAILABLE, words="no free slot"):
        step(two, 1, 1)
    assert step(one, 1, 1) == 2
    three = fleet.start(2)
    with fleet.stopping(0):
        with refused(UNAVAILABLE) as caught:
            step(one, 1, 1)
        assert trailers(caught.value)["lockstep-moved-to"] == fleet.address(2)
    assert step(three, 1, 1) == 3


def test_a_server_that_is_no_peer_gets_nothing(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "_WITHIN_S", 0.2)
    other_key = write_auth(tmp_path / "other", KEY[::-1])
    one, two = fleet.start(0), fleet.start(1, sequence_key_file=other_key)
    step(one, 1, 1, start=True)
    with refused(UNAVAILABLE, words="a peer that may hold it does not answer"):
        step(two, 1, 1)
    assert step(one, 1, 1) == 2
    stub = peers_pb2_grpc.PeersStub(one.channel)
    forged = peers_pb2.PeerMessage(content=b"", signature=b"x" * 32)
    for method in ("Hello", "Offer", "Confirm", "Pull"):
        with refused(grpc.StatusCode.UNAUTHENTICATED, words="not signed with the key"):
            getattr(stub, method)(forged, timeout=PATIENCE_S)


# --- a server that stops --------------------------------------------------------------------------


def test_a_server_that_stops_moves_its_sequences_and_says_where(fleet: Fleet) -> None:
    one, two = fleet.start(0), fleet.start(1)
    for sequence in (1, 2, 3):
        assert step(one, sequence, sequence, start=True) == sequence
    with fleet.stopping(0):
        assert moves(one, "out") == 3
        for sequence in (1, 2):
            with refused(UNAVAILABLE, words="moved to") as caught:
                step(one, sequence, 1)
            assert trailers(caught.value)["lockstep-moved-to"] == fleet.address(1)
        with refused(UNAVAILABLE, words="stopping"):
            step(one, 9, 1, start=True)
        with refused(UNAVAILABLE, words="stopping"):
            step(one, 9, 1)
        assert step(two, 1, 1) == 2
    assert [step(two, sequence, 1) for sequence in (1, 2, 3)] == [3, 3, 4]


def test_without_a_peer_sequences_go_on_until_the_end_of_the_drain(fleet: Fleet) -> None:
    one = fleet.start(0)
    step(one, 1, 1, start=True)
    with fleet.stopping(0):
        assert step(one, 1, 1) == 2
        assert moves(one, "refused") == 1


@pytest.mark.parametrize("idle", [True, False])
def test_a_follow_that_moves_says_where_and_under_which_id(fleet: Fleet, idle: bool) -> None:
    one, two = fleet.start(0), fleet.start(1)
    sent: queue.Queue[pb.FollowRequest | None] = queue.Queue()
    follow = one.sequences.Follow(iter(sent.get, None), timeout=PATIENCE_S)
    sent.put(pb.FollowRequest(start=pb.FollowStart(model="adder")))
    sent.put(element(1))
    assert summed(next(follow)) == 1
    with fleet.stopping(0):
        if not idle:
            sent.put(element(1))
        with pytest.raises(grpc.RpcError) as caught:
            next(follow)
        assert caught.value.code() is UNAVAILABLE
        found = trailers(caught.value)
    assert found["lockstep-moved-to"] == fleet.address(1)
    start = pb.FollowStart(model="adder", sequence=pb.SequenceId(text=found["lockstep-sequence"]))
    going_on = two.sequences.Follow(iter([pb.FollowRequest(start=start), element(5)]), timeout=PATIENCE_S)
    assert summed(next(going_on)) == 6


@pytest.mark.usefixtures("texts_move_at_once")
def test_a_text_that_would_not_end_in_the_drain_goes_on_elsewhere(fleet: Fleet) -> None:
    one, two = fleet.start(0), fleet.start(1)
    request = pb.GenerateRequest(model="lm", ids=pb.Ids(ids=[3, 9]), max_tokens=50_000, seed=5)
    stream = one.sequences.Generate(request, timeout=PATIENCE_S)
    tokens = list(next(stream).tokens)
    stop = threading.Thread(target=fleet.stop, args=(0,))
    stop.start()
    with pytest.raises(grpc.RpcError) as caught:
        tokens.extend(token for reply in stream for token in reply.tokens)
    stop.join(PATIENCE_S)
    found = trailers(caught.value)
    assert (caught.value.code(), found["lockstep-moved-to"]) == (UNAVAILABLE, fleet.address(1))
    moved = len(tokens)
    resume = pb.Resume(sequence=pb.SequenceId(text=found["lockstep-sequence"]), tokens=tokens)
    more = two.sequences.Generate(pb.GenerateRequest(model="lm", resume=resume), timeout=PATIENCE_S)
    for reply in more:
        tokens += reply.tokens
        if len(tokens) > moved + _MORE:
            break
    more.cancel()
    alone = two.sequences.Generate(
        pb.GenerateRequest(model="lm", ids=pb.Ids(ids=[3, 9]), max_tokens=len(tokens), seed=5)
    )
    assert [token for reply in alone for token in reply.tokens] == tokens


@pytest.mark.usefixtures("texts_move_at_once")
def test_the_client_library_goes_where_a_sequence_and_a_text_went(fleet: Fleet) -> None:
    fleet.start(0)
    two = fleet.start(1)
    x = np.ones((1, 2), np.float32)
    with Client(fleet.address(0)) as direct, Client(fleet.address(1)) as client:
        assert direct.infer("adder", {"x": x}, sequence_id=1, sequence_start=True)["y"][0, 0] == 1
        with direct.generate("lm", ids=[3, 9], max_tokens=50_000, seed=5) as stream:
            parts = iter(stream)
            tokens = list(next(parts).tokens)
            stop = threading.Thread(target=fleet.stop, args=(0,))
            stop.start()
            for part in parts:
                tokens += part.tokens
                if stream.resumed:
                    break
        stop.join(PATIENCE_S)
        assert client.infer("adder", {"x": x}, sequence_id=1)["y"][0, 0] == 2
        alone = client.generate("lm", ids=[3, 9], max_tokens=len(tokens), seed=5).result()
        assert (len(tokens) < 50_000, alone.tokens) == (True, tuple(tokens))
    assert moves(two, "in") == 2


# --- several front ends ---------------------------------------------------------------------------


CONNECTIONS = 8
"""Of a `Served` with several front ends, which take turns."""


@pytest.fixture(scope="module")
def pair(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """Two servers of two front ends each."""
    made = Fleet(root, write_auth(tmp_path_factory.mktemp("key") / "key", KEY))
    yield made.start(0, engine=FRONT_ENDS), made.start(1, engine=FRONT_ENDS)
    for number in list(made.servers):
        made.stop(number)


def test_a_step_finds_its_sequence_at_any_front_end(pair: tuple[Served, Served]) -> None:
    one, two = pair
    assert step(one, 7, 1, start=True) == 1
    count = 1
    for server in (two, one, two):
        for _ in range(CONNECTIONS):
            count += 1
            assert step(server, 7, 1) == count
    assert [(moves(server, "in"), moves(server, "out")) for server in (one, two)] == [(1, 2), (2, 1)]
    assert step(one, 7, 1, end=True) == count + 1
    for server in (one, two):
        for _ in range(CONNECTIONS):
            with refused(PRECONDITION, words="start it again"):
                step(server, 7, 1)


def test_steps_at_all_front_ends_of_two_servers_are_those_of_one_sequence(
    pair: tuple[Served, Served],
) -> None:
    """A second live copy would give an answer twice."""
    one, two = pair
    assert step(one, 8, 1, start=True) == 1
    request = fakes.request("adder", {"x": ("FP32", [[1.0, 1.0]])})
    request.parameters["sequence_id"].int64_param = 8
    answers, calls = [], 0
    for _ in range(5):
        futures = [
            server.inference.ModelInfer.future(request, timeout=PATIENCE_S)
            for _ in range(CONNECTIONS)
            for server in (one, two)
        ]
        calls += len(futures)
        for future in futures:
            if future.code() is grpc.StatusCode.OK:
                answers.append(float(fakes.values(future.result(), "y").ravel()[0]))
            else:
                assert future.code() is UNAVAILABLE, future.details()
    assert sorted(answers) == [float(number) for number in range(2, 2 + len(answers))]
    assert step(two, 8, 1) == 2 + len(answers)
    assert len(answers) > calls // 2


@pytest.mark.usefixtures("texts_move_at_once")
def test_all_front_ends_of_a_server_that_stops_move_what_it_has(fleet: Fleet) -> None:
    one, two = fleet.start(0, engine=FRONT_ENDS), fleet.start(1)
    for sequence in (1, 2):
        step(one, sequence, sequence, start=True)
    follows = []
    for _ in range(2):
        sent: queue.Queue[pb.FollowRequest | None] = queue.Queue()
        follow = one.sequences.Follow(iter(sent.get, None), timeout=PATIENCE_S)
        sent.put(pb.FollowRequest(start=pb.FollowStart(model="adder")))
        sent.put(element(3))
        assert summed(next(follow)) == 3
        follows.append(follow)
    with fleet.stopping(0, tries=4):
        for sequence in (1, 2):
            for _ in range(CONNECTIONS):
                with refused(UNAVAILABLE) as caught:
                    step(one, sequence, 1)
                assert trailers(caught.value)["lockstep-moved-to"] == fleet.address(1)
        for follow in follows:
            with refused(UNAVAILABLE, words="moved to") as caught:
                next(follow)
            id_ = pb.SequenceId(text=trailers(caught.value)["lockstep-sequence"])
            start = pb.FollowRequest(start=pb.FollowStart(model="adder", sequence=id_))
            assert summed(next(two.sequences.Follow(iter([start, element(5)]), timeout=PATIENCE_S))) == 8
        assert [step(two, sequence, 1) for sequence in (1, 2)] == [2, 3]
        assert moves(one, "refused") == moves(one, "lost") == 0


def kill_a_front_end(server: Served) -> None:
    """Kill the older front end of a server, and wait until another one serves in its place."""
    front_ends = server.app.front_ends
    number = min(front_ends)
    os.kill(front_ends[number].pid, signal.SIGKILL)
    wait_until(lambda: number not in front_ends, "its end")
    wait_until(lambda: sum(one.serves for one in front_ends.values()) == 2, "another front end")
    server.wait_serving()


def test_a_sequence_outlives_the_front_end_that_a_peer_was_connected_to(pair: tuple[Served, Served]) -> None:
    assert step(pair[0], 9, 1, start=True) == 1
    count = 1
    for server in (*pair, *pair):
        kill_a_front_end(server)
        for place in pair:
            count += 1
            assert step(place, 9, 1) == count


def test_a_sequence_ends_with_the_front_end_that_was_moving_it(fleet: Fleet) -> None:
    """Nobody knows whether a peer has it: going on could make two of it."""
    one, number = fleet.start(0), 5
    for sequence in (1, 2):
        step(one, sequence, 1, start=True)
    request = fakes.request("adder", {"x": ("FP32", [[1.0, 1.0]])})
    request.parameters["sequence_id"].int64_param = 1
    key = number * messages.FRONT_END_KEYS
    freeze = messages.GetSequence(key=key, model="adder", version=1, sequence=1, freeze=True)
    one.loaded_models.receive([freeze])
    waiting = one.inference.ModelInfer.future(request, timeout=PATIENCE_S)
    wait_until(lambda: one.in_flight() == 1, "the step to wait")
    one.loaded_models.end_front_end(number)
    assert waiting.code() is PRECONDITION
    with refused(PRECONDITION, words="was being moved by a process that has ended; start it again"):
        step(one, 1, 1)
    assert step(one, 2, 1) == 2


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sequence_key_file": ""}, "--peers needs --sequence-key-file"),
        ({"peers": "other"}, "'other' is not HOST:PORT"),
        ({"peers": "", "peer_ca": "ca.pem"}, "--peer-ca needs --peers"),
        ({"peer_ca": "ca.pem"}, "--peer-ca needs --tls-cert"),
        ({"sequence_key_file": "", "frontends": 2, "engine": "process"}, "needs --sequence-key-file"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fleet: Fleet, more: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        fleet.start(0, **more)


@pytest.mark.parametrize("addresses", [1, 2], ids=["the old address", "both addresses"])
def test_the_client_library_goes_on_where_a_sequence_was_moved(fleet: Fleet, addresses: int) -> None:
    """Neither a step nor a Follow fails, and both answer as on a server that did not stop."""
    fleet.start(0)
    x, ids = np.ones((1, 2), np.float32), [[3, 4], [5, 6, 7], [8]]
    with Client(fleet.address(0)) as client:
        expected = [one.labels for one in client.follow("lm", ids).result()]
        client.infer("adder", {"x": x}, sequence_id=7, sequence_start=True)
        moved = threading.Event()

        def pieces() -> Iterator[Any]:
            yield ids[0]
            assert moved.wait(PATIENCE_S)
            yield from ids[1:]

        stream = client.follow("lm", pieces())
        predictions = iter(stream)
        found = [next(predictions), next(predictions)]
        fleet.start(1)
        with fleet.stopping(0):
            moved.set()
            found += predictions
            assert stream.resumed
            assert [one.labels for one in found] == expected
            assert [one.position for one in found] == [1, 2, 3, 4, 5, 6]
            told = ",".join(fleet.address(number) for number in range(addresses))
            with Client(told) as other:
                assert float(other.infer("adder", {"x": x}, sequence_id=7)["y"][0][0]) == 2
            assert float(client.infer("adder", {"x": x}, sequence_id=7)["y"][0][0]) == 3

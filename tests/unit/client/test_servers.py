"""Both clients with several servers, and with servers that have moved a sequence."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from patience import PATIENCE_S, wait_until

import lockstep_client as lc
from lockstep_client import address as addresses
from lockstep_client import connected
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE = {"a": np.array([1], np.int64)}


def both(server: Any, other: Any) -> str:
    return f"{server.address},{other.address}"


def test_a_call_that_one_server_refuses_goes_to_the_other(server, other, connect, failure):
    server.failures += [failure(grpc.StatusCode.UNAVAILABLE, "the server is stopping")] * 9
    with connect(both(server, other)) as client:
        for _ in range(12):
            assert client.classify("sentiment", "good")[0].best.name == "positive"
    assert len(other.requests) == 12
    assert len(server.requests) <= 3, "it is left out for a time"


def test_an_overloaded_server_is_not_asked_again_at_once(server, other, connect, failure):
    server.failures += [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")] * 99
    other.failures += [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")] * 99
    with connect(both(server, other), retries=2) as client, pytest.raises(lc.Overloaded, match="full"):
        client.classify("sentiment", "good")
    assert len(server.requests) + len(other.requests) == 3


def test_no_retries_are_none_on_another_server_either(server, other, connect, failure):
    for one in (server, other):
        one.failures.append(failure(grpc.StatusCode.UNAVAILABLE, "stopping"))
    with connect(both(server, other), retries=0) as client, pytest.raises(lc.Unavailable, match="stopping"):
        client.classify("sentiment", "good")


def test_a_stream_that_one_server_refuses_begins_on_the_other(server, other, connect, failure):
    server.failures += [failure(grpc.StatusCode.UNAVAILABLE, "stopping")] * 9
    with connect(both(server, other)) as client:
        for _ in range(4):
            assert client.generate("sentiment", "x").result().text == "ab\ncd"
            assert len(client.follow("sentiment", ["one two", " three"]).result()) == 3
    assert len(other.requests) == 8


@pytest.mark.parametrize(
    ("sequence_id", "header"), [(7, "7"), ("session 1", "session 1"), (0, None)], ids=["number", "text", "no"]
)
def test_calls_of_a_sequence_name_it_for_balancers(server, client, sequence_id, header):
    started = {"sequence_id": sequence_id, "sequence_start": True} if sequence_id else {}
    client.infer("sentiment", ONE, **started)
    list(client.follow("sentiment", ["a b"], sequence_id=sequence_id))
    if sequence_id:
        client.generate("sentiment", sequence_id=sequence_id).result()
    assert {sent.get("lockstep-sequence-id") for sent in server.metadata} == {header}


def test_metadata_of_the_caller_names_the_sequence_in_another_way(server, client):
    named = client.with_metadata(("lockstep-sequence-id", "mine"))
    named.infer("sentiment", ONE, sequence_id=7, sequence_start=True)
    assert server.metadata[0]["lockstep-sequence-id"] == "mine"


def moved(failure: Any, to: Any, sequence: str = "") -> Any:
    trailers = (("lockstep-moved-to", to.address), ("lockstep-sequence", sequence))
    return failure(grpc.StatusCode.UNAVAILABLE, "the sequence was moved", (), trailers)


def test_a_step_follows_a_sequence_that_was_moved(server, other, client, failure):
    client.infer("sentiment", ONE, sequence_id=7, sequence_start=True)
    server.failures.append(moved(failure, other))
    for _ in range(3):
        assert client.infer("sentiment", ONE, sequence_id=7)["a"].tolist() == [1]
    assert (len(server.requests), len(other.requests)) == (2, 3)
    client.infer("sentiment", ONE, sequence_id=8, sequence_start=True)
    assert len(server.requests) == 3, "other sequences are where they were"


def test_a_step_goes_to_the_other_server_if_its_own_has_gone(server, connect, nowhere):
    """A server that stopped has moved its sequences, and the other one finds them."""
    with connect(f"{nowhere},{server.address}") as client:
        for number in range(1, 9):
            assert client.infer("sentiment", ONE, sequence_id=number)["a"].tolist() == [1]
    assert len(server.requests) == 8


def test_a_sequence_that_is_moved_in_a_circle_is_not_followed_forever(server, other, client, failure):
    server.failures += [moved(failure, other)] * 9
    other.failures += [moved(failure, server)] * 9
    with pytest.raises(lc.Unavailable, match="was moved"):
        client.infer("sentiment", ONE, sequence_id=7)
    assert len(server.requests) + len(other.requests) == 4


def test_a_token_is_not_sent_to_a_server_that_another_names(server, connect, failure):
    elsewhere = type("", (), {"address": "10.255.255.1:8001"})
    server.failures.append(moved(failure, elsewhere))
    with connect(server.address, token="secret") as client, pytest.raises(lc.Unavailable):
        client.infer("sentiment", ONE, sequence_id=7)


def test_a_text_goes_on_where_it_was_moved(server, other, client, failure):
    begun = pb.GenerateReply(tokens=[4, 5], text="ab", seed=11, stream_id="s1")
    server.streams.generated = [begun, moved(failure, other, "m1")]
    other.streams.generated = [pb.GenerateReply(tokens=[6], text="c", reason=pb.STOP_REASON_LENGTH, seed=11)]
    stream = client.generate("sentiment", "x")
    whole = stream.result()
    assert (whole.text, whole.tokens) == ("abc", (4, 5, 6))
    (sent,) = other.requests
    assert (sent.resume.sequence.text, list(sent.resume.tokens), sent.text) == ("m1", [4, 5], "x")


PREDICTIONS = [pb.FollowReply(position=n, id=n, labels=[pb.Label(name=str(n))]) for n in range(1, 6)]


def then_set(event: threading.Event, pieces: list[Any]) -> Iterator[Any]:
    """Pieces, after which the event is set."""
    yield from pieces
    event.set()


def test_ids_that_were_not_answered_go_on_where_the_sequence_was_moved(server, other, client, failure):
    sent = threading.Event()
    server.streams.followed = [sent, *PREDICTIONS[:3], moved(failure, other, "m1")]
    other.streams.followed = [pb.FollowReply(position=n - 3, labels=[pb.Label(name=str(n))]) for n in (4, 5)]
    stream = client.follow("sentiment", then_set(sent, [[1, 2], [3, 4], [5]]))
    found = iter(stream)
    predictions = [next(found) for _ in range(5)]
    assert [(one.position, one.best.name) for one in predictions] == [(n, str(n)) for n in range(1, 6)]
    wait_until(lambda: len(other.streams.received) == 2, "the rest is sent")
    found.close()
    assert [list(one.ids.ids) for one in other.streams.received] == [[4], [5]]
    (start,) = other.requests
    assert start.sequence.text == "m1"


def test_texts_are_sent_again_where_the_sequence_was_moved(server, other, client, failure):
    sent = threading.Event()
    server.streams.followed = [sent, *PREDICTIONS[:2], moved(failure, other, "m1")]
    other.streams.followed = [*PREDICTIONS]
    stream = client.follow("sentiment", then_set(sent, ["one two ", "three four five "]))
    found = iter(stream)
    assert [next(found).best.name for _ in range(5)] == ["1", "2", "3", "4", "5"]
    wait_until(lambda: len(other.streams.received) == 2, "all is sent again")
    found.close()
    assert [one.text for one in other.streams.received] == ["one two ", "three four five "]
    assert not other.requests[0].HasField("sequence")


class Broken:
    """A connection that breaks: a status without the details of a server."""

    def end(self, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def test_a_text_of_which_nothing_arrived_is_begun_again(server, client):
    best = pb.Alternative(tokens=[4], text="a", score=-1.0)
    server.failures += [Broken()] * 6
    server.streams.generated = [
        pb.GenerateReply(tokens=[4], text="a", reason=pb.STOP_REASON_END, alternatives=[best])
    ]
    assert client.generate("sentiment", "x", beams=2, temperature=None).result().text == "a"
    assert len(server.requests) == 7, "more often than a call is retried"


def test_several_samples_of_which_some_arrived_are_not_resumed(server, client):
    begun = pb.GenerateReply(tokens=[4], text="a", seed=3, sample=1, stream_id="s1")
    server.streams.generated = [begun, Broken()]
    with pytest.raises(lc.Unavailable, match="Socket closed"):
        client.generate("sentiment", "x", samples=2).result()
    assert len(server.requests) == 1


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What names stand for, which is asked again with each call. `localhost` is taken for one."""
    found: list[str] = []
    monkeypatch.setattr(addresses, "is_name", lambda _: True)
    monkeypatch.setattr(addresses, "resolved", lambda _: list(found))
    monkeypatch.setattr(connected, "_RESOLVE_S", 0.0)
    return found


def test_a_name_of_one_server_is_left_to_grpc(server, connect, named, nowhere):
    named.append(nowhere)
    with connect(server.address) as client:
        assert client.classify("sentiment", "good")[0].best.name == "positive"


def test_a_name_of_several_servers_is_all_of_them_as_they_come_and_go(server, other, connect, named, nowhere):
    named += [server.address, other.address]
    with connect(nowhere) as client:
        for _ in range(40):
            client.classify("sentiment", "good")
        assert server.requests
        assert other.requests
        named[:] = [other.address, nowhere]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            before = len(server.requests)
            for _ in range(10):
                client.classify("sentiment", "good")
            if len(server.requests) == before:
                break
        assert len(server.requests) == before, "the server that left gets calls"


def test_a_name_is_its_addresses_of_one_kind(monkeypatch):
    def resolve(_host: str, port: int, **_: Any) -> Any:
        by_4 = [(socket.AF_INET, 1, 6, "", (f"10.0.0.{one}", port)) for one in (2, 1, 2)]
        return [*by_4, (socket.AF_INET6, 1, 6, "", ("fe80::1", port, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert addresses.resolved("lockstep:8001") == ["10.0.0.1:8001", "10.0.0.2:8001"]


@pytest.mark.parametrize(
    ("address", "is_name"),
    [
        ("lockstep:8001", True), ("localhost:1", False), ("10.0.0.1:1", False), ("[::1]:1", False),
        ("a:1,b:1", False), ("dns:///a:1", False), ("unix:/run/x.sock", False),
    ],
)  # fmt: skip
def test_what_is_a_name(address, is_name):
    assert addresses.is_name(address) is is_name


def test_a_name_that_cannot_be_resolved_here_is_left_to_grpc(connect, monkeypatch):
    def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with connect("no.such.host.invalid:1") as client, pytest.raises(lc.Unreachable):
        client.classify("sentiment", "good")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"address": "a:1,b"}, "has no host or no port"),
        ({"address": "localhost:1,10.0.0.1:1", "token": "secret"}, "unencrypted"),
        ({"on_lost": "again"}, "on_lost"),
    ],
)
def test_mistakes_are_found_before_any_call(arguments, words):
    with pytest.raises(ValueError, match=words):
        lc.Client(**arguments)

"""A caller is the same one over all of its connections, and a stranger cannot choose who it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from grpc_health.v1 import health_pb2
from security import digest, write_auth

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto.v1 import sequences_pb2 as v1
from lockstep_server.api.auth import Guard, Refusal
from lockstep_server.api.identity import peer_host
from lockstep_server.api.permissions import model_of
from lockstep_server.frontend.audit import Audit
from lockstep_server.frontend.callers import AuthFile
from lockstep_server.metrics.families import Metrics

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.1.2.3:50123", "10.1.2.3"),
        ("ipv6:[::1]:50123", "::1"),
        ("ipv6:%5B::1%5D:50123", "::1"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:10.1.2.3]:1", "10.1.2.3"),
        ("ipv6:[fe80::1%eth0]:1", "fe80::/64"),
        ("unix:", "unix"),
        ("", "unknown"),
    ],
)
def test_a_caller_without_a_name_is_its_address(peer: str, host: str) -> None:
    assert peer_host(peer) == host


def test_a_thousand_connections_of_one_address_are_one_caller() -> None:
    guard = Guard(Audit(Metrics()))
    peers = (f"ipv4:10.0.0.1:{port}" for port in range(50_000, 51_000))
    assert {guard.identify(_Context(peer)).name for peer in peers} == {"@10.0.0.1"}


class _Context:
    def __init__(self, peer: str, *metadata: tuple[str, str]) -> None:
        self._peer, self._metadata = peer, metadata

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return self._metadata


@pytest.mark.parametrize(
    ("peer", "forwarded", "name"),
    [
        ("10.0.0.9", "203.0.113.7", "@203.0.113.7"),
        (
            "10.0.0.9",
            "198.51.100.1, 203.0.113.7",
            "@203.0.113.7",
        ),  # what a stranger sent itself does not count
        ("10.0.0.9", "203.0.113.7, 10.0.0.8", "@203.0.113.7"),  # two proxies
        ("10.0.0.9", "203.0.113.7:5123", "@203.0.113.7"),
        ("10.0.0.9", "", "@10.0.0.9"),
        ("10.0.0.9", "nonsense", "@10.0.0.9"),
        ("192.0.2.1", "203.0.113.7", "@192.0.2.1"),  # no proxy of ours
    ],
)
def test_a_trusted_proxy_names_the_caller(peer: str, forwarded: str, name: str) -> None:
    guard = Guard(Audit(Metrics()), proxies="10.0.0.0/8")
    context = _Context(f"ipv4:{peer}:50000", ("x-forwarded-for", forwarded))
    assert guard.identify(context).name == name


def test_a_proxy_may_name_callers_in_a_header_of_its_own() -> None:
    guard = Guard(Audit(Metrics()), proxies="10.0.0.9", header="X-Caller")
    assert guard.identify(_Context("ipv4:10.0.0.9:1", ("x-caller", "team-a"))).name == "@10.0.0.9/team-a"
    assert guard.identify(_Context("ipv4:10.0.0.8:1", ("x-caller", "team-a"))).name == "@10.0.0.8"


@pytest.mark.parametrize("value", ["Bearer tokén", "Bearer tokén".encode(), b"Bearer \xff\xfe"])
def test_a_token_that_is_not_ascii_is_refused(tmp_path: Path, value: str | bytes) -> None:
    """Our clients' gRPC does not send one; others may."""
    auth = write_auth(tmp_path / "auth.toml", f'[callers.a]\ntokens = ["{digest("token")}"]\n')
    guard = Guard(Audit(Metrics()), AuthFile(auth))
    with pytest.raises(Refusal, match="in ASCII") as caught:
        guard.early("/lockstep.v1.Sequences/Classify", (("authorization", value),))
    assert caught.value.reason == "malformed"


def test_the_model_of_a_message_is_known_whatever_its_field() -> None:
    assert model_of(pb.ModelReadyRequest(name="a")) == "a"
    assert model_of(pb.ModelInferRequest(model_name="a")) == "a"
    assert model_of(pb.RepositoryModelLoadRequest(model_name="a")) == "a"
    assert model_of(v1.ClassifyRequest(model="a")) == "a"
    assert model_of(v1.FollowRequest(start=v1.FollowStart(model="a"))) == "a"
    assert model_of(health_pb2.HealthCheckRequest(service="a")) == "a"
    assert model_of(health_pb2.HealthCheckRequest(service="live")) == ""
    assert model_of(pb.SystemSharedMemoryRegisterRequest(name="a")) == ""
    assert model_of(pb.SystemSharedMemoryUnregisterRequest(name="a")) == ""

"""The handlers in Serve's proxy, with a stand-in that overrides them and answers as Serve does."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S

from lockstep_proto import open_inference_pb2 as oip
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_ray import ingress, services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CLASSIFY, _GENERATE = "/lockstep.v1.Sequences/Classify", "/lockstep.v1.Sequences/Generate"
_FOLLOW, _INFER = "/lockstep.v1.Sequences/Follow", "/inference.GRPCInferenceService/ModelInfer"
_REQUEST = pb.ClassifyRequest(model="m").SerializeToString()


class Proxy:
    """What Serve does with `add_services`: it puts handlers of its own into it."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.seen: dict[str, str] = {}
        self.received: list[bytes] = []
        self.replies: list[bytes] = []
        self.trailing: list[tuple[str, Any]] = []
        self.raised: tuple[grpc.StatusCode, str] = (grpc.StatusCode.OK, "")

    def add_generic_rpc_handlers(self, handlers: tuple[Any]) -> None:
        [mine] = handlers
        mine._method_handlers = {
            path: handler._replace(
                response_serializer=None,
                unary_unary=self._one,
                unary_stream=self._many,
                stream_stream=self._both,
            )
            for path, handler in mine._method_handlers.items()
        }
        self._server.add_generic_rpc_handlers(handlers)

    async def _one(self, request: bytes, context: Any) -> bytes:
        async for _ in self._many(request, context):
            pass
        return b""

    async def _both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        frames = [frame async for frame in requests]
        self.received = [message for frame in frames for message in services.messages_of(frame)]
        async for reply in self._many(b"", context):
            yield reply

    async def _many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.seen = dict(context.invocation_metadata())
        for reply in self.replies:
            yield services.frame([reply, b""])
        if self.trailing:
            context.set_trailing_metadata(self.trailing)
            yield b""
        if not context.code():
            context.set_code(self.raised[0])
        if not context.details():
            context.set_details(self.raised[1])


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Any]]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    proxy = Proxy(server)
    ingress.add_services(object(), proxy)  # type: ignore[arg-type]
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_retries", 0)]) as channel:
        try:
            yield proxy, channel
        finally:
            await server.stop(None)


async def test_the_replica_learns_model_sequence_and_deadline() -> None:
    infer = oip.ModelInferRequest(model_name="m.step")
    infer.parameters["sequence_id"].int64_param = 7
    async with proxied() as (proxy, channel):
        call = channel.unary_unary(_INFER)
        await call(infer.SerializeToString(), metadata=[(services.TIMEOUT, "1")], timeout=PATIENCE_S)
        assert (proxy.seen["multiplexed_model_id"], proxy.seen["session_id"]) == ("m", "m.step/7")
        assert 1 < int(proxy.seen[services.TIMEOUT]) <= 1010 * (PATIENCE_S + 1)  # gRPC rounds up
        given = [("multiplexed_model_id", "mine"), (services.SEQUENCE, "s")]
        await call(infer.SerializeToString(), metadata=given)
        assert (proxy.seen["multiplexed_model_id"], proxy.seen["session_id"]) == ("mine", "s")
        assert services.TIMEOUT not in proxy.seen


async def test_a_stream_of_requests_is_passed_on_whole() -> None:
    sent = [
        pb.FollowRequest(start=pb.FollowStart(model="m")).SerializeToString(),
        b"",
        pb.FollowRequest().SerializeToString(),
    ]
    async with proxied() as (proxy, channel):
        proxy.replies = [b"", b"one"]
        replies = [reply async for reply in channel.stream_stream(_FOLLOW)(iter(sent))]
    assert replies == [b"", b"", b"one", b""]
    assert proxy.received == sent
    assert proxy.seen["multiplexed_model_id"] == "m"


async def _one(channel: Any) -> None:
    await channel.unary_unary(_CLASSIFY)(_REQUEST)


async def _all(channel: Any) -> None:
    async for reply in channel.unary_stream(_GENERATE)(_REQUEST):
        assert reply in (b"one", b"")


@pytest.mark.parametrize("path", [_CLASSIFY, _GENERATE])
async def test_the_replicas_status_is_the_callers(path: str) -> None:
    async with proxied() as (proxy, channel):
        proxy.replies = [b"one"] if path == _GENERATE else []
        proxy.trailing = [
            ("grpc-status-details-bin", b"\x00details"),
            (services.CODE, grpc.StatusCode.INTERNAL.value[0]),
            (services.DETAILS, "the model failed"),
        ]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await (_one(channel) if path == _CLASSIFY else _all(channel))
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INTERNAL, "the model failed")
    assert dict(raised.value.trailing_metadata())["grpc-status-details-bin"] == b"\x00details"
    assert services.CODE not in dict(raised.value.trailing_metadata())


@pytest.mark.parametrize(
    ("raised", "named", "expected"),
    [
        (grpc.StatusCode.INTERNAL, True, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.NOT_FOUND, False, grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.NOT_FOUND, True, grpc.StatusCode.NOT_FOUND),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_what_ray_itself_says(raised: grpc.StatusCode, named: bool, expected: grpc.StatusCode) -> None:
    async with proxied() as (proxy, channel):
        proxy.raised = raised, "The actor died\nunexpectedly."
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(_CLASSIFY)(_REQUEST, metadata=[("application", "a")] if named else [])
    assert error.value.code() is expected
    assert ("actor" in (error.value.details() or "")) == (expected is raised)


async def test_a_method_that_is_not_served() -> None:
    async with proxied() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/grpc.health.v1.Health/Watch")(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_each_name_is_one_method() -> None:
    """Serve calls the replica's method by the last part of the path."""
    names = [method.name for method in services.METHODS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"\x0a"])
def test_a_message_that_cannot_be_read_asks_for_nothing(data: bytes) -> None:
    for method in services.METHODS:
        assert services.target_of(method, data) == services.Target()


@given(st.lists(st.binary(max_size=300)))
def test_a_frame_holds_its_messages(messages: list[bytes]) -> None:
    assert list(services.messages_of(services.frame(messages))) == messages


@pytest.mark.parametrize("pause_s", [0.0, 0.001])
@pytest.mark.parametrize("count", [0, 1, 2000])
async def test_gathered_messages_are_all_in_order(count: int, pause_s: float) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(count):
            yield b"%d" % number
            if number % 7 == 0:
                await asyncio.sleep(0)
        raise ValueError("the end")

    found: list[bytes] = []

    async def consume() -> None:
        async for messages in services.gathered(source(), lambda: pause_s):
            assert messages
            found.extend(messages)
            await asyncio.sleep(0)

    with pytest.raises(ValueError, match="the end"):
        await consume()
    assert found == [b"%d" % number for number in range(count)]


async def test_a_source_waits_for_a_consumer_that_takes_nothing() -> None:
    sent = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(1 << 18)
            await asyncio.sleep(0)

    async with aclosing(services.gathered(source())) as gathered:
        await anext(gathered)
        for _ in range(100):
            await asyncio.sleep(0)
    assert sent <= 8

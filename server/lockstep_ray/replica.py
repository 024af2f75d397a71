"""A replica: a whole Lockstep server, and a relay to it.

call from Serve's proxy → `_relay` → gRPC on this machine → `lockstep-serve` (front end and engine)

The server is the one that runs without Ray, so its answers are too. Messages pass as bytes, unread.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
from ray import serve

from lockstep_client import AsyncClient
from lockstep_client.metrics_text import scrape
from lockstep_client.server_process import ServerProcess
from lockstep_proto import open_inference_pb2 as pb
from lockstep_ray import scaling, services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    import numpy as np

log = logging.getLogger("ray.serve")

_CALL_TIMEOUT_S = 5.0
_LOAD_TIMEOUT_S = 600.0
_GATHER_S, _GATHER_MOST_S = 0.002, 0.03
"""For how long, times the open streams, replies of a stream are gathered to travel together, and at most. So
15 streams of a replica make 500 frames a second, which Ray passes on in about half a core."""

_LOCAL = "127.0.0.1"
_NOT_FORWARDED = {
    "application", "multiplexed_model_id", "session_id", "request_id", "user-agent", "x-forwarded-for",
    services.TIMEOUT,
}  # fmt: skip
_REFUSED = {
    f"/inference.GRPCInferenceService/{name}": reason
    for names, reason in (
        (
            ("RepositoryModelLoad", "RepositoryModelUnload"),
            "a load would reach one replica of many; change the repository and deploy the application again",
        ),
        (
            ("SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "SystemSharedMemoryStatus"),
            "shared memory is of one machine and the replica may be on another; send tensors in messages",
        ),
    )
    for name in names
}


@dataclass(frozen=True)
class ReplicaOptions:
    """What each replica serves, and what load it should have."""

    models: str  # path of the model repository, the same on each node
    flags: tuple[str, ...] = ()  # more flags of lockstep-serve
    max_models: int = 0  # models to keep loaded, the others on demand; 0: all
    target_queue: float = 16.0  # requests accepted and not ended that a replica should have
    target_slots: float = 0.8  # share of a model's slots that should be taken
    start_timeout_s: float = 300.0


@dataclass(frozen=True)
class Raw:
    """A message that is bytes already; Serve calls its `SerializeToString`."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self.data


class Replica:
    """The deployment's class. Serve calls the method that has the name of the RPC."""

    async def __init__(self, options: ReplicaOptions) -> None:  # type: ignore[misc]
        self._options = options
        self._open_calls = self._open_streams = 0
        flags = ["--models", options.models, "--trusted-proxies", _LOCAL, *options.flags]
        first = ""
        if options.max_models:
            first = _first_model(options.models)
            flags += ["--model-control", "explicit", "--only", first]
        self._server = ServerProcess(*flags, program=("lockstep_ray.served", str(os.getpid())))
        self._server.__enter__()  # the server ends with this thread, the replica's own
        try:
            await asyncio.to_thread(self._server.wait_ready, timeout_s=options.start_timeout_s)
        except BaseException:
            self._server.stop()
            raise
        self._channel = grpc.aio.insecure_channel(
            self._server.address,
            [
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),
            ],
        )
        self._calls = {method.path: _stub(self._channel, method) for method in services.METHODS}
        self._token = os.environ.get("LOCKSTEP_TOKEN", "")
        self._client = AsyncClient(
            self._server.address, token=self._token, plaintext_token=bool(self._token), retries=0
        )
        self._model = self._multiplexed(first) if first else None
        if self._model is not None:
            await self._model(first)  # from now on it is one of those that Serve counts
        log.info(
            "lockstep-serve listens on %s, metrics on %s", self._server.address, self._server.metrics_address
        )

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run a model on tensors, for callers inside the cluster: `handle.infer.remote(model, inputs)`.

        Arrays of 100 KB and more come as views of Ray's object store, without a copy on this node.

        Args:
            inputs: by name, each [rows, ...].
            outputs: names of the outputs to return; none: all.

        Raises:
            lockstep_client.LockstepError: the server has refused it, or it failed.
        """
        async with self._using(model):
            result = await self._client.infer(model, dict(inputs), outputs=outputs, timeout_s=timeout_s)
        return dict(result.outputs)

    async def check_health(self) -> None:
        """Serve replaces the replica if this raises: the server has exited or does not answer."""
        self._server.check_running()
        live = self._calls["/inference.GRPCInferenceService/ServerLive"]
        await live(b"", timeout=_CALL_TIMEOUT_S, metadata=self._own_metadata())

    async def record_autoscaling_stats(self) -> dict[str, float]:
        found = await asyncio.to_thread(
            scrape, self._server.metrics_address, _CALL_TIMEOUT_S, token=self._token
        )
        targets = self._options.target_queue, self._options.target_slots
        return {scaling.LOAD: scaling.load_of(found, self._open_calls, *targets)}

    async def __del__(self) -> None:
        """Serve calls it when the calls of the replica have ended."""
        if (channel := self.__dict__.pop("_channel", None)) is not None:
            await self._client.close()
            await channel.close()
            await asyncio.to_thread(self._server.stop)

    async def relay_one(self, method: services.Method, request: bytes, context: Any) -> Raw:
        """Pass a call with one reply to the server."""
        if (reason := _REFUSED.get(method.path)) is not None:
            _end(context, grpc.StatusCode.UNIMPLEMENTED, reason)
            return Raw(b"")
        self._open_calls += 1
        try:
            async with self._using(serve.get_multiplexed_model_id()):
                call = self._calls[method.path](request, **_passed(context))
                reply = await call
                _trail(context, await call.trailing_metadata())
                return Raw(reply)
        except grpc.aio.AioRpcError as error:
            _end(context, error.code(), error.details() or "", error.trailing_metadata())
        finally:
            self._open_calls -= 1
        return Raw(b"")

    async def relay_many(self, method: services.Method, request: Any, context: Any) -> AsyncIterator[Raw]:
        """Pass a call with a stream of replies to the server, in frames. The status comes with an empty one.

        Args:
            request: the message, or an iterator of frames of them.
        """
        self._open_streams += 1
        try:
            async with self._using(serve.get_multiplexed_model_id()):
                sent = _split(request) if method.streams_requests else request
                call = self._calls[method.path](sent, **_passed(context))
                try:
                    async with aclosing(services.gathered(call, self._gather_s)) as gathered:
                        async for replies in gathered:
                            yield Raw(services.frame(replies))
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            _end(context, error.code(), error.details() or "", error.trailing_metadata())
            yield Raw(b"")
        finally:
            self._open_streams -= 1

    def _gather_s(self) -> float:
        return min(_GATHER_MOST_S, _GATHER_S * self._open_streams)

    def _own_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._token}")] if self._token else []

    @asynccontextmanager
    async def _using(self, name: str) -> AsyncIterator[None]:
        """Within the block, the model is loaded, if models are loaded on demand."""
        name = name.removesuffix(".step")
        if self._model is None or not name:
            yield
            return
        model = await self._model(name)
        with model.in_use():
            yield

    def _multiplexed(self, first: str) -> Callable[[str], Awaitable[LoadedModel]]:
        """Loads models on demand, and unloads the least recently used one for it. `first` is loaded."""
        loaded = {first}

        async def change(verb: str, name: str) -> None:
            make = getattr(pb, f"RepositoryModel{verb}Request")
            call = self._calls[f"/inference.GRPCInferenceService/RepositoryModel{verb}"]
            request = make(model_name=name).SerializeToString()
            await call(request, timeout=_LOAD_TIMEOUT_S, metadata=self._own_metadata())

        async def load(name: str) -> LoadedModel:
            if name not in loaded:
                await change("Load", name)
            loaded.discard(first)
            return LoadedModel(partial(change, "Unload", name))

        found: Callable[[str], Awaitable[LoadedModel]] = serve.multiplexed(
            max_num_models_per_replica=self._options.max_models
        )(load)
        return found


class LoadedModel:
    """A model in Serve's multiplexer, which awaits `__del__` to unload it. Calls that use it end before."""

    def __init__(self, unload: Callable[[], Awaitable[None]]) -> None:
        self._unload = unload
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.__del__ = self._end  # not of the class: the interpreter would call it, too

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def _end(self) -> None:
        await self._idle.wait()
        await self._unload()


def _first_model(repository: str) -> str:
    """A model for the server to start with.

    Raises:
        ValueError: there is none.
    """
    names = sorted(path.name for path in Path(repository).iterdir() if (path / "model.toml").is_file())
    if not names:
        raise ValueError(f"models: {repository} holds no model: no folder in it has a model.toml")
    return names[0]


def _stub(channel: grpc.aio.Channel, method: services.Method) -> Any:
    if method.streams_requests:
        return channel.stream_stream(method.path)
    return channel.unary_stream(method.path) if method.streams_replies else channel.unary_unary(method.path)


async def _split(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for frame in frames:
        for message in services.messages_of(frame):
            yield message


def _passed(context: Any) -> dict[str, Any]:
    """The metadata and deadline of a call, for the call to the server."""
    sent = [
        (key, value)
        for key, value in context.invocation_metadata()
        if key not in _NOT_FORWARDED and not key.startswith("grpc-")
    ]
    caller = context.peer().partition(":")[2]
    remaining_ms = dict(context.invocation_metadata()).get(services.TIMEOUT)
    return {
        "metadata": [*sent, ("x-forwarded-for", unquote(caller))],
        "timeout": None if remaining_ms is None else int(remaining_ms) / 1000,
    }


def _trail(context: Any, trailing: Any) -> None:
    if trailing:
        context.set_trailing_metadata([(key, value) for key, value in trailing])


def _end(context: Any, code: grpc.StatusCode, details: str, trailing: Any = None) -> None:
    """End the call with a status; the ingress reads it."""
    status = [(services.CODE, code.value[0]), (services.DETAILS, details)]
    context.set_trailing_metadata([*((key, value) for key, value in trailing or ()), *status])


def rpc(method: services.Method) -> Callable[..., Any]:
    """The method of the deployment for an RPC."""
    if method.streams_replies:

        async def answer_many(self: Replica, request: Any, grpc_context: Any) -> AsyncIterator[Raw]:
            async for reply in self.relay_many(method, request, grpc_context):
                yield reply

        return answer_many

    async def answer(self: Replica, request: bytes, grpc_context: Any) -> Raw:
        return await self.relay_one(method, request, grpc_context)

    return answer


for _method in services.METHODS:
    setattr(Replica, _method.name, rpc(_method))

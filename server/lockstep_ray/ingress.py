"""The services in Ray Serve's gRPC proxy: what Serve's own handlers lose on the way is kept here.

Serve calls `add_services` in each proxy and replaces the handlers by its own, which send a message to a
replica. Here they are wrapped once more. Messages pass as bytes, those of streams in frames. The wrapper

- adds metadata that Serve and the replica read: the model and the sequence that the first message names, and
  the time that remains of the deadline;
- ends the call with the status that the replica has sent, with its google.rpc details;
- turns Serve's INTERNAL for a replica that was lost into UNAVAILABLE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from lockstep_ray import services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def add_services(servicer: object, server: grpc.aio.Server) -> None:  # noqa: ARG001
    """Add all services; one of Serve's `grpc_servicer_functions`."""
    server.add_generic_rpc_handlers((_Handlers(services.METHODS),))


class _Handlers(grpc.GenericRpcHandler):
    """Serve reads `_method_handlers`, as generated code sets it, and replaces it by handlers of its own."""

    def __init__(self, methods: tuple[services.Method, ...]) -> None:
        self._methods = {method.path: method for method in methods}
        self._method_handlers: Mapping[str, Any] = {method.path: _empty_handler(method) for method in methods}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handler = self._method_handlers.get(details.method)
        if handler is None:
            return None
        method = self._methods[details.method]
        if method.streams_requests:
            return handler._replace(stream_stream=_both(handler.stream_stream, method))
        if method.streams_replies:
            return handler._replace(unary_stream=_replies(handler.unary_stream, method))
        return handler._replace(unary_unary=_unary(handler.unary_unary, method))


def _empty_handler(method: services.Method) -> Any:
    """A handler for bytes, without behaviour: Serve puts its own there."""
    nothing: Any = None
    if method.streams_requests:
        return grpc.stream_stream_rpc_method_handler(nothing)
    if method.streams_replies:
        return grpc.unary_stream_rpc_method_handler(nothing)
    return grpc.unary_unary_rpc_method_handler(nothing)


def _unary(call: Any, method: services.Method) -> Any:
    async def answer(request: bytes, context: Any) -> bytes:
        passed = _Context(context, services.target_of(method, request))
        reply: bytes = await call(request, passed)
        passed.finish()
        return reply

    return answer


def _replies(call: Any, method: services.Method) -> Any:
    async def answer(request: bytes, context: Any) -> AsyncIterator[bytes]:
        passed = _Context(context, services.target_of(method, request))
        async for frame in call(request, passed):
            for reply in services.messages_of(frame):
                yield reply
        passed.finish()

    return answer


def _both(call: Any, method: services.Method) -> Any:
    async def answer(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        rest = services.gathered(requests)
        nothing: list[bytes] = []
        first = await anext(rest, nothing)

        async def frames() -> AsyncIterator[bytes]:
            yield services.frame(first)
            async for more in rest:
                yield services.frame(more)

        target = services.target_of(method, first[0]) if first else services.Target()
        passed = _Context(context, target)
        try:
            async for frame in call(frames(), passed):
                for reply in services.messages_of(frame):
                    yield reply
        finally:
            await rest.aclose()
        passed.finish()

    return answer


class _Context:
    """The context of a call, as Serve sees it: with more metadata, and a status that is set at the end."""

    def __init__(self, context: Any, target: services.Target) -> None:
        self._context = context
        sent = dict(context.invocation_metadata())
        sequence = sent.get(services.SEQUENCE) or target.sequence
        more = {"multiplexed_model_id": target.model, "session_id": sequence}
        remaining_s = context.time_remaining()
        self._metadata = [
            *((key, value) for key, value in context.invocation_metadata() if key != services.TIMEOUT),
            *((key, value) for key, value in more.items() if value and key not in sent),
            *([(services.TIMEOUT, str(max(1, int(remaining_s * 1000))))] if remaining_s is not None else []),
        ]
        self._named_application = "application" in sent
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._ended = False  # the replica has sent the status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self._metadata

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def details(self) -> str:
        return self._details

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, Any]]) -> None:
        found = dict(metadata)
        if services.CODE in found:
            self._ended = True
            self._code, self._details = _CODES[found[services.CODE]], found[services.DETAILS]
        hidden = services.CODE, services.DETAILS
        self._context.set_trailing_metadata(tuple(pair for pair in metadata if pair[0] not in hidden))

    def finish(self) -> None:
        """Set the status of the call."""
        code, details = self._code, self._details
        if code in (None, grpc.StatusCode.OK):
            return
        if not self._ended and code is grpc.StatusCode.INTERNAL:
            code = grpc.StatusCode.UNAVAILABLE
            details = "the replica that held this call was lost, and what it had begun with it; call again"
        elif not self._ended and code is grpc.StatusCode.NOT_FOUND and not self._named_application:
            code = grpc.StatusCode.UNAVAILABLE
            details = (
                "no application runs here yet, or several do; retry, or name one in the metadata key"
                " `application`"
            )
        self._context.set_code(code)
        self._context.set_details(details)

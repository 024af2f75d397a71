"""A blocking wrapper around AsyncClient, so that one test can run with both clients."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import lockstep_client as lc

if TYPE_CHECKING:
    from collections.abc import Iterator


class Awaited:
    """An AsyncClient with blocking methods, on a private event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()

        async def made() -> lc.AsyncClient:
            return lc.AsyncClient(*args, **kwargs)

        self._client = self._runner.run(made())

    def with_metadata(self, *pairs: tuple[str, str]) -> Awaited:
        other = object.__new__(Awaited)
        other._runner, other._client = self._runner, self._client.with_metadata(*pairs)
        return other

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if inspect.iscoroutinefunction(method):
            return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))

        async def called(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return lambda *args, **kwargs: AwaitedStream(self._runner, self._runner.run(called(*args, **kwargs)))

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


class AwaitedStream:
    """An AsyncStream (or AsyncOutcomes) with blocking methods."""

    def __init__(self, runner: asyncio.Runner, stream: lc.AsyncStream[Any, Any]) -> None:
        self._runner, self._stream = runner, stream

    def __iter__(self) -> Iterator[Any]:
        parts: Any = aiter(self._stream)

        async def next_part() -> Any:
            return await anext(parts)

        async def leave() -> None:
            await parts.aclose()

        try:
            while True:
                yield self._runner.run(next_part())
        except StopAsyncIteration:
            pass
        finally:
            self._runner.run(leave())

    def result(self) -> Any:
        return self._runner.run(self._stream.result())

    def close(self) -> None:
        self._runner.run(self._stream.close())

    def __enter__(self) -> AwaitedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""A proxy that resets its connection to the server in the middle of what a client sends."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_AT_ONCE = 1 << 16


@asynccontextmanager
async def resetting_proxy(host: str, port: int, after_bytes: int) -> AsyncIterator[str]:
    """Yields HOST:PORT of a proxy for one connection, which is reset after `after_bytes` of the client."""
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, onward = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        replies = asyncio.create_task(_copy(back, writer))
        try:
            await _copy(reader, onward, after_bytes)
        finally:
            replies.cancel()
            for one in (onward, writer):
                with suppress(OSError, AttributeError):
                    one.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                    )
                one.transport.abort()
            done.set()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: float = float("inf")
) -> None:
    """Copy until the end, or `most` bytes."""
    with suppress(OSError):
        while most > 0 and (data := await reader.read(_AT_ONCE)):
            part = data[: int(min(most, len(data)))]
            most -= len(part)
            writer.write(part)
            await writer.drain()

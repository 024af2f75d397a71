"""Faults from outside, one after another: the engine killed, stopped, starved; models loaded and unloaded."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from bench.levels import engine_pid
from lockstep_client import protocol
from lockstep_proto import open_inference_pb2 as ipb

from .asks import TEXTS_MODEL
from .disturbances import WRITE_FAILED

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from .history import History

RECOVERY_S = 90.0
"""How long the server may take to serve again."""

_LOST = ("UNAVAILABLE", "FAILED_PRECONDITION", WRITE_FAILED)
"""What requests and sequences end with if their engine does. A caller that is starved writes after the server
has waited for it, and sees its write fail."""

_BURN = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"

_GRACE_S = 12.0
"""Between two deaths of the engine: sooner, it pauses before it starts again."""


class Faults:
    """Makes faults until it is stopped, and records each with the time that it took to recover from it."""

    def __init__(self, pid: int, address: str, rng: random.Random) -> None:
        self._pid, self._rng = pid, rng
        self._channel = grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)])
        self.history: History
        self._last_death = 0.0
        self.engine_back = asyncio.Event()
        """Set unless the engine has been ended and does not serve again yet."""
        self.engine_back.set()

    async def close(self) -> None:
        await self._channel.close()

    async def ready(self) -> None:
        """Connect, so that the connection is there before levels are taken."""
        await self._wait_serving()

    async def run(self, over: asyncio.Event, kinds: Sequence[str] = ()) -> None:
        """Make these faults, or random ones until `over`; the one that has begun is ended in any case."""
        for kind in kinds:
            await self._make(kind)
        while not kinds and not over.is_set():
            await self._make(self._rng.choice(_KINDS))
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._rng.random() * 3)

    async def _make(self, kind: str) -> None:
        faults: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": lambda: self._end_engine("kill", signal.SIGKILL),
            "stop": lambda: self._end_engine("stop", signal.SIGSTOP),
            "pause": self._pause,
            "starve": self._starve,
            "reload": self._reload,
            "unload": self._unload,
        }
        await faults[kind]()

    # --- the engine -----------------------------------------------------------------------------------

    async def _end_engine(self, name: str, number: int) -> None:
        """End the engine process; one that is only stopped must be noticed and replaced."""
        await asyncio.sleep(max(0.0, self._last_death + _GRACE_S - time.monotonic()))
        begun, engine = time.monotonic(), engine_pid(self._pid)
        self.engine_back.clear()
        os.kill(engine, number)
        replaced = await self._wait(lambda: engine_pid(self._pid) not in (0, engine))
        recovered = replaced and await self._wait_serving()
        self.engine_back.set()
        self._last_death = time.monotonic()
        self.history.fault(begun, name, *_LOST, recovered=recovered)

    async def _pause(self) -> None:
        """Stop the engine for less than it takes to be called hung. Nothing may be lost."""
        begun, engine = time.monotonic(), engine_pid(self._pid)
        os.kill(engine, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.2 + self._rng.random())
        finally:
            with suppress(ProcessLookupError):
                os.kill(engine, signal.SIGCONT)
        self.history.fault(begun, "pause", recovered=await self._wait_serving())

    async def _starve(self) -> None:
        """Take the cores from the server for a while."""
        begun = time.monotonic()
        burners = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", _BURN)
            for _ in range(os.cpu_count() or 1)
        ]
        for one in burners:
            await one.wait()
        self.history.fault(begun, "starve", recovered=await self._wait_serving())

    # --- models ---------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        """Load a model again while it is in use: one-shot, with streams, with client-driven sequences."""
        begun, model = time.monotonic(), self._rng.choice((TEXTS_MODEL, "lm", "adder", "identity"))
        status = await self._control(protocol.LOAD, ipb.RepositoryModelLoadRequest(model_name=model))
        self.history.fault(begun, f"reload {model}", recovered=status == "OK")

    async def _unload(self) -> None:
        begun, model = time.monotonic(), "swapped"
        unloaded = await self._control(protocol.UNLOAD, ipb.RepositoryModelUnloadRequest(model_name=model))
        await asyncio.sleep(self._rng.random() * 0.5)
        loaded = await self._control(protocol.LOAD, ipb.RepositoryModelLoadRequest(model_name=model))
        explains = ("NOT_FOUND", "UNAVAILABLE")
        self.history.fault(begun, "unload", *explains, model=model, recovered=unloaded == loaded == "OK")

    async def _control(self, method: protocol.Method[Any], request: Any) -> str:
        rpc = method.path.rsplit("/", 1)[1]
        key = self.history.sent(rpc, (), may=frozenset())
        call: Any = self._channel.unary_unary(method.path, response_deserializer=method.reply.FromString)
        made: Any = call(request.SerializeToString(), timeout=RECOVERY_S)
        status = (await made.code()).name
        self.history.ended(key, status)
        return str(status)

    # --- recovery -------------------------------------------------------------------------------------

    async def _wait_serving(self) -> bool:
        return await self._wait(self._serves)

    async def _serves(self) -> bool:
        call: Any = self._channel.unary_unary(
            protocol.HEALTH.path, response_deserializer=protocol.HEALTH.reply.FromString
        )
        try:
            reply: Any = await call(health_pb2.HealthCheckRequest().SerializeToString(), timeout=5.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def _wait(self, holds: Callable[[], Any]) -> bool:
        end = time.monotonic() + RECOVERY_S
        while time.monotonic() < end:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return True
            await asyncio.sleep(0.05)
        return False


_KINDS = ("kill", "stop", "pause", "pause", "starve", "reload", "reload", "reload", "unload", "unload")

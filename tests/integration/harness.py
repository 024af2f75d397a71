"""Runs a real server on a free port, with its event loop on another thread, and checks errors of calls."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from patience import PATIENCE_S, wait_until

from lockstep_client.metrics_text import scrape
from lockstep_proto import open_inference_pb2_grpc
from lockstep_proto.v1 import sequences_pb2_grpc
from lockstep_server.app import App
from lockstep_server.engine.runtime.device_scheduler import DeviceAccount
from lockstep_server.settings import Settings
from lockstep_server.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lockstep_server.engine.models import LoadedModels

REPOSITORY = Path(__file__).parents[2] / "models"


FRONT_ENDS = "front ends"
"""As `engine` of `serve`: an engine process, with two front ends before it."""

_CONNECTIONS = 8
"""Connections to several front ends, so many that practically never all of them reach the same one."""


class Connections:
    """Makes stubs that send each call over another connection than the one before."""

    def __init__(self, address: str, count: int) -> None:
        alone = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.insecure_channel(address, alone) for _ in range(count)]
        self._turn = itertools.cycle(range(count))

    def __getattr__(self, kind: str) -> Any:
        def make(*args: Any, **more: Any) -> Any:
            calls = [getattr(channel, kind)(*args, **more) for channel in self.channels]
            return _Calls(calls, self._turn)

        return make

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


class _Calls:
    def __init__(self, calls: list[Any], turn: Iterator[int]) -> None:
        self._calls, self._turn = calls, turn

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._calls[next(self._turn)](*args, **more)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: getattr(self._calls[next(self._turn)], name)(*args, **more)


class Stubs:
    """gRPC stubs of all services at an address. With several connections, they take turns."""

    def __init__(self, address: str, connections: int = 1) -> None:
        self.address = address
        self.channel: Any = grpc.insecure_channel(address, [("grpc.enable_retries", 0)])
        if connections > 1:
            self.channel = Connections(address, connections)
        self.inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.sequences = sequences_pb2_grpc.SequencesStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    def infer(self, request: Any, timeout: float = PATIENCE_S) -> Any:
        return self.inference.ModelInfer(request, timeout=timeout)

    def serving(self, model: str = "") -> bool:
        reply = self.health.Check(health_pb2.HealthCheckRequest(service=model), timeout=PATIENCE_S)
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    def wait_serving(self, *, serving: bool = True, timeout: float = PATIENCE_S) -> None:
        """Waits, with Health.Watch, until the server is SERVING or NOT_SERVING."""
        wanted = health_pb2.HealthCheckResponse
        watch = self.health.Watch(health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True)
        for reply in watch:
            if reply.status == (wanted.SERVING if serving else wanted.NOT_SERVING):
                break
        watch.cancel()


class Served(Stubs):
    """A server in this process, with access to its internals."""

    def __init__(self, settings: Settings, spans: Any = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server")
        self._thread.start()
        try:
            self.app: Any = self.run(self._start(settings, spans))
        except BaseException:
            self._end_loop()
            raise
        super().__init__(f"127.0.0.1:{self.app.port}", _CONNECTIONS if settings.frontends > 1 else 1)
        self.transport: Any = self.app.transport

    @staticmethod
    async def _start(settings: Settings, spans: Any) -> App | Supervisor:
        app = App(settings, spans=spans) if settings.frontends == 1 else Supervisor(settings)
        try:
            await app.start()
        except BaseException:
            await app.stop()
            raise
        return app

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def close(self) -> None:
        self.channel.close()
        self.drain()

    def drain(self) -> None:
        """Stops while calls may be open."""
        self.run(self.app.stop())
        self._end_loop()
        self.channel.close()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def loaded_models(self) -> LoadedModels:
        """The engine side; only with `engine="thread"`."""
        loaded: LoadedModels = self.transport.engine
        return loaded

    def engine(self, model: str, version: int = 1) -> Any:
        """The engine of a model; only with `engine="thread"`."""
        return self.loaded_models.get(model, version).engine

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the device: no run starts while the block runs."""
        with self.loaded_models.device_scheduler.exclusive(DeviceAccount("the test")):
            yield

    def waiting(self, model: str) -> int:
        """The number of parts in the model's queue."""
        parts: int = self.engine(model).waiting()
        return parts

    def wait_waiting(self, model: str, count: int) -> None:
        wait_until(lambda: self.waiting(model) == count, f"{count} waiting parts of {model}")

    def wait_held(self, model: str, count: int) -> None:
        """Waits until the model's engine holds `count` requests, that is, until cancels have reached it."""
        engine = self.engine(model)
        wait_until(lambda: engine.in_flight() == count, f"{count} requests held by {model}")

    def in_flight(self) -> int:
        """The number of requests that have not ended."""
        if isinstance(self.app, App):
            return len(self.app.requests)
        return int(self.metric("lockstep_queue_depth"))

    def wait_idle(self) -> None:
        """Waits until no request is in flight and no engine holds one."""
        wait_until(lambda: len(self.app.requests) == 0, "no request in flight")
        wait_until(lambda: self.loaded_models.in_flight() == 0, "no request held by an engine")

    def samples(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """Scrapes a metric. Returns its samples by the values of the labels that are not given."""
        page = scrape(f"127.0.0.1:{self.app.metrics_port}", PATIENCE_S)
        return {
            tuple(v for k, v in has.items() if k not in labels): value
            for has, value in page.select(name, **labels)
        }

    def metric(self, name: str, **labels: str) -> float:
        return sum(self.samples(name, **labels).values())


def settings(models: Path, **more: Any) -> Settings:
    """Of a server for tests. What is measured of a model is measured once per test run. With
    LOCKSTEP_STATE_VALUES=device, states and scores are values that graphs move and sample, as on a GPU."""
    usual = {"host": "127.0.0.1", "port": 0, "metrics_port": 0, "device": "cpu", "engine": "thread"}
    usual["state_values"] = os.environ.get("LOCKSTEP_STATE_VALUES", "auto")
    if more.get("engine") == FRONT_ENDS:
        more = {**more, "engine": "process", "frontends": 2}
    return Settings(models=str(models), **{**usual, "cache": os.environ["LOCKSTEP_CACHE"], **more})


@contextmanager
def serve(models: Path, *, spans: Any = None, **more: Any) -> Iterator[Served]:
    server = Served(settings(models, **more), spans)
    try:
        server.wait_serving()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def shipped() -> Iterator[Served]:
    """The shipped repository, with its limits: many requests at once are rejected on a slow machine."""
    with serve(REPOSITORY) as server:
        yield server


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers, by default on `tmp_path`, and stops them at the end of the test."""
    started: list[Any] = []

    def start(models: Path = tmp_path, **more: Any) -> Served:
        context = serve(models, **more)
        started.append(context)
        return context.__enter__()

    yield start
    for context in started:
        context.__exit__(None, None, None)


def details(error: grpc.RpcError) -> list[Any]:
    """The unpacked google.rpc details of a failed call."""
    found: list[Any] = []
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                for kind in (
                    error_details_pb2.BadRequest,
                    error_details_pb2.RetryInfo,
                    error_details_pb2.ResourceInfo,
                ):
                    detail: Any = kind()
                    if packed.Is(detail.DESCRIPTOR):
                        packed.Unpack(detail)
                        found.append(detail)
    return found


def fields(error: grpc.RpcError) -> list[str]:
    """The fields named in the BadRequest details of a failed call."""
    return [
        violation.field
        for detail in details(error)
        if isinstance(detail, error_details_pb2.BadRequest)
        for violation in detail.field_violations
    ]


@contextmanager
def refused(code: grpc.StatusCode, field: str | None = None, words: str = "") -> Iterator[Any]:
    """Expects the call to fail with `code`, to name `field`, and `words` in its message."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    error = caught.value
    assert error.code() is code, error.details()
    assert words in (error.details() or "")
    if field is not None:
        assert fields(error) == [field], error.details()

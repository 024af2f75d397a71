"""Runs a real server on a free port, with its event loop on another thread, and checks errors of calls."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lockstep_client.metrics_text import scrape
from lockstep_proto import open_inference_pb2_grpc
from lockstep_proto.v1 import sequences_pb2_grpc
from lockstep_server.app import App
from lockstep_server.engine.runtime.device_scheduler import DeviceAccount
from lockstep_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[2] / "models"
PATIENCE_S = 60.0


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds; fails after PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"timed out waiting for: {what}"
        time.sleep(0.002)


class Stubs:
    """gRPC stubs of all services at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(address, [("grpc.enable_retries", 0)])
        self.inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.sequences = sequences_pb2_grpc.SequencesStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

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
            self.app = self.run(self._start(settings, spans))
        except BaseException:
            self._end_loop()
            raise
        super().__init__(f"127.0.0.1:{self.app.port}")
        self.transport: Any = self.app._transport

    @staticmethod
    async def _start(settings: Settings, spans: Any) -> App:
        app = App(settings, spans=spans)
        await app.start()
        return app

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def close(self) -> None:
        self.channel.close()
        self.run(self.app.stop())
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def loaded_models(self) -> Any:
        """The engine side; only with `engine="thread"`."""
        return self.transport._engine

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the device: no run starts while the block runs."""
        with self.loaded_models._device_scheduler.exclusive(DeviceAccount("the test")):
            yield

    def waiting(self, model: str, version: int = 1) -> int:
        """The number of parts in the model's queue."""
        return len(self.loaded_models._models[model, version].engine._queue)

    def wait_waiting(self, model: str, count: int) -> None:
        wait_until(lambda: self.waiting(model) == count, f"{count} waiting, there are {self.waiting(model)}")

    def wait_held(self, model: str, count: int, version: int = 1) -> None:
        """Waits until the model's engine holds `count` requests, that is, until cancels have reached it."""
        held = self.loaded_models._models[model, version].engine._held
        wait_until(lambda: len(held) == count, f"{count} held, there are {len(held)}")

    def wait_idle(self) -> None:
        """Waits until no request is in flight and no engine holds one."""
        wait_until(lambda: len(self.app.requests) == 0, "no call in flight")
        for model in list(self.loaded_models._models.values()):
            engine = model.engine
            if model.spec.is_stepwise:
                wait_until(
                    lambda one=engine: not one._scheduler.open_keys() and not one._batches, "no leftovers"
                )
            else:
                wait_until(lambda one=engine: not one._held and not len(one._queue), "no leftovers")
        wait_until(lambda: not self.loaded_models._engine_of, "no key left")

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
    usual = {"host": "127.0.0.1", "port": 0, "metrics_port": 0, "cache": "", "device": "cpu"}
    return Settings(models=str(models), **{**usual, "engine": "thread", **more})


@contextmanager
def serve(models: Path, *, spans: Any = None, **more: Any) -> Iterator[Served]:
    server = Served(settings(models, **more), spans)
    try:
        server.wait_serving()
        yield server
    finally:
        server.close()


def with_long_queue_limit(models: Path, to: Path) -> Path:
    """Copies the models with `max_queue_ms` as long as a test waits, so a slow machine rejects no request."""
    shutil.copytree(models, to)
    for manifest in to.glob("*/model.toml"):
        text = manifest.read_text()
        assert "max_queue_ms" not in text
        table = "" if "[batching]" in text else "\n[batching]\n"
        limit = f"[batching]\nmax_queue_ms = {PATIENCE_S * 1000}\n"
        manifest.write_text((text + table).replace("[batching]\n", limit))
    return to


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The shipped repository, with a long queue limit."""
    with serve(with_long_queue_limit(REPOSITORY, tmp_path_factory.mktemp("shipped") / "models")) as server:
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
    found = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                for kind in (
                    error_details_pb2.BadRequest,
                    error_details_pb2.RetryInfo,
                    error_details_pb2.ResourceInfo,
                ):
                    if packed.Is(kind.DESCRIPTOR):
                        detail = kind()
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
    assert words in error.details()
    if field is not None:
        assert fields(error) == [field], error.details()

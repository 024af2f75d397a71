"""Processes of a benchmark: servers, and tools that print JSON."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def tool(name: str, *arguments: str) -> Any:
    """Run `python -m bench.NAME` and read its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def drive(
    address: str, model: str, lengths: list[int], *, inflight: int = 64, mode: str = "unary"
) -> dict[str, float]:
    spec = {"address": address, "model": model, "lengths": lengths, "inflight": inflight, "mode": mode}
    found: dict[str, float] = tool("drive", json.dumps(spec))
    if found["failed"]:
        raise RuntimeError(f"{found['failed']:.0f} of {len(lengths)} requests for {model} failed")
    return found


@contextmanager
def echo() -> Iterator[str]:
    """Run a bare echo server. Yields its address."""
    process = subprocess.Popen([sys.executable, "-m", "bench.echo"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def server(models: Path, *flags: str) -> Iterator[str]:
    """Run a Lockstep server on `models`. Yields its address once every model is ready."""
    port = free_port()
    command = [
        sys.executable, "-m", "lockstep_server", "--models", str(models), "--host", "127.0.0.1", "--port",
        str(port), "--metrics-port", "0", "--cache", str(models.parent / "cache"), "--log-level",
        "warning", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        address = f"127.0.0.1:{port}"
        _wait_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(address: str, process: subprocess.Popen[bytes], within_s: float = 120.0) -> None:
    end = time.monotonic() + within_s
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < end:
            if process.poll() is not None:
                raise RuntimeError(f"the server exited with code {process.returncode}")
            try:
                if health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {within_s:g} s")

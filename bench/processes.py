"""Processes of a benchmark: servers, and tools that print JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lockstep_client.server_process import START_TIMEOUT_S, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def tool(name: str, *arguments: str | dict[str, Any], lines: Sequence[str] = ()) -> Any:
    """Run `python -m bench.NAME` with these lines as its input, and read its JSON. Dictionaries become
    JSON."""
    words = [one if isinstance(one, str) else json.dumps(one) for one in arguments]
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *words],
        check=True, stdout=subprocess.PIPE, text=True, input="\n".join(lines),
    )  # fmt: skip
    return json.loads(done.stdout)


def drive(
    address: str, model: str, lengths: list[int], *, inflight: int = 64, mode: str = "unary", **more: Any
) -> dict[str, float]:
    spec = {"address": address, "model": model, "lengths": lengths, "inflight": inflight, "mode": mode}
    spec |= more
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
def server_process(models: Path, *flags: str, timeout_s: float = START_TIMEOUT_S) -> Iterator[ServerProcess]:
    """Run a Lockstep server on `models`, ready with every model. Prints its warnings at the end."""
    cache = str(models.parent / "cache")
    with ServerProcess("--models", str(models), "--cache", cache, *flags, stop_timeout_s=60.0) as running:
        running.wait_ready(timeout_s=timeout_s)
        try:
            yield running
        finally:
            running.stop()
            lines = running.log_text().splitlines(keepends=True)
            sys.stderr.writelines(line for line in lines if " INFO " not in line)


@contextmanager
def server(models: Path, *flags: str) -> Iterator[str]:
    """Run a Lockstep server on `models`. Yields its address once every model is ready."""
    with server_process(models, *flags) as running:
        yield running.address

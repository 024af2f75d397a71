"""The main job in half a minute: `python -m lockstep_client.demo`, or `make demo`.

start a server on the shipped models -> wait until each is healthy -> the same sentences to every model ->
a burst of mixed lengths to each -> what batching made of it -> stop the server. Everything goes through this
package's own client; the server is a process of its own and knows nothing of this.

Exit codes: 0 fine, 1 the demo could not be shown, 128 + its number after a signal (Ctrl-C: 130). The server
is gone then, each time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import ProxyHandler, build_opener

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lockstep_client import AsyncClient, Classification

SENTENCES = (
    "I am happy",
    "I am not happy",
    "a warm , funny and moving film",
    "a dull , lifeless mess that never finds its story",
    "it is funny , not sad",
    "it is sad , not funny",
)
"""The first pair differs by one word, the last holds the same words in another order."""

REVIEWS = (
    "an intimate and quietly devastating portrait of a family that has forgotten how to talk",
    "the jokes land flat and the plot limps from one tired cliche to the next",
    "gorgeous to look at , but there is nothing behind the pretty pictures",
    "the cast is superb and the script gives each of them a moment to shine",
    "two hours of noise without a single idea",
    "it made me laugh and then , without warning , it broke my heart",
)
"""What the burst is cut from."""

REQUESTS, IN_FLIGHT, LONGEST_WORDS = 512, 64, 60
START_S, STOP_S = 60.0, 10.0
_SAMPLE = re.compile(r'^(lockstep_\w+)\{[^}]*model="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)


class DemoError(Exception):
    """The demo cannot be shown; the message says why, and what to do."""


@dataclass(frozen=True)
class Burst:
    """What became of one model's burst: what callers saw, what replies told, what the server counted."""

    latencies_s: list[float]
    answers: list[Classification]
    wall_s: float
    runs: float
    rows: float
    elements: float
    padded_elements: float

    def row(self, model: str) -> tuple[str, ...]:
        """A line of the table that `BURST_HEADER` heads."""
        return (
            model,
            str(len(self.answers)),
            f"{self.runs:.0f}",
            f"{self.rows / max(self.runs, 1):.1f}",
            f"{1 - self.elements / max(self.padded_elements, 1):.0%}",
            f"{len(self.answers) / self.wall_s:.0f}",
            _ms(_quantile(self.latencies_s, 0.5)),
            _ms(_quantile(self.latencies_s, 0.99)),
            _ms(_quantile([answer.timings.queue_s for answer in self.answers], 0.5)),
            _ms(_quantile([answer.timings.compute_s for answer in self.answers], 0.5)),
        )


BURST_HEADER = (
    "model", "sent", "runs", "rows/run", "padding", "req/s",
    "p50 ms", "p99 ms", "queue ms", "compute ms",
)  # fmt: skip


# --- the show -----------------------------------------------------------------------------------------


async def show(options: argparse.Namespace) -> None:
    """Everything, from the server's start to its end."""
    from lockstep_client import AsyncClient

    names = classifiers(Path(options.models))
    address = f"127.0.0.1:{options.port}"
    with server(options, names) as running:
        async with AsyncClient(address) as client:
            _say(f"Starting a server on {options.models}/ (gRPC {address}, metrics {options.metrics_port})")
            for name in names:
                _say(f"  {name} is ready after {await running.ready(client, name):.1f} s")
            await _compare(client, names)
            await _bursts(client, names, options.metrics_port)
        _say("\nStopping the server")
    _say("Done. `make serve` keeps one running; `.venv/bin/lockstep --help` shows how to ask it.")


async def _compare(client: AsyncClient, names: Sequence[str]) -> None:
    """The same sentences to every model, side by side."""
    answers = await asyncio.gather(*(client.classify(name, SENTENCES) for name in names))
    _say("\nThe same sentences, each model:\n")
    columns = [[f"{a.best.name} {a.best.probability:.0%}" for a in column] for column in answers]
    _table(("sentence", *names), list(zip(SENTENCES, *columns, strict=True)))
    _say("\nThe last two hold the same words in another order: a bag of words cannot tell them apart.")


async def _bursts(client: AsyncClient, names: Sequence[str], metrics_port: int) -> None:
    """A burst of mixed lengths to each model in turn."""
    _say(
        f"\n{REQUESTS} requests of 1 to {LONGEST_WORDS} words to each model in turn, {IN_FLIGHT} in flight:\n"
    )
    rows = [(await burst(client, name, metrics_port)).row(name) for name in names]
    _table(BURST_HEADER, rows)
    _say(
        "\nrows/run: requests that shared one run of the model, the mean. padding: computed for nothing, to\n"
        "make them equally long. queue, compute: where the time went on the server, the median; the rest of\n"
        "a latency is gRPC, the tokenizer and this client, which shares the machine with the server."
    )


async def burst(client: AsyncClient, model: str, metrics_port: int) -> Burst:
    """Send the burst's texts with so many in flight; the server's counters are read before and after."""
    texts, latencies, answers = iter(mixed_texts(REQUESTS)), list[float](), list["Classification"]()

    async def worker() -> None:
        for text in texts:
            begun = time.perf_counter()
            answers.extend(await client.classify(model, text))
            latencies.append(time.perf_counter() - begun)

    before, begun = await counters(metrics_port, model), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    wall_s, after = time.perf_counter() - begun, await counters(metrics_port, model)
    gained = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return Burst(
        latencies,
        answers,
        wall_s,
        runs=gained["lockstep_batch_rows_count"],
        rows=gained["lockstep_batch_rows_sum"],
        elements=gained["lockstep_elements_total"],
        padded_elements=gained["lockstep_padded_elements_total"],
    )


def mixed_texts(count: int) -> list[str]:
    """Texts of 1 to 60 words, the lengths well mixed, the same ones each time."""
    words = " ".join(REVIEWS).split()
    lengths = (1 + 37 * i % LONGEST_WORDS for i in range(count))
    starts = (11 * i % len(words) for i in range(count))
    return [
        " ".join(islice(cycle(words), start, start + n)) for start, n in zip(starts, lengths, strict=True)
    ]


async def counters(metrics_port: int, model: str) -> dict[str, float]:
    """The model's samples at /metrics, by name; those that differ in other labels count together."""
    page = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{metrics_port}/metrics")
    found: dict[str, float] = {}
    for name, labelled, value in _SAMPLE.findall(page):
        if labelled == model:
            found[name] = found.get(name, 0.0) + float(value)
    return found


def _fetch(url: str) -> str:
    # No proxy: one that is set for the outside world cannot reach this machine's own ports.
    with build_opener(ProxyHandler({})).open(url, timeout=5) as page:
        text: str = page.read().decode()
    return text


# --- the server ---------------------------------------------------------------------------------------


class Running:
    """The server's process and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.begun = time.monotonic()

    async def ready(self, client: AsyncClient, model: str) -> float:
        """Seconds from the start until the model was seen to answer.

        Raises:
            DemoError: it will not; with what the server has to say of it.
        """
        from lockstep_client import LockstepError

        while time.monotonic() - self.begun < START_S:
            try:
                if (await client.health(model, timeout_s=1.0)).serving:
                    return time.monotonic() - self.begun
                await self._still_loading(client, model)
            except LockstepError:
                pass  # it does not listen yet
            if self.process.poll() is not None:
                raise DemoError(f"the server ended with exit code {self.process.returncode}{self.told()}")
            await asyncio.sleep(0.05)
        raise DemoError(f"{model} is not ready after {START_S:.0f} s{self.told()}")

    async def _still_loading(self, client: AsyncClient, model: str) -> None:
        states = [state for state in await client.models() if state.name == model]
        if states and all(state.state == "UNAVAILABLE" for state in states):
            raise DemoError(f"{model} is not served: {states[0].reason}{self.told()}")

    def told(self) -> str:
        """The end of the server's log, to go behind a message."""
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "".join(f"\n  server: {line}" for line in lines)

    def stop(self) -> None:
        """Ask it to drain and go; make it go where it does not. Blocks, so that no signal comes between."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def server(options: argparse.Namespace, names: Sequence[str]) -> Iterator[Running]:
    """A server on these models while the block runs, in a process group of its own.

    A Ctrl-C at the terminal so reaches this process only, which then stops the server in order.
    """
    arguments = {
        "--models": options.models, "--only": ",".join(names), "--device": options.device,
        "--host": "127.0.0.1", "--port": options.port, "--metrics-port": options.metrics_port,
        "--drain-s": 2,
    }  # fmt: skip
    command = [sys.executable, "-m", "lockstep_server", *(str(x) for pair in arguments.items() for x in pair)]
    with tempfile.TemporaryDirectory(prefix="lockstep-demo-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        running = Running(process, log)
        try:
            yield running
        finally:
            running.stop()


def classifiers(folder: Path) -> list[str]:
    """The models there that label texts, simplest first: by the size of their files.

    Raises:
        DemoError: there is none.
    """
    manifests = [file for file in folder.glob("*/model.toml") if _labels_texts(file)]
    if not manifests:
        raise DemoError(f"{folder}/ holds no model that labels texts: give --models the folder that does")
    return [file.parent.name for file in sorted(manifests, key=_size_on_disk)]


def _labels_texts(manifest: Path) -> bool:
    content = tomllib.loads(manifest.read_text(encoding="utf-8"))
    return content.get("task") == "classify" and "text" in content


def _size_on_disk(manifest: Path) -> int:
    return sum(file.stat().st_size for file in manifest.parent.rglob("*.onnx"))


def checked_port(port: int, what: str) -> int:
    """The port, free at this moment; 0 takes any.

    Raises:
        DemoError: something listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoError(
                f"port {port} ({what}) cannot be had: {error.strerror}. Stop what listens there, or take"
                " other ports: make demo PORT=9001 METRICS_PORT=9002"
            ) from None
        taken: int = probe.getsockname()[1]
    return taken


# --- printing -----------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others to the right; boxes on a terminal only."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            _say("  ".join((row[0].ljust(widths[0]), *cells)))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    broken = console.width < 115  # names break at their hyphens

    def cell(text: str) -> str:
        return text.replace("-", "- ").replace("/", "/ ") if broken else text

    def longest_word(index: int) -> int:
        return max(len(word) for row in (header, *rows) for word in cell(row[index]).split())

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(cell(header[0]), min_width=longest_word(0))
    for index, name in enumerate(header[1:], 1):
        table.add_column(cell(name), justify="right", width=longest_word(index) if broken else None)
    for row in rows:
        table.add_row(*(Text(cell(text)) for text in row))
    console.print(table)


def _say(text: str) -> None:
    print(text, flush=True)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


# --- the command --------------------------------------------------------------------------------------


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("lockstep_client.demo", description="Show the main job, end to end.")
    parser.add_argument("--port", type=int, default=8001, help="gRPC; 0 takes a free one (%(default)s)")
    parser.add_argument("--metrics-port", type=int, default=8002, help="/metrics; 0: free (%(default)s)")
    parser.add_argument("--models", default="models", help="folder of the models (%(default)s)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    return parser.parse_args(arguments)


async def _until_signalled(options: argparse.Namespace) -> int:
    """The show, or its end by a signal. Signals arrive between two steps only, never inside of one, so
    there is no moment at which the server runs and nobody would stop it."""
    loop = asyncio.get_running_loop()
    showing = asyncio.ensure_future(show(options))
    caught: list[int] = []

    def interrupt(number: int) -> None:
        caught.append(number)
        if len(caught) == 1:
            showing.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt, number)
    try:
        await showing
    except asyncio.CancelledError:
        print("\ndemo: interrupted, the server is stopped", file=sys.stderr)
        return 128 + caught[0]
    return 0


def run(arguments: Sequence[str]) -> int:
    """The demo with these arguments; its exit code."""
    from lockstep_client.errors import LockstepError

    options = _options(arguments)
    try:
        options.port = checked_port(options.port, "gRPC")
        options.metrics_port = checked_port(options.metrics_port, "metrics")
        return asyncio.run(_until_signalled(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, LockstepError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before there was a server
        print("\ndemo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

"""What a device does with the shipped models: answers first, then speed. For a machine with a GPU, at most 10
minutes; with `--device cpu --quick` it runs anywhere.

`python -m bench.device [--device cuda] [--quick]` prints one line for each figure and writes
results/device-<name of the device>.json:

    answers     outputs and greedy texts against those of the CPU provider with states on the host
    bare loop   steps of shakespeare-char-lstm around the session, states bound from output to input
    one-shot    sentiment-transformer, texts of 64 words by rows of a run
    steps       the step-wise engine at 1 to 512 streams, states on the host and on the device
    forms       sentiment-lstm, a text of N words in one run, and word by word
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_server import messages
from lockstep_server.engine.runtime.device import RUNTIME_VERSION, Device, choose_device
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.engine.stepwise.device_states import make_states

from .engine_side import open_engine
from .graphs import SHIPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITER, CLASSIFIER, READER = "shakespeare-char-lstm", "sentiment-transformer", "sentiment-lstm"
WRITERS = (WRITER, "shakespeare-gpt")
APART = 1e-2
"""The most that logits of a GPU may differ from those of the CPU, relative to max(1, |logit|)."""

Figure = dict[str, Any]


class Measurement:
    """The figures of one device. `quick`: fewer sizes, and a tenth of the time for each."""

    def __init__(self, device: Device, models: Path, *, quick: bool) -> None:
        self.device, self.models, self.quick = device, models, quick
        self.seconds = 0.1 if quick else 1.0
        self._draw = np.random.default_rng(1)

    def figures(self) -> Iterator[Figure]:
        for part in (self.answers, self.bare_loop, self.one_shot, self.steps, self.forms):
            yield from part()

    # --- answers ------------------------------------------------------------------------------------

    def answers(self) -> Iterator[Figure]:
        """
        Raises:
            SystemExit: logits differ by more than APART.
        """
        feeds = self._texts(8, 24)
        expected, found = (
            self._session(CLASSIFIER, "model.onnx", device).run(feeds) for device in (Device(), self.device)
        )
        apart = max(
            float((np.abs(one - other) / np.maximum(1, np.abs(one))).max())
            for one, other in zip(expected, found, strict=True)
        )
        yield {"part": "answers", "model": CLASSIFIER, "apart": apart}
        if apart > APART:
            sys.exit(f"{CLASSIFIER}: outputs differ by {apart:.2g} from those of the CPU")
        for model in WRITERS:
            host, other = (self._greedy(model, device) for device in (Device(), self.device))
            pairs = zip((t for one in host for t in one), (t for one in other for t in one), strict=True)
            equal = np.mean([one == two for one, two in pairs])
            yield {"part": "answers", "model": model, "equal_tokens": float(equal)}

    def _greedy(self, model: str, device: Device) -> list[list[int]]:
        """The tokens of 16 streams that join one after another."""
        engine = Streams(self.models, model, device)
        for stream in range(16):
            engine.start(prompt=tuple(range(3, 4 + stream)), max_tokens=40, temperature=0.0)
            engine.step()
        while engine.open:
            engine.step()
        return [engine.tokens[key] for key in sorted(engine.tokens)]

    # --- speed --------------------------------------------------------------------------------------

    def bare_loop(self) -> Iterator[Figure]:
        opened = Streams(self.models, WRITER, self.device)
        session, spec = opened.engine._session, opened.engine.spec
        for rows in self._sizes(1, 8, 64, 512):
            states: Any = make_states(spec, rows, {}, session.state_graphs)
            token = np.ones(rows, np.int64)

            def step(states: Any = states, token: Any = token) -> None:
                found = states.run(session, {"token": token})
                given = {one.spec.name: found[one.spec.output] for one in spec.states}
                states.advance(given, {})

            yield {"part": "bare loop", "rows": rows, "tokens_per_s": rows / self._time(step)}

    def one_shot(self) -> Iterator[Figure]:
        session = self._session(CLASSIFIER, "model.onnx", self.device)
        for rows in self._sizes(1, 8, 64, 256):
            feeds = self._texts(rows, 64)
            seconds = self._time(partial(session.run, feeds))
            yield {"part": "one-shot", "rows": rows, "texts_per_s": rows / seconds}

    def steps(self) -> Iterator[Figure]:
        for place in ("host", "device"):
            device = Device(self.device.name, self.device.index, states=place)
            for streams in self._sizes(1, 8, 64, 256, 512):
                engine = Streams(self.models, WRITER, device)
                for stream in range(streams):
                    engine.start(prompt=(5, 6, 7), max_tokens=10**9, temperature=0.8, seed=stream)
                seconds = self._time(engine.step)
                yield {
                    "part": "steps",
                    "states": place,
                    "streams": streams,
                    "tokens_per_s": streams / seconds,
                }

    def forms(self) -> Iterator[Figure]:
        whole = self._session(READER, "model.onnx", self.device)
        step = open_engine(str(self.models), READER, lambda _: None, self.device)
        session, spec = step.engine._session, step.spec
        for words in self._sizes(10, 100, 1000, 2000):
            ids = self._draw.integers(2, 8000, (1, words))
            feeds = {"tokens": ids, "lengths": np.array([words])}

            def read(ids: Any = ids) -> None:
                states: Any = make_states(spec, 1, {}, session.state_graphs)
                for word in ids[0]:
                    found = states.run(session, {"token": np.array([word])})
                    states.advance({one.spec.name: found[one.spec.output] for one in spec.states}, {})

            one_run = self._time(partial(whole.run, feeds))
            yield {
                "part": "forms",
                "words": words,
                "one_run_ms": one_run * 1e3,
                "steps_ms": self._time(read) * 1e3,
            }

    # --- tools --------------------------------------------------------------------------------------

    def _sizes(self, *sizes: int) -> tuple[int, ...]:
        return sizes[:2] if self.quick else sizes

    def _time(self, work: Callable[[], object]) -> float:
        """Seconds of one call, the median of three rounds, after calls that warm up."""
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() - begun < self.seconds / 3 or calls < 3:
            work()
            calls += 1
        rounds = []
        for _ in range(3):
            begun = time.perf_counter()
            for _ in range(calls):
                work()
            rounds.append((time.perf_counter() - begun) / calls)
        return statistics.median(rounds)

    def _session(self, model: str, file: str, device: Device) -> OnnxSession:
        return OnnxSession(self.models / model / "1" / file, device)

    def _texts(self, rows: int, words: int) -> dict[str, Any]:
        ids = self._draw.integers(2, 8000, (rows, words))
        return {"tokens": ids, "mask": np.ones((rows, words), np.bool_)}


class Streams:
    """The step-wise engine of a model, without its thread, and the tokens of its streams."""

    def __init__(self, models: Path, model: str, device: Device) -> None:
        self._updates: list[messages.Events] = []
        self.engine = open_engine(str(models), model, self._updates.append, device).engine
        self.engine.set_flush_interval(0.02)
        self.tokens: dict[int, list[int]] = {}
        self.open: set[int] = set()

    def start(self, **params: Any) -> None:
        key = len(self.tokens) + 1
        self.tokens[key] = []
        self.open.add(key)
        name = self.engine.spec.name
        request = messages.Generate(key=key, model=name, version=1, accepted=time.monotonic(), **params)
        self.engine.submit(request)

    def step(self) -> None:
        self.engine._step()
        for events in self._updates:
            for chunk in events.chunks:
                self.tokens[chunk.key] += chunk.ids
                self.engine.credit(chunk.key, 1)
            self.open.difference_update(event.key for event in events.events)
        self._updates.clear()


def device_name(device: Device) -> str:
    """The device's name, as its maker writes it."""
    if device.name == "cuda":
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(device.index))
        return name.decode() if isinstance(name, bytes) else str(name)
    found = re.search("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.processor()


def _with_room(models: Path) -> Path:
    """The shipped models, copied, with slots and rows for 512 streams."""
    for name in (CLASSIFIER, READER, *WRITERS):
        shutil.copytree(SHIPPED / name, models / name)
        file = models / name / "model.toml"
        text = file.read_text(encoding="utf-8").replace("[stepwise]\n", "[stepwise]\nmax_sequences = 1024\n")
        rows = "[batching]\nmax_rows = 512\n"
        text = re.sub(r"\[batching\]\n(max_rows = \d+\n)?", rows, text) if "[batching]" in text else text
        file.write_text(text if "[batching]" in text else f"{text}\n{rows}", encoding="utf-8")
    return models


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.device", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="fewer sizes and less time")
    arguments = parser.parse_args()
    device = choose_device(arguments.device, states="device")
    name, figures = device_name(device), []
    with tempfile.TemporaryDirectory() as folder:
        for figure in Measurement(device, _with_room(Path(folder)), quick=arguments.quick).figures():
            print(json.dumps(figure), flush=True)
            figures.append(figure)
    results = Path(__file__).with_name("results")
    results.mkdir(exist_ok=True)
    file = results / f"device-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    found = {"device": name, "runtime": RUNTIME_VERSION, "quick": arguments.quick, "figures": figures}
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(file)


if __name__ == "__main__":
    main()

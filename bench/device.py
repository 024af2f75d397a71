"""What a device does with the shipped models: answers first, then speed. For a machine with a GPU, at most 10
minutes; with `--device cpu --quick` it runs anywhere.

`python -m bench.device [--device cuda] [--quick] [--minutes 10]` prints one line for each figure and writes
results/device-<name of the device>.json anew after each. A part that fails is a figure with its error, and
the next one goes on, unless outputs are wrong.

    answers     outputs and greedy texts against those of the CPU provider with states on the host; tokens
                sampled on the device, and with CUDA graphs, against those sampled on the host: equal
    bare loop   steps of shakespeare-char-lstm around the session, states bound from output to input
    one-shot    sentiment-transformer, texts of 64 words by rows of a run
    steps       the step-wise engine at 1 to 512 streams, in each way of `WAYS`
    sampling    64 rows of scores on the device: by a graph there, and copied to the host and sampled there
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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_server import messages
from lockstep_server.engine.runtime.device import RUNTIME_VERSION, Device, DeviceArray, choose_device
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.engine.stepwise.device_sampler import DeviceSampler
from lockstep_server.engine.stepwise.device_states import make_states
from lockstep_server.engine.stepwise.sampler import SamplingParameters, sample
from lockstep_server.model.manifest import Manifest, RolesSection, TensorSection
from lockstep_server.model.spec import ModelSpec, ModelTensor

from .engine_side import SessionTimer, open_engine
from .graphs import SHIPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

WRITER, CLASSIFIER, READER = "shakespeare-char-lstm", "sentiment-transformer", "sentiment-lstm"
WRITERS = (WRITER, "shakespeare-gpt")
APART = 1e-2
"""The most that logits of a GPU may differ from those of the CPU, relative to max(1, |logit|)."""

Figure = dict[str, Any]

WAYS: dict[str, dict[str, Any]] = {
    "states on the host": {"states": "host"},
    "states on the device": {"states": "device", "sampling": False, "graphs": False},
    "and sampling": {"states": "device", "graphs": False},
    "and CUDA graphs": {"states": "device"},
}
"""Where steps keep states and sample; each way adds to the one before. The last one is for GPUs."""


class WrongAnswers(Exception):
    """The figures of speed would be those of something else."""


class Measurement:
    """The figures of one device. `quick`: fewer sizes, and a tenth of the time for each."""

    def __init__(self, device: Device, models: Path, *, quick: bool, minutes: float = 10) -> None:
        self.device, self.models, self.quick = device, models, quick
        self.seconds = 0.1 if quick else 1.0
        self._end = time.monotonic() + minutes * 60
        self._draw = np.random.default_rng(1)

    def figures(self) -> Iterator[Figure]:
        """The figures of all parts, in order.

        Raises:
            WrongAnswers: the device computes something else.
        """
        for part in (self.answers, self.bare_loop, self.one_shot, self.steps, self.sampling, self.forms):
            name = part.__name__.replace("_", " ")
            try:
                for figure in part():
                    yield {"part": name, **figure}
                    if time.monotonic() > self._end:
                        yield {"part": name, "error": "the minutes are over; what follows is missing"}
                        return
            except WrongAnswers:
                raise
            except Exception as error:  # the others may work
                yield {"part": name, "error": f"{type(error).__name__}: {error}"}

    def _ways(self) -> dict[str, Device]:
        """The ways of `WAYS` on this device."""
        ways = list(WAYS.items())[: None if self.device.name == "cuda" else -1]
        return {name: replace(self.device, **settings) for name, settings in ways}

    # --- answers ------------------------------------------------------------------------------------

    def answers(self) -> Iterator[Figure]:
        """
        Raises:
            WrongAnswers: logits differ by more than APART.
        """
        feeds = self._texts(8, 24)
        expected, found = (
            self._session(CLASSIFIER, "model.onnx", device).run(feeds) for device in (Device(), self.device)
        )
        apart = max(
            float((np.abs(one - other) / np.maximum(1, np.abs(one))).max())
            for one, other in zip(expected, found, strict=True)
        )
        yield {"model": CLASSIFIER, "apart": apart}
        if apart > APART:
            raise WrongAnswers(f"{CLASSIFIER}: outputs differ by {apart:.2g} from those of the CPU")
        for model in WRITERS:
            on_cpu = self._texts_of(model, Device(), temperature=0.0)
            texts = {name: self._texts_of(model, device) for name, device in self._ways().items()}
            greedy = self._texts_of(model, self.device, temperature=0.0)
            yield {"model": model, "greedy_tokens_of_cpu": _equal(on_cpu, greedy)}
            first, *others = texts
            for name in others:
                yield {"model": model, "way": name, "equal_tokens": _equal(texts[first], texts[name])}

    def _texts_of(self, model: str, device: Device, temperature: float = 0.8) -> list[int]:
        """The tokens of 16 streams that join one after another."""
        engine = Streams(self.models, model, device)
        for stream in range(16):
            engine.start(
                prompt=tuple(range(3, 4 + stream)), max_tokens=40, temperature=temperature, seed=stream,
                top_k=(0, 10)[stream % 2], top_p=(1.0, 1.0, 0.9)[stream % 3],
            )  # fmt: skip
            engine.step()
        while engine.open:
            engine.step()
        return [token for key in sorted(engine.tokens) for token in engine.tokens[key]]

    # --- speed --------------------------------------------------------------------------------------

    def bare_loop(self) -> Iterator[Figure]:
        for graphs in (False, True) if self.device.name == "cuda" else (False,):
            opened = Streams(self.models, WRITER, replace(self.device, graphs=graphs))
            session, spec = opened.engine._session, opened.engine.spec
            for rows in self._sizes(1, 8, 64, 512):
                states = make_states(spec, rows, {}, session.state_graphs)
                step = partial(_bare_step, spec, session, states, {"token": np.ones(rows, np.int64)})
                yield {"graphs": graphs, "rows": rows, "tokens_per_s": rows / self._time(step)}

    def one_shot(self) -> Iterator[Figure]:
        session = self._session(CLASSIFIER, "model.onnx", self.device)
        for rows in self._sizes(1, 8, 64, 256):
            feeds = self._texts(rows, 64)
            seconds = self._time(partial(session.run, feeds))
            yield {"rows": rows, "texts_per_s": rows / seconds}

    def steps(self) -> Iterator[Figure]:
        for name, device in self._ways().items():
            engine = Streams(self.models, WRITER, device)
            session = SessionTimer(engine.engine._session)
            for streams in self._sizes(1, 8, 64, 256, 512):
                for stream in range(len(engine.open), streams):
                    engine.start(prompt=(5, 6, 7), max_tokens=10**9, temperature=0.8, seed=stream)
                while sum(len(batch) for batch in engine.engine._batches) < streams:
                    engine.step()
                seconds = self._time(engine.step, lambda: session.runs)  # noqa: B023
                yield {"way": name, "streams": streams, "tokens_per_s": streams / seconds}

    def sampling(self) -> Iterator[Figure]:
        """Microseconds for 64 rows, temperature 0.8, with and without top-k and top-p."""
        for tokens in self._sizes(66, 5000, 50000):
            tensor = ModelTensor("scores", "FP32", ("n", tokens), optional=False, spec=TensorSection(0))
            manifest = Manifest(roles=RolesSection(scores="scores"))
            spec = ModelSpec("scores", 1, manifest, (), (tensor,))
            by_graph = DeviceSampler(spec, self.device)
            scores = (self._draw.standard_normal((64, tokens)) * 4).astype(np.float32)
            value, u = DeviceArray.of(scores, self.device), self._draw.random(64)
            for top_k, top_p in ((0, 1.0), (50, 0.9)):
                parameters = SamplingParameters.of(64)
                for row in range(64):
                    parameters.set(row, 0.8, top_k, top_p)
                on_device = self._time(partial(by_graph.sample_all, value, u, parameters))
                on_host = self._time(lambda: sample(value.numpy(), u, parameters))  # noqa: B023
                figure = {"tokens": tokens, "top_k": top_k, "top_p": top_p}
                yield figure | {"on_device_us": on_device * 1e6, "on_host_us": on_host * 1e6}

    def forms(self) -> Iterator[Figure]:
        whole = self._session(READER, "model.onnx", self.device)
        step = open_engine(str(self.models), READER, lambda _: None, self.device)
        session, spec = step.engine._session, step.spec
        for words in self._sizes(10, 100, 1000, 2000):
            ids = self._draw.integers(2, 8000, (1, words))
            feeds = {"tokens": ids, "lengths": np.array([words])}

            def read(ids: Any = ids) -> None:
                states = make_states(spec, 1, {}, session.state_graphs)
                for word in ids[0]:
                    _bare_step(spec, session, states, {"token": np.array([word])})

            one_run = self._time(partial(whole.run, feeds))
            yield {"words": words, "one_run_ms": one_run * 1e3, "steps_ms": self._time(read) * 1e3}

    # --- tools --------------------------------------------------------------------------------------

    def _sizes(self, *sizes: int) -> tuple[int, ...]:
        return sizes[:2] if self.quick else sizes

    def _time(self, work: Callable[[], object], done: Callable[[], int] | None = None) -> float:
        """Seconds of one call, the median of three rounds, after calls that warm up; or of one of those that
        `done` counts, if a call may do several."""
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() - begun < self.seconds / 3 or calls < 3:
            work()
            calls += 1
        rounds = []
        for _ in range(3):
            before, begun = done() if done else 0, time.perf_counter()
            for _ in range(calls):
                work()
            took = time.perf_counter() - begun
            rounds.append(took / (done() - before if done else calls))
        return statistics.median(rounds)

    def _session(self, model: str, file: str, device: Device) -> OnnxSession:
        return OnnxSession(self.models / model / "1" / file, device)

    def _texts(self, rows: int, words: int) -> dict[str, Any]:
        ids = self._draw.integers(2, 8000, (rows, words))
        return {"tokens": ids, "mask": np.ones((rows, words), np.bool_)}


def _bare_step(spec: ModelSpec, session: Any, states: Any, feeds: Mapping[str, Any]) -> None:
    found = states.run(session, dict(feeds), spec.manifest.roles.scores)
    states.advance({one.spec.name: found[one.spec.output] for one in spec.states}, {})


def _equal(one: list[int], other: list[int]) -> float:
    """The share of tokens that are equal."""
    return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))


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
    parser.add_argument("--minutes", type=float, default=10, help="the most time that it takes")
    arguments = parser.parse_args()
    device = choose_device(arguments.device, states="device")
    name, figures = device_name(device), list[Figure]()
    results = Path(__file__).with_name("results")
    results.mkdir(exist_ok=True)
    file = results / f"device-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    found = {"device": name, "runtime": RUNTIME_VERSION, "quick": arguments.quick, "figures": figures}
    with tempfile.TemporaryDirectory() as folder:
        measurement = Measurement(
            device, _with_room(Path(folder)), quick=arguments.quick, minutes=arguments.minutes
        )
        try:
            for figure in measurement.figures():
                print(json.dumps(figure), flush=True)
                figures.append(figure)
                file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except WrongAnswers as wrong:
            sys.exit(str(wrong))
    print(file)
    if any(figure.get("equal_tokens", 1) < 1 for figure in figures):
        sys.exit("tokens depend on where states are, on sampling or on CUDA graphs: see the answers")
    if errors := [figure for figure in figures if "error" in figure]:
        sys.exit(f"{len(errors)} of the parts failed: {', '.join(one['part'] for one in errors)}")


if __name__ == "__main__":
    main()

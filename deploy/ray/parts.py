"""The parts of the demo. Each checks what it shows and returns figures; a check that fails raises."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from ray.serve.schema import ServeDeploySchema

from lockstep_client import AsyncClient, Client, DeadlineExceeded, LockstepError, ModelNotFound, Unavailable
from lockstep_ray.application import SERVICES, Arguments, build

from .load import keep_calling

if TYPE_CHECKING:
    from .cluster import LocalCluster

CLASSIFIER, WRITER = "sentiment-lstm", "shakespeare-char-lstm"
_TEXTS = [
    "a fine film",
    "a dull one",
    "not bad at all",
    "it is fun",
    "nobody laughed",
    "a waste of two hours",
]
CONFIGURATION = Path(__file__).with_name("serve.yaml")
_SEEDS = 4
_LONG, _ENDLESS = 2000, 60_000
_WITHIN_S = 60.0
_SENDERS = 8
_SEQUENCES, _STEPS = 12, 4


class CheckError(AssertionError):
    """The cluster did not do what the part shows."""


def check(condition: bool, problem: str) -> None:
    if not condition:
        raise CheckError(problem)


def configuration() -> dict[str, Any]:
    """serve.yaml is what `serve deploy` takes, and its arguments are those of the application."""
    found = ServeDeploySchema.model_validate(yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8")))
    [application] = found.applications
    check(
        application.import_path == f"{build.__module__}:{build.__name__}", "serve.yaml builds something else"
    )
    check(found.grpc_options.grpc_servicer_functions == [SERVICES], "serve.yaml has other services")
    return Arguments(**application.args).model_dump(exclude_unset=True)


def answers(cluster: LocalCluster, lone: str) -> dict[str, Any]:
    """Every kind of call answers through Ray what a lone server answers."""
    shown = {}
    for name, ask in _QUESTIONS.items():
        expected, found = ask(lone), ask(cluster.address)
        check(found == expected, f"{name}: {found} through Ray, {expected} from a lone server")
        shown[name] = "equal"
    inputs = {"tokens": np.array([[12, 7, 431, 5]], np.int64)}
    with Client(lone) as client:
        expected = client.infer(CLASSIFIER, inputs)["logits"]
    found = cluster.infer(CLASSIFIER, inputs)["logits"]
    check(bool((found == expected).all()), f"{found} by a handle, {expected} from a lone server")
    try:
        cluster.infer("nothing", inputs)
    except ModelNotFound:
        shown["infer by a handle, and its errors"] = "equal"
    return shown


def short(cluster: LocalCluster, lone: str) -> dict[str, Any]:
    """Calls of both services answer what a lone server answers, and a sequence keeps its state from step to
    step."""
    shown = {}
    for name in ("Classify", "Generate with seeds", "Follow"):
        expected, found = _QUESTIONS[name](lone), _QUESTIONS[name](cluster.address)
        check(found == expected, f"{name}: {found} through Ray, {expected} from a lone server")
        shown[name] = "equal"
    expected, found = _stepped(lone), _stepped(cluster.address)
    check(found == expected, f"steps of sequences: {found} through Ray, {expected} from a lone server")
    check(len({tuple(steps) for steps in found}) == _SEQUENCES, "sequences of other steps have equal answers")
    shown["ModelInfer with sequence_id"] = "equal"
    replicas = _replicas_used(cluster)
    check(replicas == 2, f"{replicas} of 2 replicas had sequences")
    return shown


def _stepped(address: str) -> Any:
    """Scores after each step of some sequences that are stepped by turns, by two clients."""
    found: list[list[float]] = [[] for _ in range(_SEQUENCES)]
    with Client(address, retries=0) as one, Client(address, retries=0) as two:
        for step in range(_STEPS):
            for number in range(_SEQUENCES):
                answer = (one, two)[step % 2].infer(
                    f"{CLASSIFIER}.step",
                    {"token": np.array([5 + number + step], np.int64)},
                    sequence_id=f"sequence {number}",
                    sequence_start=step == 0,
                    sequence_end=step == _STEPS - 1,
                )
                found[number].append(float(answer["logits"].item()))
    return found


def _replicas_used(cluster: LocalCluster) -> int:
    """How many replicas have the sequences that are begun now."""
    hosts = set()
    with Client(cluster.address, retries=0) as client:
        for number in range(_SEQUENCES):
            client.infer(
                f"{CLASSIFIER}.step", {"token": np.array([5], np.int64)},
                sequence_id=f"sequence {number}", sequence_start=True,
            )  # fmt: skip
            steps = client.with_metadata(("lockstep-sequence-id", f"sequence {number}"))
            hosts.add(steps.describe(CLASSIFIER)[0].load_s)  # that of its replica
    return len(hosts)


def _classified(address: str) -> Any:
    with Client(address, retries=0) as client:
        return [_plain(one) for one in client.classify(CLASSIFIER, _TEXTS)]


def _classified_many(address: str) -> Any:
    with Client(address, retries=0) as client:
        return [_plain(one.answer) for one in client.classify_many(CLASSIFIER, _TEXTS * 5)]


def _generated(address: str) -> Any:
    with Client(address, retries=0) as client:
        return [_text(client, seed, 60) for seed in range(_SEEDS)]


def _followed(address: str) -> Any:
    with Client(address, retries=0) as client:
        return [_plain(one)["labels"] for one in client.follow(CLASSIFIER, ["it is fun", "not sad"])]


def _with_triton(address: str) -> Any:
    """Triton's client needs a process without Lockstep's stubs: both register the same messages."""
    command = [sys.executable, str(Path(__file__).with_name("triton_calls.py")), address, CLASSIFIER]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _refused(address: str) -> Any:
    """Errors with their google.rpc details, of calls with one reply and of streams."""
    found = []
    with Client(address, retries=0) as client:
        for call in (
            lambda: client.classify("nothing", ["a"]),
            lambda: client.classify(CLASSIFIER, ["a", ""]),
            lambda: list(client.generate("nothing", "a")),
            lambda: list(client.generate(WRITER, "a", temperature=-1.0)),
            lambda: list(client.follow(WRITER, ["a"])),
            lambda: client.classify(CLASSIFIER, ["a"], timeout_s=1e-6),
        ):
            try:
                call()
            except DeadlineExceeded as error:  # of the client or the server, whichever is first
                found.append((type(error).__name__, ""))
            except (LockstepError, ValueError) as error:
                found.append((type(error).__name__, str(error)))
    return found


_QUESTIONS = {
    "Classify": _classified,
    "ClassifyMany": _classified_many,
    "Generate with seeds": _generated,
    "Follow": _followed,
    "tritonclient: infer, with sequence_id, stream_infer": _with_triton,
    "errors": _refused,
}


def _plain(result: Any) -> dict[str, Any]:
    """A result without the times and ids that differ from call to call."""
    return {key: value for key, value in dataclasses.asdict(result).items() if key != "timings"}


def _text(client: Client, seed: int, tokens: int) -> str:
    return "".join(one.text for one in client.generate(WRITER, "ROMEO:", seed=seed, max_tokens=tokens))


async def _classify(client: AsyncClient, number: int) -> bool:
    text = _TEXTS[number % len(_TEXTS)]
    [answer] = await client.classify(CLASSIFIER, text, timeout_s=60)
    return bool(answer.labels)


def killed(cluster: LocalCluster, lone: str) -> dict[str, Any]:
    """A node is killed under load. What it held ends as UNAVAILABLE, or is a text that goes on elsewhere; all
    else is answered, and rightly."""
    resumed = 0
    with Client(lone) as client:
        expected = [_text(client, seed, _LONG) for seed in range(_SEEDS)]

    async def generate(client: AsyncClient, number: int) -> bool:
        nonlocal resumed
        seed = number % _SEEDS
        stream = client.generate(WRITER, "ROMEO:", seed=seed, max_tokens=_LONG, timeout_s=120)
        text = "".join([one.text async for one in stream])
        resumed += stream.resumed
        return text == expected[seed]

    async def under_load() -> Any:
        stop = asyncio.Event()
        one_shot = asyncio.create_task(keep_calling(cluster.address, _SENDERS, _classify, stop))
        streams = asyncio.create_task(keep_calling(cluster.address, _SENDERS, generate, stop))
        await asyncio.sleep(2)
        victim, _ = cluster.replicas()
        await asyncio.to_thread(cluster.kill_node_of, victim)
        await asyncio.sleep(2)
        cluster.add_node()
        await asyncio.to_thread(cluster.wait_for_replicas, 2, without=victim["node_id"])
        await asyncio.sleep(1)
        stop.set()
        return await one_shot, await streams

    one_shot, streams = asyncio.run(under_load())
    figures: dict[str, Any] = {}
    for name, outcomes in (("one-shot", one_shot), ("streams", streams)):
        only = set(outcomes.failed) <= {Unavailable.__name__}
        check(only, f"{name}: a killed node gave {outcomes.failed}: {outcomes.messages}")
        check(not outcomes.wrong, f"{name}: {outcomes.wrong} wrong answers")
        check(outcomes.answered > 0, f"{name}: nothing was answered")
        figures[name] = {"answered": outcomes.answered, "unavailable": outcomes.failed.total()}
    figures["streams"]["resumed"] = resumed
    lost = streams.failed.total() + resumed
    check(lost > 0, "no stream was on the killed node: the part shows nothing")
    check(
        one_shot.failed.total() <= 2 * _SENDERS,
        f"{one_shot.failed.total()} one-shot calls were lost; {_SENDERS} were in flight",
    )
    figures["message"] = min(streams.messages, default="")
    return figures


def cancelled(cluster: LocalCluster) -> dict[str, Any]:
    """Streams that their callers leave give their slots back."""
    with Client(cluster.address, retries=0) as client:
        streams = [client.generate(WRITER, "ROMEO:", max_tokens=_ENDLESS) for _ in range(_SENDERS)]
        readers = [iter(stream) for stream in streams]  # a stream ends with its reader
        for reader in readers:
            next(reader)
        taken = cluster.load()
        for stream in streams:
            stream.close()
    end = time.monotonic() + _WITHIN_S
    while (left := cluster.load()) > 0:
        check(time.monotonic() < end, f"the load is {left} after all streams were cancelled")
        time.sleep(0.1)
    check(taken > 0, "the streams were no load: the part shows nothing")
    return {"load": f"{taken:.2f}, then 0"}


def scaled(cluster: LocalCluster) -> dict[str, Any]:
    """Load brings a second replica, its end takes it away, and no call fails."""

    async def under_load() -> Any:
        stop, rest = asyncio.Event(), asyncio.Event()
        little = asyncio.create_task(keep_calling(cluster.address, 1, _classify, rest))
        much = asyncio.create_task(keep_calling(cluster.address, 2 * _SENDERS, _classify, stop))
        await asyncio.to_thread(cluster.wait_for_replicas, 2)
        await asyncio.sleep(1)
        stop.set()
        loaded = await much
        await asyncio.to_thread(cluster.wait_for_replicas, 1)
        await asyncio.sleep(1)
        rest.set()
        return loaded, await little

    loaded, little = asyncio.run(under_load())
    for outcomes in (loaded, little):
        check(not outcomes.failed, f"{outcomes.failed} while replicas came and went: {outcomes.messages}")
    return {"answered": loaded.answered + little.answered, "failed": 0, "replicas": "1, 2, 1"}


def multiplexed(cluster: LocalCluster, lone: str, names: list[str]) -> dict[str, Any]:
    """A replica that has room for two models serves more of them, loaded when they are asked for."""
    with Client(lone) as alone, Client(cluster.address, retries=0) as client:
        for name in [*names, *names]:
            found = [_plain(one) for one in client.classify(name, _TEXTS, timeout_s=120)]
            expected = [_plain(one) for one in alone.classify(name, _TEXTS)]
            check(found == expected, f"{name}: {found}, not {expected}")
        ready = {one.name.removesuffix(".step") for one in client.models() if one.state == "READY"}
    check(len(ready) == 2, f"{ready} are loaded, not 2 models")
    return {"models served": len(names), "loaded at a time": len(ready)}

"""Callers share the server: a greedy one delays itself, and nobody reaches the sequences of another."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import fakes
import frames
import grpc
import numpy as np
import pytest
import steps
import tagger
from google.rpc import error_details_pb2
from integration.harness import REPOSITORY, Served, details, refused, serve, settings
from patience import PATIENCE_S, wait_until
from security import bearer, digest, write_auth

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.api.permissions import PERMISSIONS_OF
from lockstep_server.frontend import admission

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
MEAN, SLOTS = "sentiment-mean", 4


def _caller(name: str, limits: str = "") -> str:
    return f'[callers.{name}]\ntokens = ["{digest(name)}"]\n{limits}\n'


def _auth(names: list[str]) -> str:
    once = [_caller(f"once-{name}", "requests_per_second = 0.01") for name in names]
    others = [
        _caller("greedy"),
        _caller("meek"),
        _caller("small", "slots = 2"),
        _caller("light", "bytes = 1000"),
        _caller("brief", "tokens_per_second = 0.01"),
        _caller("gateway", "forwards = true\nrequests_per_second = 0.01"),
    ]
    return "\n".join(once + others)


# --- every RPC ----------------------------------------------------------------------------------------


def _text() -> Any:
    return pb.ClassifyRequest(model=MEAN, texts=["a fine film"])


def _vector() -> Any:
    return pb.EncodeRequest(model=MEAN, texts=["a fine film"])


def _words() -> Any:
    return pb.ClassifyTokensRequest(model="tagger", texts=["Ada lives in Paris"])


def _sound() -> Any:
    spelled = frames.spelled("-aa-")
    tensor = pb.NamedTensor(name="x", datatype="FP32", shape=spelled.shape, contents=spelled.tobytes())
    return pb.TranscribeRequest(model="spelling", frames=[pb.Frames(tensors=[tensor])])


def _tensor() -> Any:
    return fakes.floats("same", [[1, 2]])


def _followed(model: str) -> list[Any]:
    return [pb.FollowRequest(start=pb.FollowStart(model=model)), pb.FollowRequest(ids=pb.Ids(ids=[3]))]


def _endless(rpc: str, beams: int = 1) -> Any:
    if rpc == "Generate":
        how = pb.Decoding(beams=beams)
        return pb.GenerateRequest(model="lm", text="a", max_tokens=10_000_000, decoding=how)
    return pb.TranslateRequest(model="translator", text="abc", max_tokens=60_000)


def _sum_step(model: str, sequence: int | str, **more: bool) -> Any:
    request = fakes.request(model, {"x": ("FP32", np.full((1, 2), 1.0))})
    kind = "int64_param" if isinstance(sequence, int) else "string_param"
    setattr(request.parameters["sequence_id"], kind, sequence)
    for name, value in more.items():
        request.parameters[f"sequence_{name}"].bool_param = value
    return request


class Rpc(NamedTuple):
    """An RPC, the model that it is called for, and the messages of a call with one request."""

    path: str
    model: str
    messages: Callable[[], list[Any]]

    def __str__(self) -> str:
        return f"{self.path.rpartition('/')[2]}-{self.model}"


_OPEN, _OURS = "/inference.GRPCInferenceService/", "/lockstep.v1.Sequences/"
_numbers = itertools.count(1)
ONE_SHOT = [
    Rpc(_OPEN + "ModelInfer", "same", lambda: [_tensor()]),
    Rpc(_OPEN + "ModelStreamInfer", "same", lambda: [_tensor()]),
    Rpc(_OURS + "Classify", MEAN, lambda: [_text()]),
    Rpc(_OURS + "ClassifyMany", MEAN, lambda: [_text()]),
    Rpc(_OURS + "Encode", MEAN, lambda: [_vector()]),
    Rpc(_OURS + "EncodeMany", MEAN, lambda: [_vector()]),
    Rpc(_OURS + "ClassifyTokens", "tagger", lambda: [_words()]),
    Rpc(_OURS + "ClassifyTokensMany", "tagger", lambda: [_words()]),
    Rpc(_OURS + "Transcribe", "spelling", lambda: [_sound()]),
    Rpc(_OURS + "Follow", MEAN, lambda: _followed(MEAN)),
]
STEPWISE = [
    Rpc(_OURS + "Generate", "lm", lambda: [_endless("Generate")]),
    Rpc(_OURS + "Translate", "translator", lambda: [_endless("Translate")]),
    Rpc(_OURS + "Follow", "lm", lambda: _followed("lm")),
    Rpc(_OPEN + "ModelInfer", "sums", lambda: [_sum_step("sums", next(_numbers), start=True)]),
    Rpc(_OPEN + "ModelStreamInfer", "totals", lambda: [_sum_step("totals", next(_numbers), start=True)]),
]
RPCS = ONE_SHOT + STEPWISE
BRIEF = [
    Rpc(_OURS + "Generate", "lm", lambda: [pb.GenerateRequest(model="lm", text="a", max_tokens=3)]),
    Rpc(
        _OURS + "Translate",
        "translator",
        lambda: [pb.TranslateRequest(model="translator", text="abc", max_tokens=3)],
    ),
    Rpc(_OURS + "Follow", "lm", lambda: _followed("lm")),
    Rpc(_OPEN + "ModelInfer", "sums", lambda: [_sum_step("sums", next(_numbers), start=True, end=True)]),
    Rpc(
        _OPEN + "ModelStreamInfer",
        "totals",
        lambda: [_sum_step("totals", next(_numbers), start=True, end=True)],
    ),
]
"""Sequences that end."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Every request runs alone, so that the order is seen in which they are served."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(REPOSITORY / MEAN, root / MEAN)
    tagger.write(root)
    frames.spelling(root, "spelling")
    fakes.write_model(root, "same", fakes.identity())
    for folder in (steps.language(root), steps.translator(root)):
        _change(folder.parent, r"max_sequences = \d+", f"max_sequences = {SLOTS}")
    for name in ("sums", "totals", "kept"):
        steps.adder(root, name, slots=SLOTS)
    steps.adder(root, "counted", slots=8)
    steps.adder(root, "brief", idle_s=0.01)
    auth = write_auth(tmp_path_factory.mktemp("auth") / "auth.toml", _auth([str(rpc) for rpc in RPCS]))
    running = Served(settings(root, auth_file=auth, batching=False, max_inflight_mb=1))
    try:
        wait_until(running.app.registry.ready, "models ready")
        yield running
    finally:
        running.close()


def _change(folder: Path, old: str, new: str) -> None:
    manifest = folder / "model.toml"
    changed, times = re.subn(old, new, manifest.read_text())
    assert times == 1
    manifest.write_text(changed)


def _counted(server: Served, caller: str) -> tuple[int, int, int]:
    """The requests of a caller so far: accepted, refused for overload, refused for a quota."""
    accepted, refused = server.app.metrics.caller_requests, server.app.metrics.caller_refused
    counters = (
        accepted.labels(caller),
        refused.labels(caller, "overloaded"),
        refused.labels(caller, "quota"),
    )
    return tuple(int(counter.value) for counter in counters)  # type: ignore[return-value]


class Calls:
    """Calls of one caller over two connections, each with one request and a thread that reads it."""

    def __init__(self, server: Served, caller: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(server.address, options) for _ in range(2)]
        self._server, self.caller, self._begun = server, caller, _counted(server, caller)
        self._calls: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self.answered = 0

    def send(self, rpc: Rpc, count: int) -> None:
        """Send so many requests, and wait until each is accepted or refused."""
        for _ in range(count):
            channel = self._channels[len(self._calls) % 2]
            begin: Any = channel.stream_stream(rpc.path)
            messages = [message.SerializeToString() for message in rpc.messages()]
            call = begin(self._messages(rpc, messages), metadata=bearer(self.caller), timeout=PATIENCE_S)
            self._calls.append(call)
            self._threads.append(threading.Thread(target=self._read, args=(call,)))
            self._threads[-1].start()
        wait_until(lambda: sum(self.counted()) >= len(self._calls), f"{len(self._calls)} calls have arrived")

    def _messages(self, rpc: Rpc, messages: list[bytes]) -> Iterator[bytes]:
        yield from messages
        if rpc in STEPWISE and rpc.path.endswith("Follow"):  # its sequence ends with the stream
            self._closed.wait(PATIENCE_S)

    def _read(self, call: Any) -> None:
        first = True
        with suppress(grpc.RpcError):
            for _ in call:
                self.answered += first  # of the interpreter's: each thread adds once
                first = False

    def counted(self) -> tuple[int, int, int]:
        """Requests accepted, refused for overload, and refused for a quota."""
        now = _counted(self._server, self.caller)
        return tuple(a - b for a, b in zip(now, self._begun, strict=True))  # type: ignore[return-value]

    def close(self) -> None:
        """End all calls."""
        self._closed.set()
        for call in self._calls:
            call.cancel()
        self.wait()
        for channel in self._channels:
            channel.close()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.fixture
def calls(server: Served) -> Iterator[Callable[[str], Calls]]:
    made: list[Calls] = []

    def make(caller: str) -> Calls:
        made.append(Calls(server, caller))
        return made[-1]

    yield make
    for one in made:
        one.close()
    wait_until(lambda: len(server.app.requests) == 0, "no request in flight")


_WITHOUT_RUNS = (
    "SharedMemoryStatus", "SharedMemoryRegister", "SharedMemoryUnregister", "GetSequence", "PutSequence",
)  # fmt: skip


def test_every_rpc_is_flooded_below() -> None:
    opened = {path for path, permissions in PERMISSIONS_OF.items() if "infer" in permissions}
    opened = {path for path in opened if not path.endswith(_WITHOUT_RUNS)}
    assert {rpc.path for rpc in RPCS} == opened


class Turns:
    """Lets an engine make one run, or one step of all sequences, at a time, and records whose requests are
    answered."""

    def __init__(self, server: Served, engine: Any, patch: pytest.MonkeyPatch) -> None:
        self._server, self._arrivals = server, 0
        self._may_go = threading.Semaphore(0)
        self.answered: list[str] = []  # callers, in order
        begins = "_plan" if hasattr(engine, "_plan") else "_drain"
        begin = getattr(engine, begins)
        deliver, in_flight = server.app.requests.deliver, server.app.requests._in_flight

        def wait(*args: Any) -> Any:
            self._arrivals += 1
            self._may_go.acquire()
            return begin(*args)

        def watch(events: Any) -> None:
            ended = (one for one in events.events if one.error is None and one.key in in_flight)
            self.answered.extend(in_flight[one.key].caller.name for one in ended)
            deliver(events)

        patch.setattr(engine, begins, wait)
        patch.setattr(server.app.requests, "deliver", watch)

    def take(self) -> None:
        """Let the engine, which has work, take a turn. Returns when all that it sent is delivered."""
        before = self._arrivals
        self._may_go.release()
        wait_until(lambda: self._arrivals > before, "the engine begins its next turn")
        self._server.run(asyncio.sleep(0))

    def end(self) -> None:
        """Let the engine run freely."""
        self._may_go.release(1_000_000)


@pytest.fixture
def turns(
    server: Served, monkeypatch: pytest.MonkeyPatch, calls: Callable[[str], Calls]
) -> Iterator[Callable[[Any], Turns]]:
    made: list[Turns] = []

    def make(engine: Any) -> Turns:
        made.append(Turns(server, engine, monkeypatch))
        return made[-1]

    yield make
    for one in made:
        one.end()


def window(turns: Turns, rpc: Rpc, greedy: Calls, others: list[Calls], answers: int = 24) -> list[str]:
    """Whose requests are answered next, while one caller sends three for each of its own that is answered,
    and each other one that is answered sends its next."""
    begun = sent = len(turns.answered)
    for _ in range(20 * answers):
        if len(turns.answered) >= begun + answers:
            break
        turns.take()
        new, sent = turns.answered[sent:], len(turns.answered)
        greedy.send(rpc, 3 * new.count(greedy.caller))
        for other in others:
            other.send(rpc, new.count(other.caller))
    return turns.answered[begun : begun + answers]


@pytest.mark.parametrize("rpc", ONE_SHOT, ids=str)
def test_beside_a_flood_a_caller_gets_its_share_of_the_queue_and_of_the_runs(
    server: Served,
    calls: Callable[[str], Calls],
    rpc: Rpc,
    turns: Callable[[Any], Turns],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request costs 1 ms, and the queue takes 20 ms: alone, a caller has about 20 requests in it."""
    served = server.app.registry.resolve(rpc.model, "", "")
    control = served.admission
    monkeypatch.setattr(admission.AdmissionController, "price", lambda *_: 0.001)
    monkeypatch.setattr(admission.AdmissionController, "run_s", lambda *_: 0.001)
    monkeypatch.setattr(control, "_demands", {})
    monkeypatch.setattr(control, "max_queue_s", 0.0205)
    monkeypatch.setattr(control, "_drain", admission._Drain())
    monkeypatch.setattr(admission._Drain, "_learn", lambda *_: None)
    greedy, meek, engine = calls("greedy"), calls("meek"), turns(server.engine(served.spec.name))
    greedy.send(rpc, 30)
    assert greedy.counted() == (21, 9, 0)
    assert window(engine, rpc, greedy, [], answers=4) == ["greedy"] * 4  # alone, a caller has every run
    meek.send(rpc, 10)
    assert meek.counted() == (10, 0, 0)
    refused = greedy.counted()[1]
    goodput = window(engine, rpc, greedy, [meek])
    assert 0.4 <= goodput.count("meek") / len(goodput) <= 0.6
    assert meek.counted()[1:] == (0, 0)
    assert greedy.counted()[1] > refused + goodput.count("greedy")


@pytest.mark.parametrize("rpc", BRIEF, ids=str)
def test_beside_a_flood_of_sequences_a_caller_gets_its_share_of_the_steps(
    server: Served, calls: Callable[[str], Calls], rpc: Rpc, turns: Callable[[Any], Turns]
) -> None:
    greedy, meek = calls("greedy"), calls("meek")
    stepwise = server.engine(server.app.registry.stepwise_if_any(rpc.model, "", "").spec.name)
    engine = turns(stepwise)
    greedy.send(rpc, 5 * SLOTS)
    assert window(engine, rpc, greedy, [], answers=SLOTS) == ["greedy"] * SLOTS
    assert stepwise._scheduler.pool.used == stepwise._scheduler.pool.held("greedy")
    meek.send(rpc, SLOTS)
    goodput = window(engine, rpc, greedy, [meek])
    assert 0.4 <= goodput.count("meek") / len(goodput) <= 0.6
    assert meek.counted()[1:] == (0, 0)
    assert greedy.counted()[1] > 0


@pytest.mark.parametrize("rpc", STEPWISE, ids=str)
def test_beside_a_flood_of_endless_sequences_a_caller_gets_its_share_of_the_slots(
    server: Served, calls: Callable[[str], Calls], rpc: Rpc
) -> None:
    engine = server.engine(server.app.registry.stepwise_if_any(rpc.model, "", "").spec.name)
    pool = engine._scheduler.pool
    greedy, meek = calls("greedy"), calls("meek")
    greedy.send(rpc, 10 * SLOTS)
    wait_until(lambda: pool.held("greedy") == SLOTS, "one caller holds every slot")
    meek.send(rpc, SLOTS // 2)
    wait_until(lambda: meek.answered == SLOTS // 2, "the other caller is answered")
    assert meek.counted() == (SLOTS // 2, 0, 0)
    assert (pool.held("greedy"), pool.held("meek")) == (SLOTS // 2, SLOTS // 2)


# --- limits of a caller -------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_requests_per_second_are_counted_for_every_rpc(
    server: Served, calls: Callable[[str], Calls], rpc: Rpc
) -> None:
    """At one request in 100 s, the second is refused."""
    once = calls(f"once-{rpc}")
    once.send(rpc, 1)
    assert once.counted() == (1, 0, 0)
    once.send(rpc, 1)
    assert once.counted() == (1, 0, 1)


def _retry_s(error: grpc.RpcError) -> float:
    [retry] = [one.retry_delay for one in details(error) if isinstance(one, error_details_pb2.RetryInfo)]
    return float(retry.ToTimedelta().total_seconds())


def test_tokens_per_second_are_counted_as_they_are_generated(server: Served) -> None:
    request = pb.GenerateRequest(model="lm", text="ab", max_tokens=5, temperature=0)
    replies = list(server.sequences.Generate(request, metadata=bearer("brief"), timeout=PATIENCE_S))
    tokens = 2 + sum(len(reply.tokens) for reply in replies)
    with refused(EXHAUSTED, words="tokens_per_second") as caught:
        list(server.sequences.Generate(request, metadata=bearer("brief"), timeout=PATIENCE_S))
    assert (tokens - 1) / 0.01 < _retry_s(caught.value) <= tokens / 0.01
    value = server.app.metrics.registry.get_sample_value
    assert value("lockstep_caller_tokens_total", {"caller": "brief"}) == tokens


def test_callers_behind_a_proxy_have_quotas_of_their_own(server: Served) -> None:
    def infer(name: str) -> None:
        metadata = (*bearer("gateway"), ("x-forwarded-for", name))
        server.inference.ModelInfer(_tensor(), metadata=metadata, timeout=PATIENCE_S)

    infer("ann")
    with refused(EXHAUSTED, words="gateway/ann"):
        infer("ann")
    infer("ben")
    value = server.app.metrics.registry.get_sample_value
    assert value("lockstep_caller_requests_total", {"caller": "gateway"}) == 2
    page = server.app.metrics.registry.collect()
    labels = {v for family in page for sample in family.samples for v in sample.labels.values()}
    assert not {"ann", "gateway/ann"} & labels


def _large(kilobytes: int) -> Any:
    return fakes.floats("same", np.zeros((1, kilobytes * 256)))


def test_bytes_in_flight_are_bounded_for_a_caller_and_shared_among_all(server: Served) -> None:
    """The server holds 1 MiB; `light` may hold 1000 bytes."""
    pending = []

    def send(caller: str, request: Any) -> None:
        pending.append(
            server.inference.ModelInfer.future(request, metadata=bearer(caller), timeout=PATIENCE_S)
        )

    def arrived(caller: str, before: tuple[int, int, int], count: int) -> tuple[int, int, int]:
        wait_until(lambda: sum(_counted(server, caller)) == sum(before) + count, f"requests of {caller}")
        now = _counted(server, caller)
        return tuple(a - b for a, b in zip(now, before, strict=True))  # type: ignore[return-value]

    begun = {caller: _counted(server, caller) for caller in ("greedy", "meek", "light")}
    with server.hold():
        for _ in range(2):
            send("light", fakes.floats("same", np.zeros((1, 200))))  # 800 bytes
        assert arrived("light", begun["light"], 2) == (1, 0, 1)
        for _ in range(20):
            send("greedy", _large(60))
        accepted, overloaded, _ = arrived("greedy", begun["greedy"], 20)
        assert (accepted, overloaded) == (17, 3)  # 1020 KiB
        for _ in range(6):
            send("meek", _large(60))
        # Of three callers that hold bytes, a third of 1024 KiB each.
        assert arrived("meek", begun["meek"], 6) == (5, 1, 0)
        assert server.app.requests.usage.bytes < 2 << 20
    for call in pending:
        with suppress(grpc.RpcError):
            call.result()
    wait_until(lambda: server.app.requests.usage.bytes == 0, "all bytes are given back")


def test_without_an_auth_file_bytes_are_shared_among_addresses(tmp_path: Path) -> None:
    """A proxy that the server trusts names two addresses."""
    fakes.write_model(tmp_path, "same", fakes.identity())
    with serve(tmp_path, batching=False, max_inflight_mb=1, trusted_proxies="127.0.0.1") as server:

        def send(address: str, count: int) -> list[Any]:
            metadata = (("x-forwarded-for", address),)
            infer = server.inference.ModelInfer.future
            return [infer(_large(60), metadata=metadata, timeout=PATIENCE_S) for _ in range(count)]

        def counts() -> tuple[float, float]:
            return server.metric("lockstep_accepted_total"), server.metric("lockstep_refused_total")

        with server.hold():
            calls = send("198.51.100.1", 20)
            wait_until(lambda: counts() == (17, 3), "one address holds all bytes")
            calls += send("198.51.100.2", 9)
            wait_until(lambda: counts() == (25, 4), "another gets its half")
        for call in calls:
            with suppress(grpc.RpcError):
                call.result()


# --- sequences ----------------------------------------------------------------------------------------


def _step(server: Served, caller: str, model: str, sequence: int | str, **more: bool) -> float:
    """One step of a sequence of sums. Returns the sum."""
    request = _sum_step(model, sequence, **more)
    reply = server.inference.ModelInfer(request, metadata=bearer(caller), timeout=PATIENCE_S)
    return float(fakes.values(reply, "y").ravel()[0])


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with its engine in another process, which batches."""
    root = tmp_path_factory.mktemp("models")
    _change(steps.language(root).parent, r"max_sequences = \d+", f"max_sequences = {SLOTS}")
    steps.adder(root, "counted", slots=8)
    steps.adder(root, "brief", idle_s=0.01)
    auth = write_auth(tmp_path_factory.mktemp("auth") / "auth.toml", _auth([]))
    running = Served(settings(root, auth_file=auth, engine="process"))
    try:
        wait_until(running.app.registry.ready, "models ready")
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("sequence", [7, "seven"])
def test_nobody_reaches_the_sequence_of_another_caller(processes: Served, sequence: int | str) -> None:
    def step(caller: str, **more: bool) -> float:
        return _step(processes, caller, "counted", sequence, **more)

    assert step("greedy", start=True) == 1
    unknown = "unknown sequence"
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words=unknown):
        step("meek")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words=unknown):
        step("meek", end=True)
    assert step("meek", start=True) == 1  # an id of its own
    assert step("greedy") == 2
    assert step("meek", end=True) == 2
    assert step("greedy", end=True) == 3
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="has ended"):
        step("greedy")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words=unknown):
        step("small")


def test_an_evicted_sequence_is_its_caller_s_still(processes: Served) -> None:
    _step(processes, "greedy", "brief", 7, start=True)

    def evicted() -> bool:
        try:
            _step(processes, "greedy", "brief", 7)
        except grpc.RpcError as error:
            return "evicted" in str(error.details())
        return False

    wait_until(evicted, "the sequence is evicted")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="unknown sequence"):
        _step(processes, "meek", "brief", 7)


def test_a_caller_has_no_more_sequences_than_it_may(server: Served) -> None:
    for sequence in (1, 2):
        _step(server, "small", "counted", sequence, start=True)
    with refused(EXHAUSTED, words="slots"):
        _step(server, "small", "counted", 3, start=True)
    _step(server, "meek", "counted", 3, start=True)
    _step(server, "small", "counted", 1, end=True)
    _step(server, "small", "counted", 3, start=True)


def test_max_tokens_has_a_limit(server: Served) -> None:
    request = pb.GenerateRequest(model="lm", text="a", max_tokens=2**32 - 1)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "max_tokens", "10000000"):
        list(server.sequences.Generate(request, metadata=bearer("meek"), timeout=PATIENCE_S))


@pytest.mark.parametrize(
    "how", [pb.Decoding(), pb.Decoding(beams=3, repetition_penalty=1.1)], ids=["sampled", "beams"]
)
def test_a_suspended_stream_ends_with_its_own_text(processes: Served, how: pb.Decoding) -> None:
    """A caller holds every slot with long streams. They are suspended in turn."""

    def stream(caller: str, tokens: int, seed: int) -> Any:
        request = pb.GenerateRequest(model="lm", text="a", max_tokens=tokens, seed=seed)
        if tokens == long:
            request.decoding.CopyFrom(how)
            request.temperature = 0 if how.beams else 1
        return processes.sequences.Generate(request, metadata=bearer(caller), timeout=PATIENCE_S)

    def ids(call: Any, until: int = 1 << 30) -> list[int]:
        got: list[int] = []
        for reply in call:
            got += reply.tokens
            if len(got) >= until:
                break
        return got

    long = 600 if how.beams else 3000
    alone = ids(stream("greedy", long, seed=1))
    first_of_greedy = stream("greedy", long, seed=1)  # the first that is suspended
    others = SLOTS - max(how.beams, 1)
    endless = [stream("greedy", 10_000_000, seed=2 + number) for number in range(others)]
    for call in endless:
        ids(call, until=1)
    first, second = (ids(call) for call in [stream("meek", 400, seed=5) for _ in range(2)])
    assert len(first) == 400
    assert first == second
    assert ids(first_of_greedy) == alone
    for call in endless:
        call.cancel()
    wait_until(lambda: len(processes.app.requests) == 0, "no request in flight")


def test_beams_are_slots(processes: Served) -> None:
    """A greedy caller holds every slot with two searches. Another gets half of the slots."""
    served = processes.app.registry.resolve("lm", "", "")
    greedy, meek = Calls(processes, "greedy"), Calls(processes, "meek")
    greedy.send(Rpc(_OURS + "Generate", "lm", lambda: [_endless("Generate", beams=2)]), 3)
    wait_until(lambda: served.sequence_counts.running == SLOTS, "two searches hold every slot")
    meek.send(STEPWISE[0], SLOTS // 2)
    wait_until(lambda: meek.answered == SLOTS // 2, "the other caller is answered")
    assert meek.counted() == (SLOTS // 2, 0, 0)
    for calls in (greedy, meek):
        calls.close()
    wait_until(lambda: len(processes.app.requests) == 0, "no request in flight")


def test_beams_count_for_the_slots_that_a_caller_may_have(processes: Served) -> None:
    def stream(caller: str, beams: int) -> Any:
        request = _endless("Generate", beams)
        request.max_tokens = 3 if caller == "meek" else request.max_tokens
        return processes.sequences.Generate(request, metadata=bearer(caller), timeout=PATIENCE_S)

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "decoding.beams", "send 2 or fewer"):
        list(stream("small", beams=3))
    assert list(stream("meek", beams=3))
    first, served = stream("small", beams=2), processes.app.registry.resolve("lm", "", "")
    wait_until(lambda: served.sequence_counts.running == 2, "the search runs")
    with refused(EXHAUSTED, words="has 2 of at most 2 slots") as caught:
        list(stream("small", beams=1))
    assert _retry_s(caught.value) == 1
    first.cancel()
    wait_until(lambda: len(processes.app.requests) == 0, "no request in flight")


def test_samples_count_for_the_slots_that_a_caller_may_have(server: Served) -> None:
    request = pb.GenerateRequest(model="lm", text="ab", max_tokens=3, samples=3)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "samples", "at most 2"):
        list(server.sequences.Generate(request, metadata=bearer("small"), timeout=PATIENCE_S))
    assert list(server.sequences.Generate(request, metadata=bearer("meek"), timeout=PATIENCE_S))


def test_a_sequence_that_lost_its_slot_goes_on_where_it_was(server: Served) -> None:
    model = "kept"
    for sequence in range(1, SLOTS + 1):
        assert _step(server, "greedy", model, f"own {sequence}", start=True) == 1
    assert _step(server, "meek", model, "own", start=True) == 1
    for sequence in range(1, SLOTS + 1):  # one of them has no slot, until another's turn is over
        assert _step(server, "greedy", model, f"own {sequence}") == 2
    assert _step(server, "meek", model, "own", end=True) == 2
    for sequence in range(1, SLOTS + 1):
        assert _step(server, "greedy", model, f"own {sequence}", end=True) == 3

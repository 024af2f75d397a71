"""Callers share the server: a greedy one delays itself, and nobody reaches the sequences of another."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from integration.harness import REPOSITORY, Served, refused, settings
from patience import PATIENCE_S, wait_until
from security import bearer, digest, write_auth

from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_proto.v1 import sequences_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AUTH = "\n".join(f'[callers.{name}]\ntokens = ["{digest(name)}"]\n' for name in ("greedy", "meek"))
LIMITED = AUTH + f'[callers.small]\ntokens = ["{digest("small")}"]\nslots = 2\n'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    servers = []

    def start_server(models: Path, **more: Any) -> Served:
        auth = write_auth(tmp_path / "auth.toml", LIMITED)
        server = Served(settings(models, auth_file=auth, **more))
        servers.append(server)
        wait_until(server.app.registry.ready, "models ready")
        return server

    yield start_server
    for server in servers:
        server.close()


def test_a_flood_over_many_connections_refuses_nobody_else(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    """A stream of long texts keeps the queue full. The other caller has one text at a time."""
    shutil.copytree(REPOSITORY / "sentiment-lstm", tmp_path / "models" / "sentiment-lstm")
    manifest = tmp_path / "models" / "sentiment-lstm" / "model.toml"
    manifest.write_text(manifest.read_text().replace("[batching]", "[batching]\nmax_queue_ms = 20"))
    server = start(tmp_path / "models")
    ended = threading.Event()
    flood = pb.ClassifyRequest(model="sentiment-lstm", texts=["a fine film " * 40] * 64)
    outcomes: list[int] = []

    def requests() -> Iterator[Any]:
        while not ended.is_set():
            yield flood

    def send() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options) as channel:
            stub = sequences_pb2_grpc.SequencesStub(channel)
            for reply in stub.ClassifyMany(requests(), metadata=bearer("greedy"), timeout=PATIENCE_S):
                outcomes.extend(outcome.failure.code for outcome in reply.outcomes)

    senders = [threading.Thread(target=send) for _ in range(3)]
    for sender in senders:
        sender.start()
    try:
        refusals = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        wait_until(lambda: refusals in outcomes, "the greedy caller is refused")
        text = pb.ClassifyRequest(model="sentiment-lstm", texts=["a fine film"])
        for _ in range(20):  # raises if one is refused
            server.sequences.Classify(text, metadata=bearer("meek"), timeout=PATIENCE_S)
    finally:
        ended.set()
        for sender in senders:
            sender.join()


def _step(server: Served, caller: str, sequence: int | str, **more: bool) -> float:
    """One step of a sequence of sums. Returns the sum."""
    request = fakes.request("adder", {"x": ("FP32", np.full((1, 2), 1.0))})
    kind = "int64_param" if isinstance(sequence, int) else "string_param"
    setattr(request.parameters["sequence_id"], kind, sequence)
    for name, value in more.items():
        request.parameters[f"sequence_{name}"].bool_param = value
    reply = server.inference.ModelInfer(request, metadata=bearer(caller), timeout=PATIENCE_S)
    return float(fakes.values(reply, "y").ravel()[0])


@pytest.mark.parametrize("sequence", [7, "seven"])
def test_nobody_reaches_the_sequence_of_another_caller(
    start: Callable[..., Served], tmp_path: Path, sequence: int | str
) -> None:
    models = tmp_path / "models"
    steps.adder(models, slots=8)
    server = start(models, engine="process")
    assert _step(server, "greedy", sequence, start=True) == 1
    unknown = "unknown sequence"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, words=unknown):
        _step(server, "meek", sequence)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, words=unknown):
        _step(server, "meek", sequence, end=True)
    assert _step(server, "meek", sequence, start=True) == 1  # an id of its own
    assert _step(server, "greedy", sequence) == 2
    assert _step(server, "meek", sequence, end=True) == 2
    assert _step(server, "greedy", sequence, end=True) == 3
    with refused(grpc.StatusCode.FAILED_PRECONDITION, words="has ended"):
        _step(server, "greedy", sequence)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, words=unknown):
        _step(server, "small", sequence)


def test_a_caller_holds_no_more_slots_than_it_may(start: Callable[..., Served], tmp_path: Path) -> None:
    models = tmp_path / "models"
    steps.adder(models, slots=8)
    server = start(models)
    for sequence in (1, 2):
        _step(server, "small", sequence, start=True)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words="slots"):
        _step(server, "small", 3, start=True)
    _step(server, "meek", 3, start=True)
    _step(server, "small", 1, end=True)
    _step(server, "small", 3, start=True)


def test_max_tokens_has_a_limit(start: Callable[..., Served], tmp_path: Path) -> None:
    models = tmp_path / "models"
    steps.language(models)
    server = start(models)
    request = pb.GenerateRequest(model="lm", text="a", max_tokens=2**32 - 1)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "max_tokens", "10000000"):
        list(server.sequences.Generate(request, metadata=bearer("meek"), timeout=PATIENCE_S))


def test_slots_are_taken_back_for_another_caller_and_no_text_changes(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    """A caller holds every slot with long streams. They are suspended in turn, and end with their own texts."""
    models = tmp_path / "models"
    manifest = steps.language(models).parent / "model.toml"
    manifest.write_text(manifest.read_text().replace("max_sequences = 64", "max_sequences = 4"))
    server = start(models)

    def stream(caller: str, tokens: int, seed: int) -> Any:
        request = pb.GenerateRequest(model="lm", text="a", max_tokens=tokens, seed=seed)
        return server.sequences.Generate(request, metadata=bearer(caller), timeout=PATIENCE_S)

    def ids(call: Any, until: int = 1 << 30) -> list[int]:
        got: list[int] = []
        for reply in call:
            got += reply.tokens
            if len(got) >= until:
                break
        return got

    alone = ids(stream("greedy", 3000, seed=1))
    first_of_greedy = stream("greedy", 3000, seed=1)  # the first that is suspended
    endless = [stream("greedy", 10_000_000, seed=seed) for seed in (2, 3, 4)]
    for call in endless:
        ids(call, until=1)
    meek = [stream("meek", 400, seed=5) for _ in range(2)]
    first, second = (ids(call) for call in meek)
    assert len(first) == 400
    assert first == second
    assert ids(first_of_greedy) == alone
    for call in endless:
        call.cancel()


def test_a_sequence_that_lost_its_slot_goes_on_where_it_was(
    start: Callable[..., Served], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    steps.adder(models, slots=2)
    server = start(models)
    for sequence in (1, 2):
        assert _step(server, "greedy", sequence, start=True) == 1
    assert _step(server, "meek", 1, start=True) == 1
    for sequence in (1, 2):  # one of them has no slot, until another has been idle for its turn
        assert _step(server, "greedy", sequence) == 2
        assert _step(server, "greedy", sequence) == 3
    assert _step(server, "meek", 1, end=True) == 2
    for sequence in (1, 2):
        assert _step(server, "greedy", sequence, end=True) == 4

"""Live sequences are copied, forked and resumed: on another server, exactly as they would have gone on."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import fakes
import grpc
import numpy as np
import pytest
import steps
from google.rpc import error_details_pb2
from integration.harness import FRONT_ENDS, Served, details, refused, serve, settings
from patience import PATIENCE_S, wait_until
from security import digest, write_auth

from lockstep_client import AsyncClient, Client, SequenceState, Unavailable
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TOKENS = 300
"""Tokens of a text that are compared."""

_MORE = 100
"""Tokens that are read after a copy was made, or a stream resumed."""

_ENDLESS = 50_000
"""Tokens of a stream that has not ended when its state is copied."""

PRECONDITION, DENIED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"seed": 7, "top_k": 12, "top_p": 0.9},
    "penalties": {
        "seed": 3,
        "decoding": pb.Decoding(
            repetition_penalty=1.3, presence_penalty=0.2, no_repeat=6, min_tokens=40, logit_bias={4: 0.5}
        ),
    },
    "inspected": {"seed": 5, "log_probabilities": True, "top_log_probabilities": 2, "stop": ["never"]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    steps.language(folder)
    steps.language(folder, "unread", prefill=False)
    steps.cache(folder)
    manifest = steps.CACHE.replace("max = 40", "max = 60000")
    (folder / "cached" / "model.toml").write_text(manifest)
    steps.translator(folder)
    steps.adder(folder, slots=4)
    return folder


@pytest.fixture(scope="module")
def first(root: Path) -> Iterator[Served]:
    with serve(root) as server:
        yield server


@pytest.fixture(scope="module")
def second(root: Path) -> Iterator[Served]:
    """With states as values of the device, an engine process, and two front ends."""
    with serve(root, engine=FRONT_ENDS, state_values="device") as server:
        yield server


def request_of(model: str, setting: str, max_tokens: int = _ENDLESS) -> pb.GenerateRequest:
    ids = pb.Ids(ids=[3, 9, 4, 4, 11])
    return pb.GenerateRequest(model=model, ids=ids, max_tokens=max_tokens, **SETTINGS[setting])


class Text:
    """What a stream has brought."""

    def __init__(self, replies: Any, most: int = _TOKENS) -> None:
        self.tokens: list[int] = []
        self.text, self.values, self.reason, self.stream_id = "", [], 0, ""
        self.attention: list[list[float]] = []
        for reply in replies:
            self.tokens += reply.tokens
            self.text += reply.text
            self.stream_id = self.stream_id or reply.stream_id
            self.reason = reply.reason
            if isinstance(reply, pb.TranslateReply):
                self.attention += [list(row.weights) for row in reply.attention]
            else:
                self.values += reply.log_probabilities
            if len(self.tokens) >= most:
                break


def whole(server: Served, request: pb.GenerateRequest) -> Text:
    short = pb.GenerateRequest()
    short.CopyFrom(request)
    short.max_tokens = _TOKENS
    return Text(server.sequences.Generate(short, timeout=PATIENCE_S))


@contextmanager
def streaming(server: Served, request: pb.GenerateRequest) -> Iterator[tuple[Any, Any]]:
    """An open stream, and its first reply."""
    call = server.sequences.Generate(request, timeout=PATIENCE_S)
    try:
        yield call, next(call)
    finally:
        call.cancel()


def copied(server: Served, model: str, **named: Any) -> pb.GetSequenceReply:
    reply: pb.GetSequenceReply = server.sequences.GetSequence(
        pb.GetSequenceRequest(model=model, **named), timeout=PATIENCE_S
    )
    return reply


def put(server: Served, state: bytes, **more: Any) -> pb.PutSequenceReply:
    request = pb.PutSequenceRequest(state=state, **more)
    reply: pb.PutSequenceReply = server.sequences.PutSequence(request, timeout=PATIENCE_S)
    return reply


def going_on(server: Served, live: pb.PutSequenceReply, tokens: list[int] = []) -> Any:  # noqa: B006
    resume = pb.Resume(sequence=live.id, tokens=tokens)
    return server.sequences.Generate(pb.GenerateRequest(model=live.model, resume=resume), timeout=PATIENCE_S)


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("model", ["lm", "cached"])
def test_a_copied_text_goes_on_as_the_first(first: Served, second: Served, model: str, setting: str) -> None:
    request = request_of(model, setting)
    expected = whole(first, request)
    for one, other in ((first, second), (second, first)):
        with streaming(one, request) as (call, begun):
            state = copied(one, model, stream_id=begun.stream_id)
            assert list(state.tokens)[:_TOKENS] == expected.tokens[: len(state.tokens)]
            assert state.position == 5 + len(state.tokens)
            live = put(other, state.state)
            received = list(begun.tokens)
            here = Text(call, _TOKENS - len(received))
            assert (received + here.tokens)[:_TOKENS] == expected.tokens
            call.cancel()
            there = going_on(other, live, received)
            assert (
                Text(there, _TOKENS - len(received)).tokens[: _TOKENS - len(received)]
                == (expected.tokens[len(received) :])
            )
            there.cancel()


def test_a_continued_text_begins_with_what_its_caller_lacks(first: Served, second: Served) -> None:
    request = request_of("lm", "sampled")
    expected = whole(first, request)
    with streaming(first, request) as (_, begun):
        state = copied(first, "lm", stream_id=begun.stream_id)
    call = going_on(second, put(second, state.state))
    got = Text(call)
    call.cancel()
    assert got.tokens[:_TOKENS] == expected.tokens
    assert got.text.startswith(expected.text)
    live = put(second, state.state)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "resume.tokens"):
        next(going_on(second, live, [*expected.tokens[1:3], 1]))
    call = going_on(second, live, expected.tokens[:1])  # which the wrong call did not end
    assert next(call).tokens
    call.cancel()
    with refused(PRECONDITION, words="no sequence of this id"):
        next(going_on(second, live))


def test_forks_have_their_own_seeds(first: Served, second: Served) -> None:
    with streaming(first, request_of("lm", "sampled")) as (_, begun):
        state = copied(first, "lm", stream_id=begun.stream_id)
    known, texts = list(state.tokens), []
    most = len(known) + _MORE
    for server, seed in ((first, 1), (second, 1), (second, 2)):
        call = going_on(server, put(server, state.state, seed=seed))
        texts.append(Text(call, most).tokens[:most])
        call.cancel()
    assert texts[0] == texts[1] != texts[2]
    assert texts[1][: len(known)] == texts[2][: len(known)] == known


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("model", ["lm", "unread", "cached"])
def test_a_broken_stream_is_replayed_exactly(first: Served, second: Served, model: str, setting: str) -> None:
    request = request_of(model, setting, max_tokens=120)
    expected = Text(first.sequences.Generate(request, timeout=PATIENCE_S))
    for received in (0, 1, 17, 119, 120):
        request.resume.tokens[:] = expected.tokens[:received]
        got = Text(second.sequences.Generate(request, timeout=PATIENCE_S))
        assert got.tokens == expected.tokens[received:]
        assert expected.text.endswith(got.text)
        assert got.values == expected.values[received:]
        assert got.reason == expected.reason


@contextmanager
def _two_servers(root: Path) -> Iterator[tuple[Served, Served, str]]:
    """Two servers that stop at once, and an address of both. The caller closes the first."""
    one, two = (Served(settings(root, only="lm", drain_s=0)) for _ in range(2))
    try:
        for server in (one, two):
            wait_until(server.app.registry.ready, "the model is ready")
        yield one, two, f"ipv4:127.0.0.1:{one.app.port},127.0.0.1:{two.app.port}"
    finally:
        two.close()


def _check_resumed(two: Served, tokens: list[int], text: str) -> None:
    """A text that began on another server is the one that the second gives alone."""
    request = request_of("lm", "sampled", max_tokens=len(tokens))
    expected = Text(two.sequences.Generate(request, timeout=PATIENCE_S), len(tokens))
    assert tokens == expected.tokens
    assert text == expected.text


_PROMPT = [3, 9, 4, 4, 11]
_NARROW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
"""Channel options with which few messages are under way, so that few tokens are replayed."""


def test_the_client_goes_on_when_a_server_is_lost(root: Path) -> None:
    with _two_servers(root) as (one, two, address), Client(address, options=_NARROW) as client:
        options: Any = {**SETTINGS["sampled"], "max_tokens": _ENDLESS, "timeout_s": PATIENCE_S}
        with client.generate("lm", ids=_PROMPT, **options) as stream:
            tokens: list[int] = []
            text, before = "", 0
            for part in stream:
                tokens += part.tokens
                text += part.text
                if not before:
                    one.close()
                    before = 1
                if not stream.resumed:
                    before = len(tokens)
                elif len(tokens) >= before + _MORE:
                    break
            assert stream.resumed
        _check_resumed(two, tokens, text)


def test_the_asyncio_client_goes_on_when_a_server_is_lost(root: Path) -> None:
    async def read(one: Served, address: str) -> tuple[list[int], str]:
        options: Any = {**SETTINGS["sampled"], "max_tokens": _ENDLESS, "timeout_s": PATIENCE_S}
        tokens: list[int] = []
        text, before = "", 0
        async with (
            AsyncClient(address, options=_NARROW) as client,
            client.generate("lm", ids=_PROMPT, **options) as stream,
        ):
            async for part in stream:
                tokens += part.tokens
                text += part.text
                if not before:
                    await asyncio.to_thread(one.close)
                    before = 1
                if not stream.resumed:
                    before = len(tokens)
                elif len(tokens) >= before + _MORE:
                    break
            assert stream.resumed
        return tokens, text

    with _two_servers(root) as (one, two, address):
        _check_resumed(two, *asyncio.run(read(one, address)))


def test_a_text_whose_servers_are_all_lost_ends_with_the_reason(root: Path) -> None:
    server = Served(settings(root, only="lm", drain_s=0))
    wait_until(server.app.registry.ready, "the model is ready")
    with Client(server.address, resume_s=0.3, retries=0) as client:
        stream = client.generate("lm", ids=_PROMPT, max_tokens=_ENDLESS, timeout_s=PATIENCE_S)
        parts = iter(stream)
        next(parts)
        server.close()
        with pytest.raises(Unavailable):
            list(parts)


@pytest.mark.parametrize("received", [0, 1, 6])
def test_a_broken_translation_is_replayed_exactly(first: Served, second: Served, received: int) -> None:
    request = pb.TranslateRequest(model="translator", text="abc def ghi", attention=True)
    expected = Text(first.sequences.Translate(request, timeout=PATIENCE_S))
    request.resume.tokens[:] = expected.tokens[:received]
    got = Text(second.sequences.Translate(request, timeout=PATIENCE_S))
    assert got.tokens == expected.tokens[received:]
    assert got.attention == expected.attention[received:]


def test_a_stop_string_across_the_break_ends_the_text(first: Served) -> None:
    request = request_of("lm", "sampled", max_tokens=200)
    text = Text(first.sequences.Generate(request, timeout=PATIENCE_S)).text
    request.stop.append(text[50:56])
    expected = Text(first.sequences.Generate(request, timeout=PATIENCE_S))
    assert expected.reason == pb.STOP_REASON_STOP
    for received in range(len(expected.tokens) - 8, len(expected.tokens) + 1):
        request.resume.tokens[:] = expected.tokens[:received]
        got = Text(first.sequences.Generate(request, timeout=PATIENCE_S))
        assert got.reason == pb.STOP_REASON_STOP
        assert expected.text.endswith(got.text)
        assert got.tokens == expected.tokens[received:]


def test_what_is_no_state_to_copy_is_refused(first: Served) -> None:
    with refused(PRECONDITION, words="no stream of this id"):
        copied(first, "lm", stream_id="7f")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "stream_id"):
        copied(first, "lm", stream_id="nonsense")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "id"):
        copied(first, "lm")
    with refused(grpc.StatusCode.NOT_FOUND):
        copied(first, "nothing", stream_id="7f")
    with refused(PRECONDITION), streaming(first, request_of("lm", "sampled")) as (_, begun):
        copied(first, "cached", stream_id=begun.stream_id)  # of another model
    beams = request_of("lm", "greedy", max_tokens=5)
    beams.decoding.beams = 2
    beams.ClearField("temperature")
    beams.resume.tokens.append(3)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "resume.tokens", "beams"):
        list(first.sequences.Generate(beams, timeout=PATIENCE_S))


# --- sequences that callers drive -----------------------------------------------------------------


def step(server: Served, value: float, sequence: int | str, **flags: bool) -> float:
    request: Any = fakes.request("adder", {"x": ("FP32", np.full((1, 2), value))})
    kind = "string_param" if isinstance(sequence, str) else "int64_param"
    setattr(request.parameters["sequence_id"], kind, sequence)
    for name, flag in flags.items():
        request.parameters[f"sequence_{name}"].bool_param = flag
    return float(fakes.values(server.infer(request), "y").ravel()[0])


def named(sequence: int | str) -> pb.SequenceId:
    return pb.SequenceId(text=sequence) if isinstance(sequence, str) else pb.SequenceId(number=sequence)


@pytest.mark.parametrize("sequence", [71, "a name"])
def test_steps_go_on_with_a_copy(first: Served, second: Served, sequence: int | str) -> None:
    for one, other in ((first, second), (second, first)):
        step(one, 1, sequence, start=True)
        step(one, 2, sequence)
        state = copied(one, "adder", id=named(sequence))
        assert state.position == 2
        assert step(one, 8, sequence) == 11  # it went on
        live = put(other, state.state)
        assert (live.id, live.position) == (named(sequence), 2)
        with refused(PRECONDITION, words="has this id"):
            put(other, state.state)
        fork = put(other, state.state, id=named("fork"))
        assert step(other, 4, sequence, end=True) == 7
        assert step(other, 5, fork.id.text, end=True) == 8
        assert step(one, 1, sequence, end=True) == 12
        with refused(PRECONDITION, words="has ended"):
            copied(one, "adder", id=named(sequence))


def test_a_follow_goes_on_elsewhere(first: Served, second: Served) -> None:
    with Client(first.address) as one, Client(second.address) as other:
        ids = [3, 9, 4, 4, 11, 2, 7]
        expected = one.follow("lm", [ids]).result()
        sent = threading.Event()
        stream = one.follow("lm", _pieces(ids[:4], sent))
        parts = iter(stream)
        predictions = [next(parts) for _ in range(4)]
        state = one.get_sequence("lm", stream_id=predictions[0].stream_id)
        assert state.position == 4
        sent.set()
        live = other.put_sequence(state)
        assert isinstance(live.sequence_id, str)
        rest = other.follow("lm", [ids[4:]], sequence_id=live.sequence_id).result()
        assert [one.labels for one in [*predictions, *rest]] == [one.labels for one in expected]
        with pytest.raises(Exception, match="has ended"):
            other.get_sequence("lm", live.sequence_id)


def _pieces(ids: list[int], sent: threading.Event) -> Iterator[list[int]]:
    """One id after another; they end later."""
    yield from ([one] for one in ids)
    sent.wait(PATIENCE_S)


def test_a_full_server_refuses_with_a_time(first: Served, second: Served) -> None:
    step(first, 1, 5, start=True)
    state = copied(first, "adder", id=named(5)).state
    for place in range(4):
        put(second, state, id=named(100 + place))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words="no free slot") as caught:
        put(second, state, id=named(104))
    assert any(isinstance(one, error_details_pb2.RetryInfo) for one in details(caught.value))
    for place in range(4):
        assert step(second, 1, 100 + place, end=True) == 2
    step(first, 1, 5, end=True)


def test_a_put_sequence_is_evicted_as_others_are(tmp_path: Path, first: Served) -> None:
    step(first, 1, 6, start=True)
    state = copied(first, "adder", id=named(6)).state
    step(first, 1, 6, end=True)
    steps.adder(tmp_path, slots=1, idle_s=0.05)
    with serve(tmp_path, drain_s=0) as other:
        with refused(PRECONDITION, words="files of model"):  # its manifest is another
            put(other, state)
        step(other, 1, 1, start=True)
        own = copied(other, "adder", id=named(1)).state
        step(other, 1, 1, end=True)
        put(other, own)

        wait_until(lambda: other.engine("adder").counts()[0].idle == 0, "the put sequence is evicted")
        put(other, own)


# --- who may --------------------------------------------------------------------------------------

AUTH = "".join(
    f'[callers.{name}]\ntokens = ["{digest(f"token-{name}")}"]\npermissions = {permissions}\n'
    for name, permissions in (
        ("alice", '["health", "read", "infer"]'), ("bob", '["health", "read", "infer"]'),
        ("root", '["health", "read", "admin"]'),
    )
)  # fmt: skip


def as_caller(server: Served, name: str) -> Client:
    return Client(server.address, token=f"token-{name}", retries=0)


def test_states_are_signed_and_belong_to_their_callers(root: Path, tmp_path: Path) -> None:
    auth = write_auth(tmp_path / "auth.toml", AUTH)
    keys = {name: write_auth(tmp_path / name, text) for name, text in KEYS.items()}
    usual = {"auth_file": auth, "only": "adder"}
    with (
        _guarded(root, sequence_key_file=keys["one"], **usual) as one,
        _guarded(root, sequence_key_file=keys["rotated"], **usual) as two,
        _guarded(root, sequence_key_file=keys["other"], **usual) as stranger,
        _guarded(root, **usual) as without,
        as_caller(one, "alice") as alice, as_caller(one, "bob") as bob, as_caller(one, "root") as admin,
        as_caller(two, "alice") as alice_at_two, as_caller(two, "bob") as bob_at_two,
        as_caller(two, "root") as admin_at_two,
        as_caller(stranger, "root") as admin_at_stranger,
        as_caller(without, "alice") as alice_without, as_caller(without, "root") as admin_without,
    ):  # fmt: skip
        x = np.ones((1, 2), np.float32)
        alice.infer("adder", {"x": x}, sequence_id="s", sequence_start=True)
        state = alice.get_sequence("adder", "s")
        for client, owner, error in ((bob, "alice", "only an admin"), (bob, "", "unknown sequence")):
            with pytest.raises(Exception, match=error):
                client.get_sequence("adder", "s", owner=owner)
        assert admin.get_sequence("adder", "s", owner="alice").position == 1
        with pytest.raises(Exception, match="another caller"):
            bob_at_two.put_sequence(state)
        admin_at_two.put_sequence(state)  # and it is alice's
        assert alice_at_two.infer("adder", {"x": x}, sequence_id="s")["y"].tolist() == [[2, 2]]
        for damaged in _forged(state):
            with pytest.raises(Exception, match="signature") as caught:
                admin_at_two.put_sequence(damaged, "forged")
            assert caught.value.code == "PERMISSION_DENIED"  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="signature"):
            admin_at_stranger.put_sequence(state)
        with pytest.raises(Exception, match="damaged") as caught:
            admin_at_two.put_sequence(b"\xff" + state.state)
        assert caught.value.code == "INVALID_ARGUMENT"  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="for admins"):
            alice_without.put_sequence(state)
        with pytest.raises(Exception, match="for admins"):
            alice_without.get_sequence("adder", "s")
        admin_without.put_sequence(state, "t")
        assert alice_without.infer("adder", {"x": x}, sequence_id="t")["y"].tolist() == [[2, 2]]


KEYS = {"one": "0123456789abcdef\n", "rotated": "a-newer-key-0123\n0123456789abcdef\n", "other": "x" * 16}


@contextmanager
def _guarded(root: Path, **more: Any) -> Iterator[Served]:
    server = Served(settings(root, **more))
    try:
        wait_until(server.app.registry.ready, "models ready")
        yield server
    finally:
        server.close()


def _forged(state: SequenceState) -> Iterator[bytes]:
    signed = pb.SignedState.FromString(state.state)
    content = pb.SequenceState.FromString(signed.state)
    content.caller = "bob"
    yield pb.SignedState(state=content.SerializeToString(), signature=signed.signature).SerializeToString()
    yield pb.SignedState(state=signed.state, signature=signed.signature[:-1]).SerializeToString()
    yield pb.SignedState(state=signed.state).SerializeToString()


def test_a_state_of_another_model_is_refused(first: Served, tmp_path: Path) -> None:
    with streaming(first, request_of("lm", "sampled")) as (_, begun):
        state = copied(first, "lm", stream_id=begun.stream_id).state
    steps.language(tmp_path, more="# another file\n")
    with serve(tmp_path) as other:
        with refused(PRECONDITION, words="files of model 'lm' differ"):
            put(other, state)
        with refused(PRECONDITION, words="another version"):
            put(other, _changed(state, version=9))
        with refused(grpc.StatusCode.NOT_FOUND):
            put(other, _changed(state, model="none"))


def _changed(state: bytes, **fields: Any) -> bytes:
    signed = pb.SignedState.FromString(state)
    content = pb.SequenceState.FromString(signed.state)
    for name, value in fields.items():
        setattr(content, name, value)
    return pb.SignedState(state=content.SerializeToString()).SerializeToString()


def test_a_damaged_state_is_refused_or_goes_on(first: Served) -> None:
    """Without a key, bytes from an admin are checked as a request is."""
    states, expected = [], whole(first, request_of("lm", "sampled"))
    for model in ("lm", "cached"):
        with streaming(first, request_of(model, "penalties")) as (_, begun):
            states.append(copied(first, model, stream_id=begun.stream_id).state)
    step(first, 1, 8, start=True)
    states.append(copied(first, "adder", id=named(8)).state)
    step(first, 1, 8, end=True)
    rng, codes = random.Random(3), set()
    for turn in range(300):
        data = bytearray(rng.choice(states))
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(min(len(data), 400))
            data[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        try:
            live = put(first, bytes(data), id=named(f"damaged {turn}"))
        except grpc.RpcError as error:
            codes.add(error.code())
            continue
        codes.add(grpc.StatusCode.OK)
        with suppress(grpc.RpcError):  # without its request it is a sequence of steps, and no text
            if live.model == "adder":
                step(first, 1, live.id.text, end=True)
            else:
                next(going_on(first, live))
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert codes <= {
        grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }  # fmt: skip
    assert whole(first, request_of("lm", "sampled")).tokens == expected.tokens
    assert first.serving()

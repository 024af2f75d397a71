"""Mixed load on a fleet: one-shot calls, streams of tokens, and sequences that are stepped by unary calls.

Every call is recorded with the server that answered it, its status, and whether the answer was right.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import fakes
import grpc
from patience import PATIENCE_S, wait_until

from lockstep_client import errors
from lockstep_proto import open_inference_pb2_grpc
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_proto.v1 import sequences_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEQUENCE_HEADER = "lockstep-sequence-id"
_SERVER_HEADER = "lockstep-server"
_SEEDS = (1, 2, 3)
_ALONE = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
_sequences: Any = sequences_pb2_grpc.SequencesStub
_inference: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub


@dataclass
class Call:
    """One call. `server` is empty until the answer begins, and `code` until the call has ended."""

    kind: str  # oneshot, stream or step
    began: float
    server: str = ""
    code: str = ""
    ended: float = float("inf")
    right: bool = False
    error: errors.LockstepError | None = None

    @property
    def failed(self) -> bool:
        return bool(self.code) and not (self.code == "OK" and self.right)


@dataclass
class History:
    """The calls of a load, in the order of their begin."""

    calls: list[Call] = field(default_factory=list)

    def begin(self, kind: str, server: str = "") -> Call:
        call = Call(kind, time.monotonic(), server)
        self.calls.append(call)
        return call

    def of(self, kind: str) -> list[Call]:
        return [call for call in list(self.calls) if call.kind == kind]

    def failed(self, kind: str) -> list[Call]:
        return [call for call in self.of(kind) if call.failed]

    def open_streams(self, server: str) -> list[Call]:
        """Streams that have begun on a server and not ended."""
        return [call for call in self.of("stream") if call.server == server and not call.code]

    def wait_answer(self, server: str) -> None:
        """Wait until a server answers a one-shot call that begins from now on."""
        now = time.monotonic()

        def answered() -> bool:
            recent = itertools.takewhile(lambda call: call.began >= now, reversed(list(self.calls)))
            return any(c.kind == "oneshot" and c.server == server and c.code == "OK" for c in recent)

        wait_until(answered, f"an answer of {server}")


class Callers:
    """The callers of a fleet, on threads.

    Args:
        tokens: the length of a stream.
        pause_s: between two calls of a caller.
        stream_pause_s: between two streams of a caller.
    """

    def __init__(self, address: str, direct: str, tokens: int, pause_s: float, stream_pause_s: float) -> None:
        self._address, self._tokens = address, tokens
        self._pause_s, self._stream_pause_s = pause_s, stream_pause_s
        self._stopping = threading.Event()
        self._numbers = itertools.count(random.getrandbits(32))
        with grpc.insecure_channel(direct) as channel:
            stub = _sequences(channel)
            self._texts = {seed: self._text(self._generate(stub, seed)) for seed in _SEEDS}
        self.history = History()

    def _generate(self, stub: Any, seed: int) -> Any:
        request = pb.GenerateRequest(model="lm", text="a", max_tokens=self._tokens, seed=seed)
        return stub.Generate(request, timeout=PATIENCE_S)

    @staticmethod
    def _text(stream: Any) -> str:
        return "".join(reply.text for reply in stream)

    def _end(self, call: Call, error: grpc.RpcError | None, *, right: bool) -> None:
        call.ended, call.right = time.monotonic(), right
        if error is not None:
            call.error = errors.from_rpc(error, self._address, PATIENCE_S)
        call.code = "OK" if error is None else error.code().name  # last: the call has ended

    @contextmanager
    def _unary(self) -> Iterator[Callable[..., None]]:
        with grpc.insecure_channel(self._address, _ALONE) as channel:
            infer = _inference(channel).ModelInfer

            def call(record: Call, request: Any, output: str, wanted: list[float], **more: Any) -> None:
                try:
                    reply, answered = infer.with_call(request, timeout=PATIENCE_S, **more)
                except grpc.RpcError as error:
                    self._end(record, error, right=False)
                else:
                    record.server = dict(answered.initial_metadata()).get(_SERVER_HEADER, "")
                    self._end(record, None, right=fakes.values(reply, output).ravel().tolist() == wanted)

            yield call

    def one_shots(self) -> None:
        """One call after the other."""
        with self._unary() as call:
            while not self._stopping.wait(self._pause_s):
                value = float(random.randrange(1 << 20))
                call(self.history.begin("oneshot"), fakes.floats("identity", [[value]]), "y", [value])

    def streams(self) -> None:
        """One stream after the other, each compared with its text from a server alone."""
        with grpc.insecure_channel(self._address, _ALONE) as channel:
            stub = _sequences(channel)
            for seed in itertools.cycle(_SEEDS):
                if self._stopping.wait(self._stream_pause_s):
                    return
                record = self.history.begin("stream")
                stream = self._generate(stub, seed)
                try:
                    record.server = dict(stream.initial_metadata()).get(_SERVER_HEADER, "")
                    text = self._text(stream)
                except grpc.RpcError as error:
                    self._end(record, error, right=False)
                else:
                    self._end(record, None, right=text == self._texts[seed])

    def sequences(self, count: int) -> None:
        """Step `count` sequences in turn. One that fails begins again under another id."""
        sums, ids, servers = [(0.0, 0.0)] * count, [0] * count, [""] * count
        with self._unary() as call:
            for place in itertools.cycle(range(count)):
                if self._stopping.wait(self._pause_s):
                    return
                value, start = float(random.randrange(1000)), not ids[place]
                ids[place] = ids[place] or next(self._numbers)
                sums[place] = sums[place][0] + value, sums[place][1] + 1.0
                request = fakes.request("adder", {"x": ("FP32", [[value, 1.0]])})
                request.parameters["sequence_id"].int64_param = ids[place]
                request.parameters["sequence_start"].bool_param = start
                record = self.history.begin("step", servers[place])
                header = ((SEQUENCE_HEADER, str(ids[place])),)
                call(record, request, "y", list(sums[place]), metadata=header)
                servers[place] = record.server
                if record.failed:
                    sums[place], ids[place], servers[place] = (0.0, 0.0), 0, ""

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def load(
    address: str,
    direct: str,
    *,
    tokens: int = 3000,
    pause_s: float = 0.02,
    callers: int = 2,
    streams: int = 3,
    stream_pause_s: float = 1.0,
) -> Iterator[History]:
    """Callers of `address` while the block runs: of one-shot calls, of streams, and one of 12 sequences.

    Args:
        direct: the address of one server, which makes the texts to compare with.
    """
    them = Callers(address, direct, tokens, pause_s, stream_pause_s)
    work = [*[them.one_shots] * callers, *[them.streams] * streams, lambda: them.sequences(12)]
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    try:
        yield them.history
    finally:
        them.stop()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)

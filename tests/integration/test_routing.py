"""A client with three servers: calls by load, sequences by their id; one is killed, one comes back."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import pytest
import steps
from integration.harness import Served, serve
from patience import PATIENCE_S, limit_s, wait_until
from unit.client.awaited import Awaited

from lockstep_client import Client, SequenceLost, Unavailable
from lockstep_client.routing import rendezvous
from lockstep_client.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

_SEQUENCES = 24
_LONG = 3_000
"""Tokens of a text whose server is lost."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    fakes.write_model(folder, "identity", fakes.identity())
    steps.adder(folder, slots=64)
    steps.language(folder)
    return folder


@pytest.fixture(scope="module")
def lasting(root: Path) -> Iterator[list[Served]]:
    """Two servers that last."""
    with serve(root) as one, serve(root) as two:
        yield [one, two]


class Mortal:
    """A server that is killed, and started again at its address."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self._port = str(taken.getsockname()[1])
        self._flags = ["--models", str(root), "--engine", "thread", "--cache", os.environ["LOCKSTEP_CACHE"]]
        self.process: Any = None
        self.address = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        self.process = ServerProcess("--port", self._port, *self._flags).__enter__()
        self.process.wait_ready(timeout_s=limit_s(60))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.__exit__(None, None, None)
            self.process = None


@pytest.fixture(scope="module")
def mortal(root: Path) -> Iterator[Mortal]:
    server = Mortal(root)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


def together(*servers: Any) -> str:
    return ",".join(server.address for server in servers)


def add(client: Any, sequence_id: int | str, value: float, **more: Any) -> float:
    x = np.array([[value, 0]], np.float32)
    return float(client.infer("adder", {"x": x}, sequence_id=sequence_id, **more)["y"][0][0])


def identity(client: Any) -> float:
    return float(client.infer("identity", {"x": np.ones((1, 4), np.float32)})["y"][0][0])


def answered(address: str, model: str) -> int:
    with Client(address) as client:
        return client.model_statistics(model)[0].rows


def test_streams_are_spread_by_load(lasting: list[Served], connect: Any) -> None:
    with connect(together(*lasting)) as client:
        streams = [client.generate("lm", "ab", max_tokens=_LONG) for _ in range(6)]
        parts: list[Any] = [iter(stream) for stream in streams]
        firsts = [next(one).stream_id for one in parts]
        held = Counter(server.address for server in lasting for one in firsts if holds(server.address, one))
        assert sorted(held.values()) == [3, 3]
        copies = [client.get_sequence("lm", stream_id=one) for one in firsts]
        assert all(copy.tokens for copy in copies)
        for one in parts:
            one.close()


def holds(address: str, stream_id: str) -> bool:
    with Client(address) as client:
        try:
            client.get_sequence("lm", stream_id=stream_id)
        except SequenceLost:
            return False
        return True


def test_sequences_are_found_by_their_id_by_any_client(lasting: list[Served], connect: Any) -> None:
    ids = range(1, _SEQUENCES + 1)
    with connect(together(*lasting)) as one, connect(together(*reversed(lasting))) as two:
        for number in ids:
            assert add(one, number, number, sequence_start=True) == number
        for number in ids:
            assert add(two, number, 1) == number + 1
        expected = Counter(rendezvous(str(number), [s.address for s in lasting])[0] for number in ids)
        for server in lasting:
            with connect(server.address) as alone:
                there = 0
                for number in ids:
                    with suppress(SequenceLost):
                        there += add(alone, number, 0) == number + 1
            assert there == expected[server.address] > 0
        for number in ids:
            add(one, number, 0, sequence_end=True)


def test_a_sequence_is_found_where_another_set_of_servers_had_put_it(
    lasting: list[Served], connect: Any
) -> None:
    with connect(lasting[0].address) as before, connect(together(*lasting)) as after:
        for number in range(100, 108):
            add(before, number, 5, sequence_start=True)
        assert [add(after, number, 1, sequence_end=True) for number in range(100, 108)] == [6] * 8
        with pytest.raises(SequenceLost):
            add(after, 999, 1)


def test_a_put_sequence_goes_on_where_it_was_put(lasting: list[Served], connect: Any) -> None:
    with connect(together(*lasting)) as client:
        add(client, 7, 5, sequence_start=True)
        state = client.get_sequence("adder", 7)
        for name in ("one", "two", "three"):
            assert client.put_sequence(state, name).sequence_id == name
            assert add(client, name, 2, sequence_end=True) == 7
        add(client, 7, 0, sequence_end=True)


def test_a_server_is_killed_and_comes_back(lasting: list[Served], mortal: Mortal, connect: Any) -> None:
    """One after another: what it held goes on elsewhere, or fails if its caller wants that; no one-shot call
    fails; it is used again."""
    servers: list[Any] = [*lasting, mortal]
    addresses = together(*servers)
    with (
        connect(addresses) as fails,
        connect(addresses, on_lost="restart") as restarts,
        connect(mortal.address, on_lost="restart", resume_s=limit_s(30)) as alone,
        ExitStack() as streams,
    ):
        add(alone, 7, 5, sequence_start=True)
        for number in range(_SEQUENCES):
            add(restarts, 100 + number, number, sequence_start=True)
            add(fails, 200 + number, number, sequence_start=True)
            assert identity(fails) == 1
        check_streams = streams.enter_context(streams_on_two(lasting[0], mortal, connect))
        mortal.kill()
        for number in range(_SEQUENCES):
            assert identity(fails) == 1
            assert add(restarts, 100 + number, 1) == number + 1
            assert add(restarts, 100 + number, 1, sequence_end=True) == number + 2
            if rendezvous(str(200 + number), [server.address for server in servers])[0] == mortal.address:
                with pytest.raises((Unavailable, SequenceLost)):
                    add(fails, 200 + number, 1)
            else:
                assert add(fails, 200 + number, 1, sequence_end=True) == number + 1
        check_streams()
        mortal.start()
        assert add(alone, 7, 1) == 6

        def used() -> bool:
            identity(fails)
            return answered(mortal.address, "identity") > 0

        wait_until(used, "the server that came back is used")


@contextmanager
def streams_on_two(lasting: Served, mortal: Mortal, connect: Any) -> Iterator[Callable[[], None]]:
    """By load, half of the streams are on each of two servers. After one was killed, what is yielded checks
    them."""
    pieces = [[3, 4], [5, 6, 7], [8], [9, 10]]
    with connect(lasting.address) as client:
        text = client.generate("lm", "ab", seed=7, max_tokens=_LONG).result().text
        predictions = [one.labels for one in client.follow("lm", pieces).result()]
    with connect(together(lasting, mortal), on_lost="restart") as client:
        killed = threading.Event()
        texts = [client.generate("lm", "ab", seed=7, max_tokens=_LONG) for _ in range(2)]
        source = in_time if connect is Awaited else in_turn
        followed = [client.follow("lm", source(pieces, killed)) for _ in range(2)]
        begun = [iter(stream) for stream in (*texts, *followed)]
        firsts = [next(parts) for parts in begun]

        def check() -> None:
            killed.set()
            rests = [[first, *parts] for first, parts in zip(firsts, begun, strict=True)]
            assert ["".join(part.text for part in parts) for parts in rests[:2]] == [text] * 2
            assert [[part.labels for part in parts] for parts in rests[2:]] == [predictions] * 2
            assert sorted(map(resumption, followed)) == [False, True]

        yield check


def resumption(stream: Any) -> bool:
    resumed: bool = getattr(stream, "_stream", stream).resumed
    return resumed


def in_turn(pieces: list[Any], go_on: threading.Event) -> Iterator[Any]:
    """Pieces, of which all but the first wait."""
    yield pieces[0]
    assert go_on.wait(PATIENCE_S)
    yield from pieces[1:]


async def in_time(pieces: list[Any], go_on: threading.Event) -> AsyncIterator[Any]:
    """The same, for asyncio."""
    yield pieces[0]
    assert await asyncio.to_thread(go_on.wait, PATIENCE_S)
    for piece in pieces[1:]:
        yield piece

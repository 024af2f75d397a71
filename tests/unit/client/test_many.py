"""How `Outcomes` end, without a server."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from lockstep_client import errors, many_calls
from lockstep_client.many import Outcomes


class Away(grpc.RpcError):
    """A stream that breaks at once."""

    def __iter__(self) -> Away:
        return self

    def __next__(self) -> None:
        raise self

    def cancel(self) -> None:
        """It has ended."""


def test_close_while_the_server_is_away_opens_no_more_streams() -> None:
    opened = threading.Semaphore(0)
    streams: list[Any] = []

    def open_(messages: Any, timeout_s: float) -> Away:
        streams.append(messages)
        opened.release()
        return Away()

    call = many_calls.classify_many("m", iter("texts"))
    outcomes: Outcomes[Any, Any] = Outcomes(
        call, open_, lambda _: None, lambda _: errors.Unavailable("gone"), retries=True
    )

    def leave() -> None:
        opened.acquire()
        outcomes.close()

    leaving = threading.Thread(target=leave)
    leaving.start()
    with pytest.raises(errors.Cancelled, match="closed before their end"):
        list(outcomes)
    leaving.join()
    assert len(streams) == 1

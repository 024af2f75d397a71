"""The driver without worker processes, as benchmarks and the demo use it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass

import pytest
from patience import PATIENCE_S

from lockstep_load.in_process import send_all
from lockstep_load.outcome import RequestOutcome


@dataclass(frozen=True)
class Word:
    text: str
    length: int = 1


WORDS = [Word(f"word {n}") for n in range(20)]


async def test_every_request_is_sent_once_with_the_given_number_in_flight() -> None:
    seen, in_flight = list[Word](), [0]
    most = 0

    async def send(word: Word, _: object) -> None:
        nonlocal most
        seen.append(word)
        in_flight[0] += 1
        most = max(most, in_flight[0])
        await asyncio.sleep(0)
        in_flight[0] -= 1

    found = await send_all(WORDS, send, 3)
    assert seen == WORDS
    assert most == 3
    assert (len(found.seconds), found.failed, found.first_error) == (20, 0, "")
    assert 0 < found.seconds.max() <= found.wall_s


async def test_a_failure_is_counted_with_its_error() -> None:
    async def send(word: Word, _: object) -> None:
        if word is WORDS[0]:
            raise ValueError("no such word")

    found = await send_all(WORDS[:2], send, 2)
    assert (len(found.seconds), found.failed) == (1, 1)
    assert found.examples == {RequestOutcome.FAILED: "ValueError: no such word"}
    assert found.first_error == "ValueError: no such word"


@pytest.mark.parametrize("package", ["hdrh", "jinja2", "matplotlib", "msgspec"])
def test_it_needs_no_package_of_the_extra(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import lockstep_load.in_process"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)

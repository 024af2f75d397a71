"""An engine process without engines: says back what it is told, and dies when it is told to."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from lockstep_server import messages
from lockstep_server.ipc import frames


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as end:
        end.setblocking(True)
        decoder = frames.Decoder()
        while data := end.recv(1 << 20):
            for batch in decoder.feed(data):
                for message in batch:
                    take(end, message)


def crashes_now(folder: Path) -> bool:
    """A file of marks says which of the starts in this folder crash."""
    marks = folder / "crashes"
    if not marks.exists():
        return False
    now, *rest = marks.read_text()
    marks.write_text("".join(rest) or ".")
    return now == "x"


def say(end: socket.socket, message: Any) -> None:
    for piece in frames.encode([message]):
        end.sendall(piece)


def take(end: socket.socket, message: Any) -> None:
    match message:
        case messages.EngineConfig(models="nowhere"):
            say(end, frames.EngineFailed("nowhere: no such folder"))
            os._exit(1)
        case messages.EngineConfig(models=folder) if crashes_now(Path(folder)):
            os._exit(7)
        case messages.EngineConfig():
            say(end, messages.LoadDone("first", "load"))
            say(end, frames.EngineStarted(messages.EngineInfo("puppet", "0", 1)))
        case messages.Load("die"):
            os._exit(3)
        case messages.Load("doze"):
            time.sleep(0.3)
        case messages.Load("deaf"):
            time.sleep(600)
        case messages.Submit():
            say(end, messages.Events("m", 1, [messages.Event(message.key, message.inputs)]))
        case frames.StopEngine():
            say(end, messages.LoadDone("last", "load"))
            os._exit(0)
        case _:
            say(end, messages.LoadDone(str(message), "echo"))


if __name__ == "__main__":
    main()

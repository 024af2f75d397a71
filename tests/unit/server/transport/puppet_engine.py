"""An engine process without engines: says back what it is told, and dies when it is told to."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from lockstep_server import port
from lockstep_server.transport import frames


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as end:
        end.setblocking(True)
        decoder = frames.Decoder()
        while data := end.recv(1 << 20):
            for messages in decoder.feed(data):
                for message in messages:
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
        case port.HostConfig(models="nowhere"):
            say(end, frames.Failed("nowhere: no such folder"))
            os._exit(1)
        case port.HostConfig(models=folder) if crashes_now(Path(folder)):
            os._exit(7)
        case port.HostConfig():
            say(end, port.LoadDone("first", "load"))
            say(end, frames.Started(port.About("puppet", "0", 1)))
        case port.Load("die"):
            os._exit(3)
        case port.Load("doze"):
            time.sleep(0.3)
        case port.Load("deaf"):
            time.sleep(600)
        case port.Submit():
            say(end, port.Events("m", 1, [port.Event(message.key, message.inputs)]))
        case frames.Stop():
            say(end, port.LoadDone("last", "load"))
            os._exit(0)
        case _:
            say(end, port.LoadDone(str(message), "echo"))


if __name__ == "__main__":
    main()

"""A fake engine process: echoes its messages as updates, and crashes or hangs on command."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from lockstep_server import messages
from lockstep_server.ipc import frames


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        connection.setblocking(True)
        decoder = frames.Decoder()
        while data := connection.recv(1 << 20):
            for batch in decoder.feed(data):
                for message in batch:
                    handle(connection, message)


def crashes_now(folder: Path) -> bool:
    """Whether this start crashes. The file `crashes` has one mark per start: "x" crashes, "." does not."""
    file = folder / "crashes"
    if not file.exists():
        return False
    marks = file.read_text()
    mark, rest = marks[0], marks[1:]
    file.write_text(rest or ".")
    return mark == "x"


def send(connection: socket.socket, message: Any) -> None:
    for part in frames.Encoder().encode([message]):
        connection.sendall(part)


def handle(connection: socket.socket, message: Any) -> None:
    match message:
        case messages.EngineConfig(models="nowhere"):
            send(connection, messages.EngineFailed("nowhere: no such folder"))
            os._exit(1)
        case messages.EngineConfig(models=folder) if crashes_now(Path(folder)):
            os._exit(7)
        case messages.EngineConfig():
            send(connection, messages.LoadDone("first", "load"))
            for name in message.excluded:
                send(connection, messages.LoadDone(f"{name} is excluded", "load"))
            send(connection, messages.EngineStarted(messages.EngineInfo("puppet", "0", 1)))
        case messages.Load("die"):
            os._exit(3)
        case messages.Load("stop"):
            os.kill(os.getpid(), signal.SIGSTOP)
        case messages.Load("stuck"):
            send(connection, messages.ModelStuck("bad", 1, "it did not end"))
        case messages.Load("die loading"):
            send(connection, messages.LoadStarted("bad", 1))
            os._exit(3)
        case messages.Load("nonsense"):
            connection.sendall(b"x" * 64)
        case messages.Heartbeat():
            send(connection, message)
        case messages.Load("doze"):
            time.sleep(0.3)
        case messages.Load("deaf"):
            time.sleep(600)
        case messages.Infer():
            event = messages.Event(key=message.key, outputs=message.inputs)
            send(connection, messages.Events(model="m", version=1, events=[event]))
        case messages.StopEngine():
            send(connection, messages.LoadDone("last", "load"))
            os._exit(0)
        case _:
            send(connection, messages.LoadDone(str(message), "echo"))


if __name__ == "__main__":
    main()

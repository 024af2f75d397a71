"""The servers of the comparison: what each needs, how it is started, and its settings in words."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "60 lines"
LOCKSTEP = "Lockstep"


@dataclass(frozen=True)
class Peer:
    """A server that is run by a script of `served/` in an environment of its own, or by Lockstep's command.

    `kind`: its messages (`load.py`). `packages`: what its environment needs; empty: it runs in Lockstep's.
    `polls`: it uses CPU while idle, so it is stopped while others are measured.
    """

    name: str
    kind: str
    settings: str
    script: str = ""
    packages: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()  # packages whose versions the table names
    variables: tuple[tuple[str, str], ...] = ()
    described: bool = False  # it answers what perf_analyzer asks first
    python: str = ""  # what its environment is made with; empty: this Python
    polls: bool = False
    start_timeout_s: float = 120.0


_COMMON = ("numpy", "onnxruntime=={onnxruntime}")
PEERS = (
    Peer(
        LOCKSTEP, "open-inference",
        "gRPC (ModelInfer); defaults; `max_queue_ms` 5000, so that 256 in flight are not refused",
        shows=("grpcio", "onnxruntime"), described=True,
    ),
    Peer(
        REFERENCE, "open-inference",
        "gRPC (ModelInfer); grpc.aio, an executor of two threads, one session a model, no batching",
        script="sixty_lines.py", shows=("grpcio", "onnxruntime"), described=True,
    ),
    Peer(
        "mosec", "msgpack",
        "HTTP, MessagePack; two worker processes a model, no batching",
        script="with_mosec.py", packages=("mosec", "msgpack", *_COMMON), shows=("mosec", "onnxruntime"),
    ),
    Peer(
        "mosec, batches of 8", "msgpack",
        "HTTP, MessagePack; two worker processes a model, `max_batch_size` 8, `max_wait_time` 10 ms",
        script="with_mosec.py", packages=("mosec", "msgpack", *_COMMON), shows=("mosec", "onnxruntime"),
        variables=(("PEER_MAX_BATCH", "8"),),
    ),
    Peer(
        "LitServe", "json",
        "HTTP, JSON; two worker processes a model, `max_batch_size` 8, `batch_timeout` 10 ms",
        script="with_litserve.py", packages=("litserve", *_COMMON), shows=("litserve", "onnxruntime"),
        variables=(("PEER_MAX_BATCH", "8"),), polls=True,
    ),
    Peer(
        "MLServer", "open-inference",
        "gRPC (ModelInfer); two worker processes, no batching (its batcher fails on unequal lengths)",
        script="with_mlserver.py", packages=("mlserver", "uvloop<0.22", *_COMMON),
        shows=("mlserver", "onnxruntime"), polls=True,
    ),
    Peer(
        "Triton (pytriton)", "open-inference",
        "gRPC (ModelInfer); Python backend, two instances a model, batches of up to 8 requests of equal "
        "length",
        script="with_pytriton.py", packages=("nvidia-pytriton", *_COMMON), python="/usr/bin/python3.11",
        shows=("nvidia-pytriton", "onnxruntime"), variables=(("PEER_MAX_BATCH", "8"),), polls=True,
    ),
)  # fmt: skip
BY_NAME = {peer.name: peer for peer in PEERS}
ESSENTIAL = (LOCKSTEP, REFERENCE, "mosec", "LitServe")

"""Whether a server of the comparison answers as the model does: several requests at once, each against a run
of its own."""

from __future__ import annotations

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
import numpy as np

from bench.drive import request
from lockstep_client import protocol
from lockstep_proto import open_inference_pb2 as pb

from .load import IDS
from .served.onnx_model import OnnxModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .server import Running

_LENGTHS = (1, 3, 8, 20, 20, 33, 50, 8)
_TOLERANCE = 1e-4
_TIMEOUT_S = 120.0
_CODECS = {"msgpack": msgspec.msgpack, "json": msgspec.json}


class WrongAnswerError(RuntimeError):
    """A server answers otherwise than the model. The message says by how much."""


def check(running: Running, repository: Path, models: Sequence[str]) -> None:
    """Compare a server's answers for each model with the model's own.

    Raises:
        WrongAnswerError: an answer differs by more than the tolerance.
    """
    rng = np.random.default_rng(0)
    for name in models:
        model = OnnxModel(name, repository)
        sequences = [rng.integers(1, IDS, length) for length in _LENGTHS]
        with ThreadPoolExecutor(len(sequences)) as threads:
            answers = list(threads.map(partial(ask, running, name), sequences))
        for ids, answer in zip(sequences, answers, strict=True):
            expected = model.run([ids])[0]
            if answer.shape != expected.shape or not np.allclose(answer, expected, atol=_TOLERANCE):
                raise WrongAnswerError(
                    f"{name}, {len(ids)} ids: the answer begins with {answer[:3]}, "
                    f"the model's with {expected[:3]}"
                )


def ask(running: Running, model: str, ids: Any) -> Any:
    """The answer for one sequence of ids, float [columns]."""
    if running.peer.kind == "open-inference":
        with grpc.insecure_channel(running.address) as channel:
            call: Any = channel.unary_unary(
                protocol.INFER.path, response_deserializer=pb.ModelInferResponse.FromString
            )
            reply = call(request(model, ids).body, timeout=_TIMEOUT_S)
        raw = reply.raw_output_contents
        values = np.frombuffer(raw[0], np.float32) if raw else reply.outputs[0].contents.fp32_contents
        return np.asarray(values, np.float32)
    codec: Any = _CODECS[running.peer.kind]
    asked = urllib.request.Request(
        f"http://{running.address}/{model}",
        codec.encode({"tokens": ids.tolist()}),
        {"Content-Type": f"application/{running.peer.kind}"},
    )
    with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as reply:
        return np.asarray(codec.decode(reply.read())["output"], np.float32)

"""CTC: frames in, text out, whole sequences by Transcribe and their beginnings by Follow."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import frames
import grpc
import numpy as np
import pytest
from frames import spelled
from integration.harness import REPOSITORY, Served, refused, serve
from patience import PATIENCE_S

import lockstep_client as lc
from lockstep_client import AsyncClient, Client, cli
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_zoo.touchtones.tones import draw_keys, frames_of, render

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from lockstep_client import Prediction

TOUCHTONES = REPOSITORY.parent / "examples" / "models" / "touchtones"
TEXTS = {"-aa-a--b": "aab", "abba": "aba", "---": "", " a- -b ": "a b ", "é-éa": "ééa", "a": "a"}
"""The best label of each frame, and the text."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    frames.spelling(root, "labels")
    frames.spelling(root, "tokens", tokenizer=True)
    frames.spelling(root, "steps", file="step.onnx")
    frames.labelled(root, "labelled")
    shutil.copytree(TOUCHTONES, root / "touchtones")
    with serve(root) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Client]:
    with Client(server.address, timeout_s=PATIENCE_S) as opened:
        yield opened


def text_of(predictions: Iterable[Prediction]) -> str:
    text = ""
    for one in predictions:
        text = text[: one.kept_characters] + one.text
    return text


@pytest.mark.parametrize("model", ["labels", "tokens"])
def test_repetitions_and_blanks_are_removed(client: Client, model: str) -> None:
    answers = client.transcribe(model, [spelled(frame) for frame in TEXTS])
    assert [answer.text for answer in answers] == list(TEXTS.values())
    assert [answer.length for answer in answers] == [len(frame) for frame in TEXTS]
    first = answers[0]
    assert [(one.id, one.start, one.end) for one in first.tokens] == [(1, 1, 3), (1, 4, 5), (2, 7, 8)]


@pytest.mark.parametrize("model", ["labels", "tokens", "steps"])
@pytest.mark.parametrize("best", TEXTS)
def test_a_stream_of_frames_has_the_text_of_all_of_them(client: Client, model: str, best: str) -> None:
    for size in (1, 2, len(best)):
        parts = [spelled(best[start : start + size]) for start in range(0, len(best), size)]
        replies = client.follow_frames(model, parts).result()
        assert text_of(replies) == TEXTS[best]
        assert len(replies) == len(parts)
    for reply in replies:
        assert (reply.labels, reply.outputs) == ((), {})


def test_outputs_are_returned_beside_the_text(client: Client) -> None:
    with pytest.raises(lc.InvalidRequest, match="the reply has the text of these scores"):
        client.follow_frames("labels", spelled("a"), outputs=["y"]).result()


async def test_an_async_client_transcribes(server: Served) -> None:
    async with AsyncClient(server.address) as client:
        [answer] = await client.transcribe("labels", spelled("ab"))
    assert (answer.text, answer.model, answer.version) == ("ab", "labels", "1")


def sent(*shape: int, name: str = "x", datatype: str = "FP32") -> pb.Frames:
    contents = bytes(4 * int(np.prod(shape)))
    return pb.Frames(tensors=[pb.NamedTensor(name=name, datatype=datatype, shape=shape, contents=contents)])


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no frames": ({}, "frames", "0 sequences"),
    "another width": ({"frames": [sent(2, 4)]}, "frames[0].x", "[-1, 5]"),
    "another datatype": ({"frames": [sent(2, 5), sent(2, 5, datatype="FP64")]}, "frames[1].x", "FP32"),
    "an unknown input": ({"frames": [sent(2, 5, name="z")]}, "frames[0].tensors[0].name", "available: x"),
    "no tensor": ({"frames": [pb.Frames()]}, "frames[0].x", "missing"),
    "no elements": ({"frames": [sent(0, 5)]}, "frames[0].x", "no frames"),
    "too many": ({"frames": [sent(501, 5)]}, "frames[0].x", "limit of 500"),
    "a timeout below 0": (
        {"frames": [sent(2, 5)], "queue_timeout_seconds": -1},
        "queue_timeout_seconds",
        "out of range",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_request_is_rejected(server: Served, case: str) -> None:
    request, field, words = BAD[case]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, field, words):
        server.sequences.Transcribe(pb.TranscribeRequest(model="labels", **request), timeout=PATIENCE_S)


def test_another_model_cannot_transcribe(server: Served, client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, words="Follow"):
        server.sequences.Transcribe(pb.TranscribeRequest(model="steps", frames=[sent(2, 5)]))
    with pytest.raises(lc.InvalidRequest, match="its task is 'ctc'"):
        client.classify("labels", "a")


def test_nan_is_no_text(client: Client) -> None:
    x = spelled("ab")
    x[1] = np.nan
    with pytest.raises(lc.ServerFailure, match="NaN or infinite"):
        client.transcribe("labels", x)
    with pytest.raises(lc.ServerFailure, match="NaN or infinite"):
        client.follow_frames("steps", x).result()


def test_touch_tones_are_read_alone_and_batched_whole_and_streamed(server: Served, client: Client) -> None:
    rng = np.random.default_rng(7)
    dialled = [draw_keys(rng) for _ in range(32)]
    sounds = [frames_of(render(keys, rng)) for keys in dialled]
    alone = [client.transcribe("touchtones", sound)[0].text for sound in sounds]
    assert sum(read == keys for read, keys in zip(alone, dialled, strict=True)) >= 30
    with ThreadPoolExecutor(1) as pool:
        with server.hold():
            call = pool.submit(client.transcribe, "touchtones", sounds)
            server.wait_waiting("touchtones", len(sounds))
        together = call.result()
    assert [answer.text for answer in together] == alone
    assert together[0].timings.batch_rows > 1
    with ThreadPoolExecutor(8) as pool:
        streamed = list(
            pool.map(lambda sound: client.follow_frames("touchtones", sound).result(), sounds[:8])
        )
    assert [text_of(replies) for replies in streamed] == alone[:8]
    assert [len(replies) for replies in streamed] == [len(sound) for sound in sounds[:8]]


def test_the_command_reads_files_of_frames(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_ADDRESS", server.address)
    file, other = str(tmp_path / "frames.npy"), tmp_path / "frames.txt"
    np.save(file, spelled("-aa-b"))
    other.write_text("no frames")

    def lockstep(*arguments: str) -> tuple[int, list[str], str]:
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    assert lockstep("transcribe", "--model", "labels", file) == (0, [f"ab\t{file}"], "")
    code, lines, _ = lockstep("follow", "--model", "steps", "--frames", file, "--chunk", "2")
    assert code == 0
    assert [line.split("\t")[:2] for line in lines if "\ta\t" in line or "\tb\t" in line] == [
        ["2", "a"],
        ["5", "b"],
    ]
    code, lines, _ = lockstep("--json", "follow", "--model", "labelled", "--frames", file)
    assert code != 0  # of another width
    code, _, error = lockstep("transcribe", "--model", "labels", str(other))
    assert code != 0
    assert "cannot be read as .npy or .wav" in error

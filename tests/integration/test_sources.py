"""Models from a bucket and from a web server: copied whole, checked, gone on with, or not served at all."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import pytest
import steps
from integration.harness import Stubs
from moto.server import ThreadedMotoServer
from patience import limit_s

from lockstep_client.server_process import ServerProcess
from lockstep_server import sources
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "s3://models/production"
FILES = ["adder/1/step.onnx", "adder/model.toml", "identity/1/model.onnx"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    fakes.write_model(root, "identity", fakes.identity())
    steps.adder(root)
    return root


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a bucket that holds the models."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir("models")
    system.put(f"{models}/", "models/production/", recursive=True)
    yield system
    system.rm("models", recursive=True)


class Web:
    """A web server with ranges. It breaks off answers that reach the second half of the file `broken`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.broken = ""
        self.asked: list[tuple[str, str]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                path, ranged = self.path.lstrip("/"), self.headers.get("Range", "")
                content = web.files.get(path)
                if body:
                    web.asked.append((path, ranged))
                if content is None:
                    self.send_error(404)
                    return
                begin, end = 0, len(content)
                if match := re.fullmatch(r"bytes=(\d+)-(\d*)", ranged):
                    begin, end = int(match[1]), min(int(match[2] or end - 1) + 1, end)
                self.send_response(206 if ranged else 200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(end - begin))
                if ranged:
                    self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
                self.end_headers()
                if body:
                    if path == web.broken:
                        end = min(end, len(content) // 2)
                    self.wfile.write(content[begin:end])
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, files: dict[str, bytes]) -> None:
        """Serve files, and the list of their hashes."""
        lines = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in files.items()]
        self.files = {**files, sources.SUMS: "".join(lines).encode()}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


def contents(folder: Path | str) -> dict[str, bytes]:
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def copies(cache: Path) -> list[str]:
    """Repositories in the cache, whole or not."""
    folder = cache / "models" / "repositories"
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_a_bucket_is_copied_once_and_what_changes_again(
    bucket: Any, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lockstep_server.sources")
    (first,) = sources.fetch(BUCKET, str(tmp_path))
    assert contents(first) == contents(models)
    assert "3 files" in caplog.text
    caplog.clear()
    assert sources.fetch(BUCKET + "/", str(tmp_path)) == [first]
    assert caplog.text == ""
    bucket.pipe("models/production/adder/model.toml", b"[stepwise]\nmax_sequences = 1\n")
    (second,) = sources.fetch(BUCKET, str(tmp_path))
    assert "1 files" in caplog.text
    changed = {path for path, content in contents(second).items() if content != contents(models)[path]}
    assert changed == {"adder/model.toml"}
    assert contents(first) == contents(models), "a server may still serve it"


def test_a_bucket_that_is_gone_is_served_from_its_copy(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = sources.fetch(BUCKET, str(tmp_path))
    bucket.rm("models/production", recursive=True)
    assert sources.fetch(BUCKET, str(tmp_path)) == copy
    assert "serving the copy" in caplog.text
    bucket.touch("models/other")
    with pytest.raises(LoadError, match=r"s3://models/production"):
        sources.fetch(BUCKET, str(tmp_path / "another cache"))


def test_hashes_in_a_bucket_are_checked(bucket: Any, models: Path, tmp_path: Path) -> None:
    wrong = "".join(f"{'0' * 64}  {path}\n" for path in FILES)
    bucket.pipe(f"models/production/{sources.SUMS}", wrong.encode())
    with pytest.raises(LoadError, match=r"has the SHA-256 \w+, not 0000.* as in SHA256SUMS"):
        sources.fetch(BUCKET, str(tmp_path))
    assert copies(tmp_path) == []
    hashes = {path: hashlib.sha256((models / path).read_bytes()).hexdigest() for path in FILES}
    right = "".join(f"{digest}  ./{path}\n" for path, digest in hashes.items())
    bucket.pipe(f"models/production/{sources.SUMS}", right.encode())
    (folder,) = sources.fetch(BUCKET, str(tmp_path))
    assert contents(folder) == contents(models)


def test_a_broken_download_leaves_no_half_model_and_goes_on(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_BLOCK", 1 << 16)
    monkeypatch.setattr(sources, "_CHUNK", 1 << 16)
    large = bytes(range(256)) * 4096
    web.put({"a/1/model.onnx": large, "b/1/model.onnx": b"small"})
    web.broken = "a/1/model.onnx"
    with pytest.raises(LoadError, match=r"a/1/model\.onnx: cannot be read"):
        sources.fetch(web.address, str(tmp_path))
    assert copies(tmp_path) == []
    web.broken, web.asked = "", []
    (folder,) = sources.fetch(web.address, str(tmp_path))
    assert contents(folder) == {"a/1/model.onnx": large, "b/1/model.onnx": b"small"}
    begins = [int(ranged[6:].split("-")[0]) for path, ranged in web.asked if path.startswith("a")]
    assert len(large) // 4 < min(begins) <= len(large) // 2, "it began again"


def test_a_web_server_is_read_by_its_list_of_hashes(web: Web, tmp_path: Path) -> None:
    web.put({"a/1/model.onnx": b"right"})
    web.files["a/1/model.onnx"] = b"wrong"
    with pytest.raises(LoadError, match="has the SHA-256"):
        sources.fetch(web.address, str(tmp_path))
    web.put({"../outside": b"x"})
    with pytest.raises(LoadError, match="outside of the repository"):
        sources.fetch(web.address, str(tmp_path))
    web.files = {}
    with pytest.raises(LoadError, match="no SHA256SUMS there"):
        sources.fetch(web.address, str(tmp_path))
    web.files = {sources.SUMS: b"what is this"}
    with pytest.raises(LoadError, match="is not `HASH  PATH`"):
        sources.fetch(web.address, str(tmp_path))
    assert copies(tmp_path) == []


def test_a_server_serves_a_folder_and_a_bucket(bucket: Any, tmp_path: Path) -> None:
    del bucket  # filled
    own = tmp_path / "own"
    fakes.write_model(own, "slow", fakes.slow())
    flags = ("--models", f"{own},{BUCKET}", "--cache", str(tmp_path / "cache"))
    with ServerProcess(*flags) as running:
        running.wait_ready(("identity", "adder", "slow"), timeout_s=limit_s(120))
        server = Stubs(running.address)
        reply = server.infer(fakes.floats("identity", [[3.0]]))
        server.channel.close()
        assert fakes.values(reply, "y").item() == 3.0
        assert "fetched s3://models/production: 3 files" in running.log_text()


def test_remote_models_need_a_cache_and_known_words() -> None:
    with pytest.raises(LoadError, match="needs a cache folder; set --cache"):
        sources.fetch(BUCKET, "")
    assert sources.split("a, s3://b/c,") == ["a", "s3://b/c"]
    assert not sources.is_remote("ftp://b/c")

"""Models from a bucket and from a web server: copied whole, checked, gone on with, or not served at all."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import fakes
import fsspec
import pytest
import steps
from integration.harness import Stubs
from patience import limit_s

from lockstep_client.server_process import ServerProcess
from lockstep_server import sources
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


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
    from moto.server import ThreadedMotoServer  # 0.3 s, which no other file's worker should pay

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


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an empty bucket `models` of Google Cloud Storage."""
    pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator")
    # Else gcsfs asks Google's control service, which the emulator has not, for the kind of each bucket.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", (port := free_port()), in_memory=True, default_bucket="models")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    import gcsfs

    yield gcsfs.GCSFileSystem(token="anon", project="tests", skip_instance_cache=True)
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


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


class Hub:
    """What Hugging Face's library asks of its server about one repository of models. Large files are in Git
    LFS."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.corrupt: dict[str, bytes] = {}
        """Sent in place of the files of these names."""
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                if "/resolve/" in path:
                    return self.send_file(path.partition("/resolve/main/")[2])
                if "/tree/" in path:
                    folder = path.partition("/tree/main")[2].lstrip("/")
                    return self.send(hub.listed(folder))
                return self.send({"id": "some/models", "sha": "0" * 40, "siblings": []})

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                wanted = parse_qs(self.rfile.read(length).decode()).get("paths", [])
                self.send([one for path in wanted for one in hub.at(path)])

            def send_file(self, path: str) -> None:
                content = hub.corrupt.get(path, hub.files.get(path))
                if content is None:
                    return self.send_error(404)
                if self.command == "GET":
                    hub.asked.append(path)
                begin, end = 0, len(content)
                if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                    begin, end = int(match[1]), min(int(match[2] or end - 1) + 1, end)
                return self.send_bytes(content[begin:end], 206 if match else 200)

            def send(self, answer: Any) -> None:
                self.send_bytes(json.dumps(answer).encode(), 200)

            def send_bytes(self, content: bytes, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def at(self, path: str) -> list[dict[str, Any]]:
        """What is at a path: a file, a folder or nothing."""
        if path in self.files:
            content = self.files[path]
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob}
            if path.endswith(".onnx"):
                lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
                entry |= {"oid": "1" * 40, "lfs": lfs}
            return [entry]
        below = any(one.startswith(f"{path}/") for one in self.files)
        return [{"type": "directory", "path": path, "size": 0, "oid": "2" * 40}] if below else []

    def listed(self, folder: str) -> list[dict[str, Any]]:
        """All folders and files below a folder."""
        found = {path: None for path in self.files if not folder or path.startswith(f"{folder}/")}
        folders = {str(parent): None for path in found for parent in PurePosixPath(path).parents}
        return [entry for path in (*folders, *found) if path not in (".", folder) for entry in self.at(path)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    # As HF_ENDPOINT, which the library reads when it is imported.
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.address})
    yield server
    server.close()


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
    assert "1 file," in caplog.text
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


def test_a_repository_of_hugging_face_is_copied_once_and_checked(
    hub: Hub, models: Path, tmp_path: Path
) -> None:
    hub.files = {f"served/{path}": content for path, content in contents(models).items()}
    (first,) = sources.fetch("hf://some/models/served", str(tmp_path))
    assert contents(first) == contents(models)
    hub.asked = []
    assert sources.fetch("hf://some/models/served", str(tmp_path)) == [first]
    assert set(hub.asked) <= {f"served/{sources.SUMS}"}
    for path, kind in (("adder/model.toml", "Git SHA-1"), ("identity/1/model.onnx", "SHA-256")):
        hub.files[f"served/{path}"] = b"another content"
        hub.corrupt = {f"served/{path}": b"wrong at origin"}
        with pytest.raises(LoadError, match=rf"{path} has the {kind} \w+, not \w+ as in the repository"):
            sources.fetch("hf://some/models/served", str(tmp_path))
        hub.corrupt = {}
        (second,) = sources.fetch("hf://some/models/served", str(tmp_path))
        assert contents(second)[path] == b"another content"


def test_a_bucket_of_google_is_copied_once_checked_and_gone_on_with(
    google: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_BLOCK", 1 << 16)
    monkeypatch.setattr(sources, "_CHUNK", 1 << 16)
    large = bytes(range(256)) * 2048
    google.put(f"{models}/", "models/production/", recursive=True)
    google.pipe("models/production/large/1/model.onnx", large)
    (first,) = sources.fetch("gs://models/production", str(tmp_path / "a"))
    assert contents(first) == contents(models) | {"large/1/model.onnx": large}
    assert sources.fetch("gs://models/production", str(tmp_path / "a")) == [first]
    whole = sources._read
    begins: list[int] = []
    breaks = [True]

    def broken(system: Any, path: str, partial: Path, progress: Any) -> None:
        begins.append(partial.stat().st_size if partial.exists() else 0)
        if path.endswith("large/1/model.onnx") and breaks:
            breaks.clear()
            partial.write_bytes(large[: 1 << 17])
            raise OSError("the connection broke")
        whole(system, path, partial, progress)

    monkeypatch.setattr(sources, "_read", broken)
    (second,) = sources.fetch("gs://models/production", str(tmp_path / "b"))
    assert contents(second) == contents(first)
    assert 1 << 17 in begins
    digest = sources._announced(next(one for one in listed(google) if one.path == "large/1/model.onnx"))
    assert digest == ("MD5", hashlib.md5(large).hexdigest(), "its md5Hash")


def listed(system: Any) -> list[Any]:
    return sources._list(system, "models/production", "gs://models/production")


def test_old_states_of_a_repository_are_removed(web: Web, tmp_path: Path) -> None:
    folders = []
    for number in range(6):
        web.put({"a/1/model.onnx": b"%d" % number, "b/1/model.onnx": b"the same"})
        folders += sources.fetch(web.address, str(tmp_path))
    assert [Path(folder).exists() for folder in folders] == [False] * 3 + [True] * 3
    assert len(list((tmp_path / "models" / "files").iterdir())) == 4
    web.put({"a/1/model.onnx": b"3", "b/1/model.onnx": b"the same"})
    web.asked = []
    assert sources.fetch(web.address, str(tmp_path)) == [folders[3]]
    assert {path for path, _ in web.asked} == {sources.SUMS}, "a kept state is downloaded again"
    assert [Path(folder).exists() for folder in folders[3:]] == [True] * 3


def test_a_download_says_how_far_it_is_and_how_long_the_rest_takes(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "_PROGRESS_S", 0.0)
    web.put({"a/1/model.onnx": bytes(1 << 20), "b/1/model.onnx": b"1" * (1 << 20)})
    with caplog.at_level(logging.INFO, "lockstep_server.sources"):
        sources.fetch(web.address, str(tmp_path))
    first, *lines, last = (
        record.message.removeprefix(f"fetching {web.address}: ") for record in caplog.records
    )
    assert (first, last) == ("2 files, 2.1 MB", f"fetched {web.address}: 2 files, 2.1 MB")
    assert re.fullmatch(r"0 of 2 files, 1\.0 of 2\.1 MB, about \d+ s left", lines[0])
    assert lines[-1] == "1 of 2 files, 2.1 of 2.1 MB"


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

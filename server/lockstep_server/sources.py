"""Where models come from: folders, and addresses of buckets or web servers, which are copied into the cache.

`--models` -> `split` -> `fetch` -> folders. The rest of the server knows folders only, and nothing else
imports fsspec.

Of a remote repository, the cache holds each file by its hash (`files/`), a folder of links to them for each
state of the repository and a list of its files (`repositories/`), and which states an address had, the last
one first (`addresses/`). A folder appears in one step, when all of its files have been checked. Files that
were begun go on where they ended. The last `KEPT_STATES` of an address stay, older ones are removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from base64 import b64decode
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
"""A file of the repository with lines `HASH  PATH`, as `sha256sum` writes them. Web servers list no files, so
`https://` needs it; elsewhere it is checked if it is there."""

KEPT_STATES = 3
"""States of a remote repository that stay in the cache: a server that serves an earlier one goes on with
it."""

SCHEMES = ("s3", "gs", "hf", "https", "http")
_FILES = ".json"
"""Suffix of the list of a state's files: their paths and keys."""

_ATTEMPTS = 3
_CHUNK = 1 << 20
_BLOCK = 8 << 20
"""Bytes that are asked for at once, and lost if the connection breaks meanwhile."""

_PROGRESS_S = 5.0
_TAGS = ("sha256", "md5Hash", "ETag", "etag", "blob_id", "oid", "LastModified", "mtime", "updated")
"""Keys with which file systems of fsspec say that the content of a file is another, the surest first."""


@dataclass(frozen=True)
class _File:
    """A file of a remote repository. `tag` is the same as long as its content is."""

    path: str  # relative to the repository
    size: int | None
    tag: str
    sha256: str = ""  # if known

    @property
    def key(self) -> str:
        return self.sha256 or hashlib.sha256(f"{self.path}\n{self.size}\n{self.tag}".encode()).hexdigest()


def split(models: str) -> list[str]:
    """The repositories that `--models` names, separated by commas. A folder may have commas in its name."""
    if os.path.isdir(models):
        return [models]
    return [part.strip() for part in models.split(",") if part.strip()]


def joined(folders: list[str]) -> str:
    """What `split` takes apart."""
    return ",".join(folders)


def is_remote(repository: str) -> bool:
    return repository.partition("://")[0] in SCHEMES and "://" in repository


def fetch(models: str, cache: str) -> list[str]:
    """The folders of all repositories, after remote ones have been copied into the cache.

    Raises:
        LoadError: a repository cannot be read, is broken, or needs packages that are missing.
    """
    folders = []
    for repository in split(models) or [models]:
        if not is_remote(repository):
            folders.append(repository)
            continue
        if not cache:
            raise LoadError(f"--models {repository}: needs a cache folder; set --cache")
        folders.append(str(_fetch(repository.rstrip("/"), Path(cache).expanduser() / "models")))
    return folders


def _fetch(address: str, cache: Path) -> Path:
    with _locked(cache):
        record = cache / "addresses" / hashlib.sha256(address.encode()).hexdigest()
        try:
            system, root = _open(address)
            files = _list(system, root, address)
        except LoadError as error:
            last = cache / "repositories" / (record.read_text().split() if record.exists() else ["none"])[0]
            if not last.is_dir():
                raise
            log.warning("%s; serving the copy of it in the cache", error)
            return last
        state = json.dumps([(file.path, file.key) for file in files])
        name = hashlib.sha256(state.encode()).hexdigest()
        folder = cache / "repositories" / name
        if not folder.is_dir():
            _copy(system, root, address, files, cache, folder)
        folder.with_suffix(_FILES).write_text(state)
        before = record.read_text().split() if record.exists() else []
        record.parent.mkdir(exist_ok=True)
        record.write_text("\n".join([name, *(one for one in before if one != name)][:KEPT_STATES]))
        if [name] != before[:1]:
            _prune(cache)
        return folder


def _prune(cache: Path) -> None:
    """Remove the states that no address keeps, and the files of none."""
    kept = {name for record in (cache / "addresses").iterdir() for name in record.read_text().split()}
    used: set[str] = set()
    for folder in (cache / "repositories").iterdir():
        if folder.suffix == _FILES:
            if folder.stem in kept:
                used |= {key for _, key in json.loads(folder.read_text())}
        elif folder.name not in kept:
            log.info("removing %s, a state of a repository that is no longer kept", folder)
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(_FILES).unlink(missing_ok=True)
    for file in (cache / "files").iterdir():
        if file.name.removesuffix(".part") not in used:
            file.unlink()


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One server at a time fills a cache; others wait, and find what it has fetched."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / "lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise LoadError(
            f"--cache: {cache} cannot be written ({error.strerror}); set another folder"
        ) from error
    with lock:
        with suppress(ImportError):  # no such locks on this system
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _open(address: str) -> tuple[Any, str]:
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(address)
        system.invalidate_cache()  # of listings, which this process may have from before
    except ImportError as error:
        raise LoadError(
            f"--models {address} needs {error.name or error}: install the extra with"
            " pip install 'lockstep-inference[remote]'"
        ) from error
    except Exception as error:
        raise _unreadable(address, error) from error
    return system, root


def _unreadable(what: str, error: Exception) -> LoadError:
    return LoadError(f"--models {what}: cannot be read ({type(error).__name__}: {error})")


def _list(system: Any, root: str, address: str) -> list[_File]:
    """The files of a repository, sorted by path.

    Raises:
        LoadError: it cannot be listed, is empty, or names files outside of itself.
    """
    sums = _sums(system, root, address)
    if address.startswith("http"):
        if not sums:
            raise LoadError(
                f"--models {address}: no {SUMS} there, which lists the files; write it with sha256sum"
            )
        files = [_File(path, None, "", digest) for path, digest in sums.items()]
    else:
        try:
            found = system.find(root, detail=True)
        except Exception as error:
            raise _unreadable(address, error) from error
        names = {str(info["name"])[len(root) :].lstrip("/"): info for info in found.values()}
        if missing := sums.keys() - names.keys():
            raise LoadError(
                f"--models {address}: {SUMS} names {min(missing)}, which is not there; upload it again"
            )
        files = [
            _File(path, info.get("size"), _tag(info), sums.get(path, ""))
            for path, info in names.items()
            if path and path != SUMS and info.get("type", "file") == "file"
        ]
    if not files:
        raise LoadError(
            f"--models {address}: no files there; name the folder that has a folder for each model"
        )
    for file in files:
        if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
            raise LoadError(f"--models {address}: {file.path!r} is outside of the repository")
    return sorted(files, key=lambda file: file.path)


def _sums(system: Any, root: str, address: str) -> dict[str, str]:
    try:
        text = system.cat_file(f"{root}/{SUMS}").decode()
    except FileNotFoundError:
        return {}
    except Exception as error:
        raise _unreadable(f"{address}/{SUMS}", error) from error
    sums = {}
    for line in filter(None, text.splitlines()):
        if (match := re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line)) is None:
            raise LoadError(f"--models {address}: {SUMS}: {line[:80]!r} is not `HASH  PATH`")
        sums[match[2]] = match[1]
    return sums


def _tag(info: dict[str, Any]) -> str:
    lfs = info.get("lfs") or {}
    return next((f"{key} {value}" for key in _TAGS if (value := lfs.get(key) or info.get(key))), "")


def _copy(system: Any, root: str, address: str, files: list[_File], cache: Path, folder: Path) -> None:
    """Fetch the files that the cache lacks, then make the folder.

    Raises:
        LoadError: a file cannot be read, or is not what was announced.
    """
    store, partial = cache / "files", folder.with_name(f"{folder.name}.part")
    store.mkdir(exist_ok=True)
    missing = [file for file in files if not (store / file.key).exists()]
    progress = _Progress(address, len(missing), _size(system, root, missing))
    for file in missing:
        _fetch_file(system, root, address, file, store, progress)
        progress.done()
    shutil.rmtree(partial, ignore_errors=True)
    for file in files:
        target = partial / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(store / file.key, target)
        except OSError:  # a file system without links
            shutil.copyfile(store / file.key, target)
    partial.rename(folder)


def _size(system: Any, root: str, files: list[_File]) -> int:
    """Bytes of all files; 0 if the source does not know them of each."""
    unknown = [f"{root}/{file.path}" for file in files if file.size is None]
    try:
        asked = system.sizes(unknown) if unknown else []
    except Exception:  # reading them will say why, if it fails too
        return 0
    sizes = [*asked, *(file.size for file in files if file.size is not None)]
    return 0 if None in sizes else sum(sizes)


class _Progress:
    """Logs how much has been fetched, every few seconds, and about how long the rest takes."""

    def __init__(self, address: str, files: int, size: int) -> None:
        self._address, self._files, self._size = address, files, size
        self._done = self._bytes = 0
        self._begun = time.monotonic()
        self._next = self._begun + _PROGRESS_S
        self._all = f"{files} file{'s' * (files != 1)}"
        if files:
            log.info("fetching %s: %s%s", address, self._all, f", {size / 1e6:.1f} MB" if size else "")

    def add(self, size: int) -> None:
        self._bytes += size
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_S
            log.info("fetching %s: %s", self._address, self._line(now - self._begun))

    def _line(self, seconds: float) -> str:
        whole = f" of {self._size / 1e6:.1f}" if self._size else ""
        left = ""
        if self._bytes < self._size:
            left = f", about {seconds * (self._size - self._bytes) / self._bytes:.0f} s left"
        return f"{self._done} of {self._all}, {self._bytes / 1e6:.1f}{whole} MB{left}"

    def done(self) -> None:
        self._done += 1
        if self._done == self._files:
            log.info("fetched %s: %s, %.1f MB", self._address, self._all, self._bytes / 1e6)


def _fetch_file(system: Any, root: str, address: str, file: _File, store: Path, progress: _Progress) -> None:
    """
    Raises:
        LoadError: it cannot be read, or is not what was announced.
    """
    partial = store / f"{file.key}.part"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _read(system, f"{root}/{file.path}", partial, progress)
        except Exception as error:
            if attempt == _ATTEMPTS:
                raise _unreadable(f"{address}/{file.path}", error) from error
            log.warning("%s/%s: %s; trying again", address, file.path, error)
            continue
        if not (why := _difference(file, partial)):
            partial.rename(store / file.key)
            return
        partial.unlink()  # not to go on after wrong bytes
        if attempt == _ATTEMPTS:
            raise LoadError(f"--models {address}: {file.path} {why}; upload it again")


def _read(system: Any, path: str, partial: Path, progress: _Progress) -> None:
    """Read a file from where the partial one ends; from its begin if the source cannot do that."""
    begun = partial.stat().st_size if partial.exists() else 0
    with system.open(path, "rb", block_size=_BLOCK) as source:
        if begun:
            try:
                source.seek(begun)
            except Exception:  # the source takes no ranges, or the file is shorter now
                begun = 0
        if not begun:
            with suppress(Exception):
                source.seek(0)
        with open(partial, "r+b" if begun else "wb") as target:
            target.seek(begun)
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                progress.add(len(chunk))
            target.truncate()


def _difference(file: _File, fetched: Path) -> str:
    """How a fetched file differs from what was announced; "" if it does not."""
    size = fetched.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size} bytes, not {file.size}"
    algorithm, expected, where = _announced(file)
    if expected and (found := _hash(fetched, algorithm)) != expected:
        return f"has the {algorithm} {found}, not {expected} as {where}"
    return ""


def _announced(file: _File) -> tuple[str, str, str]:
    """The hash that a file should have: its algorithm, its hexadecimal digits ("": not known), and who says
    so."""
    if file.sha256:
        return "SHA-256", file.sha256, f"in {SUMS}"
    kind, _, value = file.tag.partition(" ")
    if kind == "sha256":  # of a file in Git LFS, by Hugging Face
        return "SHA-256", value, "in the repository"
    if kind == "blob_id" and re.fullmatch(r"[0-9a-f]{40}", value):  # of any other file there
        return "Git SHA-1", value, "in the repository"
    if kind == "md5Hash":  # by Google Cloud Storage
        return "MD5", b64decode(value).hex(), "its md5Hash"
    etag = re.fullmatch(r'ETag "?([0-9a-f]{32})"?', file.tag)  # by S3, of an object in one part
    return "MD5", etag[1] if etag else "", "its ETag"


_ALGORITHMS = {"SHA-256": "sha256", "MD5": "md5", "Git SHA-1": "sha1"}


def _hash(file: Path, algorithm: str) -> str:
    digest = hashlib.new(_ALGORITHMS[algorithm], usedforsecurity=False)
    if algorithm == "Git SHA-1":
        digest.update(f"blob {file.stat().st_size}\0".encode())
    with open(file, "rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

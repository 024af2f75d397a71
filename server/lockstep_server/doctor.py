"""Checks what a server with these settings would need, and serves nothing.

`python -m lockstep_server.doctor [FLAGS]` → settings → device, cache, TLS and auth files, models → one JSON
object on stdout. `lockstep doctor` runs it, adds what needs no server, and shows all of it. Models are opened
as the loader opens them, but not run: the self-test would take as long as a start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, sources
from .api import access
from .engine.loading import repository
from .engine.loading.loader import open_graphs
from .engine.runtime.device import RUNTIME_VERSION, choose_device, providers
from .errors import LoadError
from .metrics.families import Metrics
from .settings import Settings, command

if TYPE_CHECKING:
    from collections.abc import Iterator

SUMS = "SHA256SUMS"
"""The file of a repository with the hashes of what it came with, as `sha256sum` writes it."""


@dataclass(frozen=True)
class Finding:
    """What one check found. `remedy` says what to do, if anything."""

    check: str
    state: str  # ok, warning or problem
    detail: str
    remedy: str = ""


def diagnose(settings: Settings) -> Iterator[Finding]:
    """All findings for a server with these settings."""
    yield _device(settings)
    yield _cache(settings)
    yield from _access(settings)
    yield from _models(settings)


def _device(settings: Settings) -> Finding:
    available = ", ".join(name.removesuffix("ExecutionProvider") for name in providers())
    runtime = f"ONNX Runtime {RUNTIME_VERSION} with {available}"
    logged = _Logged()
    try:
        device = choose_device(settings.device, settings.device_id, settings.gpu_memory_mb << 20)
    except LoadError as error:
        return _problem("device", f"{runtime}; {error}")
    finally:
        logged.stop()
    if logged.messages:
        return Finding(
            "device", "warning", f"{runtime}; {logged.messages[-1]}", "set --device cpu if that is meant"
        )
    return Finding("device", "ok", f"{runtime}; models run on {device.name}")


def _cache(settings: Settings) -> Finding:
    if not settings.cache:
        return Finding("cache", "ok", "off: models are measured at each start")
    folder = Path(settings.cache).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        remedy = "give the server's user the right to write there, or set --cache; each start measures anew"
        return Finding("cache", "warning", f"{folder} cannot be written: {error.strerror}", remedy)
    return Finding("cache", "ok", f"{folder}: {len(list(folder.glob('*.json')))} measurements")


def _access(settings: Settings) -> Iterator[Finding]:
    try:
        access.certificate_files(settings)
        access.guard(settings, Metrics(enabled=False))
    except LoadError as error:
        yield _problem("access", str(error))
        return
    encrypted = "TLS" if settings.tls_cert else "no TLS"
    callers = f"callers of {settings.auth_file}" if settings.auth_file else "everybody may call"
    yield Finding("access", "ok", f"listens on {settings.grpc_host}, {encrypted}, {callers}")


def _models(settings: Settings) -> Iterator[Finding]:
    places = sources.split(settings.models)
    remote = [place for place in places if sources.is_remote(place)]
    if remote:
        yield Finding("remote models", "ok", f"not looked at before the start: {', '.join(remote)}")
    roots = [Path(place) for place in places if place not in remote]
    try:
        entries = repository.find_models(*roots)
    except LoadError as error:
        yield _problem("models", str(error))
        return
    selected = {name.strip() for name in settings.only.split(",") if name.strip()}
    unknown = sorted(selected - {entry.name for entry in entries})
    if unknown and not remote:
        yield _problem("models", f"--only {unknown[0]}: unknown model in {settings.models}; correct the name")
    for root in roots:
        for name in repository.folders_without_versions(root):
            detail = f"{root / name} has no version"
            yield Finding(f"model {name}", "warning", detail, "put the graph into 1/model.onnx")
    entries = [entry for entry in entries if not selected or entry.name in selected]
    if not entries and not remote:
        remedy = "put models there as NAME/1/model.onnx, or set --models; examples: are those of the package"
        yield Finding("models", "warning", f"{settings.models} has no model", remedy)
    opened = 0
    for entry in entries:
        try:
            open_graphs(entry)
            opened += 1
        except LoadError as error:
            yield _problem(f"model {entry.name}", f"version {entry.version}: {error}")
        except Exception as error:
            yield _problem(f"model {entry.name}", f"version {entry.version}: {type(error).__name__}: {error}")
    if opened:
        versions = f"version{'s' * (len(entries) != 1)}"
        detail = f"{opened} of {len(entries)} {versions} in {settings.models} can be opened"
        yield Finding("models", "ok", detail)
    for root in roots:
        if (root / SUMS).exists():
            yield _hashes(root)


def _hashes(root: Path) -> Finding:
    """Compare the files of the models that are there with the hashes that the repository came with."""
    count, changed = 0, []
    for line in (root / SUMS).read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        file = root / name
        if not (root / Path(name).parts[0]).is_dir():
            continue  # another selection of models
        count += 1
        try:
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError:
            found = ""
        if found != wanted:
            changed.append(name)
    if changed:
        names = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        remedy = f"copy them again, or remove their lines from {root / SUMS} if you changed them"
        return Finding(
            "hashes", "problem", f"{len(changed)} of {count} files are not those of {SUMS}: {names}", remedy
        )
    return Finding("hashes", "ok", f"all {count} are those of {SUMS}")


def _problem(check: str, message: str) -> Finding:
    """A problem from a message whose last clause is the remedy."""
    detail, _, remedy = message.rpartition("; ")
    return Finding(check, "problem", detail or remedy, remedy if detail else "")


class _Logged(logging.Handler):
    """Collects what is logged until it is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def stop(self) -> None:
        logging.getLogger().removeHandler(self)


def _report(settings: Settings) -> int:
    findings = [asdict(finding) for finding in diagnose(settings)]
    shown: dict[str, Any] = {"version": __version__, "settings": asdict(settings), "findings": findings}
    print(json.dumps(shown))
    return 0


if __name__ == "__main__":
    command(_report, __version__).main(standalone_mode=True)

"""What is wrong with an installation, a machine or a server, and what to do about it.

packages → machine → the server's own checks, in its process → its ports → a running server → `Finding`s

A server that is to run here needs all of it; a client needs the packages and the running server only.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep_client.tables import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.requirements import Requirement

    from lockstep_client.client import Client
    from lockstep_client.diagnosis import Endpoint

DISTRIBUTION = "lockstep-inference"
FEW_FILES, LITTLE_MEMORY, LITTLE_DISK, LITTLE_SHARED = 4096, 1 << 30, 100 << 20, 64 << 20
"""Open files, and bytes of memory, disk and shared memory, below which a server soon meets the limit."""

FEW_DAYS = 14
"""How long before its end a certificate should be renewed."""

_CHECK_TIMEOUT_S = 120.0
_CALL_TIMEOUT_S = 5.0
_TIME_ERROR = 5
"""What adjtimex(2) returns if nothing synchronizes the clock."""


@dataclass(frozen=True)
class Finding:
    """What one check found. `remedy` says what to do, if anything."""

    check: str
    state: str
    """ok, warning or problem."""
    detail: str
    remedy: str = ""


def packages() -> Iterator[Finding]:
    """Python, and the packages of the distribution and its extras, against their bounds."""
    from packaging.specifiers import SpecifierSet

    about = metadata.metadata(DISTRIBUTION)
    python, wanted = ".".join(map(str, sys.version_info[:3])), about["Requires-Python"]
    if python in SpecifierSet(wanted):
        yield Finding("python", "ok", f"Python {python}, {sys.executable}")
    else:
        yield Finding("python", "problem", f"Python {python}", f"use a Python {wanted}")
    complete, incomplete, wrong = [], [], dict[str, str]()
    for extra in ("", *(about.get_all("Provides-Extra") or ())):
        missing, outside = _faults(extra)
        wrong |= {fault: extra for fault in outside if fault not in wrong}
        if not missing:
            complete.append(extra or "client")
        elif extra != "dev":
            incomplete.append(f"{extra} ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''})")
    for fault, extra in wrong.items():
        distribution = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
        yield Finding("packages", "problem", fault, f"pip install '{distribution}'")
    version = metadata.version(DISTRIBUTION)
    yield Finding("packages", "ok", f"{DISTRIBUTION} {version} with {', '.join(complete)}")
    if incomplete:
        remedy = f"for one of them: pip install '{DISTRIBUTION}[{incomplete[0].partition(' ')[0]}]'"
        yield Finding("extras", "ok", f"not installed: {', '.join(incomplete)}", remedy)


def _faults(extra: str) -> tuple[list[str], list[str]]:
    """Packages of an extra that are missing, and what is wrong with the versions of others."""
    missing, outside = [], []
    for requirement in _requirements(extra):
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            outside.append(f"{requirement.name} {installed} is installed, {requirement.specifier} is needed")
    return missing, outside


def _requirements(extra: str) -> Iterator[Requirement]:
    """What the distribution needs with an extra, those of other extras that it takes in among them."""
    from packaging.requirements import Requirement

    for text in metadata.requires(DISTRIBUTION) or ():
        one = Requirement(text)
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        if one.name == DISTRIBUTION:
            for inner in sorted(one.extras):
                yield from _requirements(inner)
        else:
            yield one


def machine() -> Iterator[Finding]:
    """What a server on this machine may run short of."""
    yield _cores()
    yield _memory()
    yield _open_files()
    yield _disk()
    yield _clock()


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    share = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else float(cores)
    if share < 1:
        return Finding("cores", "warning", f"{share:.1f} of a core", "give it at least one core")
    return Finding("cores", "ok", f"{min(share, cores):g}")


def _memory() -> Finding:
    free = _available_bytes()
    if free is None:
        return Finding("memory", "ok", "not known on this system")
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    if free < LITTLE_MEMORY:
        remedy = "end other programs, or serve fewer models with --only"
        return Finding("memory", "warning", f"{_size(free)} free", remedy)
    return Finding("memory", "ok", f"{_size(free)} free")


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup(name: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:  # no container, or cgroups of version 1
        return ""


def _open_files() -> Finding:
    try:
        import resource
    except ImportError:
        return Finding("open files", "ok", "no limit is known on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEW_FILES:
        remedy = f"each connection takes one: ulimit -n {min(hard, 65536) if hard > soft else 65536}"
        return Finding("open files", "warning", f"at most {soft:,}", remedy)
    return Finding("open files", "ok", f"at most {soft:,}")


def _disk() -> Finding:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", "problem", f"{folder}: {error.strerror}", "set TMPDIR to a folder that exists")
    if free < LITTLE_DISK:
        return Finding("disk", "warning", f"{_size(free)} free in {folder}", "delete files, or set TMPDIR")
    return Finding("disk", "ok", f"{_size(free)} free in {folder}")


def _clock() -> Finding:
    now = datetime.now(UTC)
    built = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    if now < built:
        detail = f"{now:%Y-%m-%d %H:%M} UTC is before {built:%Y-%m-%d}, when this was installed"
        return Finding("clock", "problem", detail, "set the clock: certificates are not valid otherwise")
    if _is_unsynchronized():
        remedy = "start an NTP client: logs and traces of several machines do not fit together otherwise"
        return Finding("clock", "warning", f"{now:%Y-%m-%d %H:%M} UTC, not synchronized", remedy)
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")


def _is_unsynchronized() -> bool:
    """Whether the kernel knows that nothing synchronizes its clock. Linux only."""
    try:
        return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == _TIME_ERROR)
    except (OSError, AttributeError, TypeError):
        return False


def server_checks(flags: list[str]) -> tuple[list[Finding], dict[str, Any]]:
    """What a server with these flags would find, and its settings; they are empty if it is not installed."""
    command = [sys.executable, "-m", "lockstep_server.doctor", *flags]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_CHECK_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        detail = f"its checks did not end within {_CHECK_TIMEOUT_S:g} s"
        return [
            Finding("server", "problem", detail, "look at the models with lockstep-serve --log-level debug")
        ], {}
    if ended.returncode == 0:
        found = json.loads(ended.stdout)
        return [Finding(**one) for one in found["findings"]], found["settings"]
    said = (ended.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("Error: ")
    if said.startswith("ModuleNotFoundError"):
        install = f"to serve here: pip install '{DISTRIBUTION}[server-cpu]', or [server-gpu]"
        return [Finding("server", "ok", f"not installed ({said.rpartition(' ')[2]} is missing)", install)], {}
    return [
        Finding(
            "server", "problem", f"its settings are not valid: {said}", "correct the flag, variable or file"
        )
    ], {}


def ports(settings: dict[str, Any]) -> Iterator[Finding]:
    """Whether the ports of these settings are free, and else who answers there."""
    host = settings["host"] or "127.0.0.1"
    for name, flag, place in (
        ("gRPC port", "--port", (host, settings["port"])),
        ("HTTP port", "--metrics-port", (settings["metrics_host"] or host, settings["metrics_port"])),
    ):
        yield _port(name, flag, *place)


def _port(name: str, flag: str, host: str, port: int) -> Finding:
    from lockstep_client.diagnosis import listener

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno != 98:  # EADDRINUSE
            return Finding(name, "problem", f"{host}:{port}: {error.strerror}", f"set --host or {flag}")
        answers = listener(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        if "Lockstep" in answers:
            return Finding(name, "ok", f"{port} is taken by {answers}", f"for another server: {flag} N")
        return Finding(
            name, "problem", f"{port} is taken by {answers}", f"end it, or set {flag} to another port"
        )
    return Finding(name, "ok", f"{port} is free" if port else "chosen by the system")


def shared_memory(settings: dict[str, Any]) -> Finding:
    """POSIX shared memory, which tensors may come in if the settings say so."""
    if not settings["shared_memory_keys"]:
        return Finding("shared memory", "ok", "not used")
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        remedy = "mount it, or leave --shared-memory-keys out"
        return Finding("shared memory", "problem", f"/dev/shm: {error.strerror}", remedy)
    if free < LITTLE_SHARED:
        return Finding(
            "shared memory", "warning", f"{_size(free)} free", "docker run --shm-size 1g, for instance"
        )
    return Finding("shared memory", "ok", f"{_size(free)} free in /dev/shm")


def running(client: Client, endpoint: Endpoint) -> Iterator[Finding]:
    """A server that runs: whether it answers, its version, its health and its models."""
    from lockstep_client.diagnosis import expiry, why_unreachable
    from lockstep_client.errors import LockstepError

    try:
        about = client.server(timeout_s=_CALL_TIMEOUT_S)
    except LockstepError as error:
        why = why_unreachable(*endpoint) or error.message
        detail, _, remedy = why.rpartition("; ")
        yield Finding("connection", "problem", f"{client.address}: {detail or why}", remedy if detail else "")
        return
    yield _version(client.address, about.name, about.version)
    if endpoint.tls and (until := expiry(*endpoint)) is not None:
        days = (until - datetime.now(UTC)).days
        if days > FEW_DAYS:
            yield Finding("certificate", "ok", f"valid for {counted(days, 'day')}")
        else:
            yield Finding("certificate", "warning", f"valid for {counted(days, 'day')}", "renew it")
    begun = time.monotonic()
    try:
        healthy = client.health(timeout_s=_CALL_TIMEOUT_S).serving
        states = client.models(timeout_s=_CALL_TIMEOUT_S)
    except LockstepError as error:
        yield Finding("health", "problem", error.message)
        return
    ms = (time.monotonic() - begun) * 500
    loading = sum(state.state == "LOADING" for state in states)
    detail = f"{counted(len(states), 'model form')}, {ms:.1f} ms a call"
    if healthy:
        yield Finding("health", "ok", f"SERVING, {detail}")
    elif loading:
        yield Finding("health", "warning", f"{detail}, {loading} loading", "lockstep health --wait 600")
    else:
        yield Finding("health", "problem", f"NOT SERVING, {detail}", "see its log, or the models below")
    for state in states:
        if state.state == "UNAVAILABLE":
            yield Finding(f"model {state.name}", "problem", f"version {state.version}: {state.reason}")
        elif state.state == "READY" and state.reason:
            yield Finding(f"model {state.name}", "warning", state.reason)


def _version(address: str, name: str, version: str) -> Finding:
    mine = metadata.version(DISTRIBUTION)
    if name != "lockstep":
        return Finding(
            "connection", "warning", f"{address}: {name} {version}", "only the calls of Triton work there"
        )
    if version.split(".")[:2] != mine.split(".")[:2]:
        return Finding(
            "connection",
            "warning",
            f"{address}: Lockstep {version}, this client is {mine}",
            "install the same",
        )
    return Finding("connection", "ok", f"{address}: Lockstep {version}")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"

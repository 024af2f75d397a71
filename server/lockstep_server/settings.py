"""The server's settings: one definition for flag, environment variable and TOML key.

A field `max_run_ms` is the flag `--max-run-ms`, the variable `LOCKSTEP_MAX_RUN_MS` and the key
`max_run_ms` of the file that `--config` names. A flag wins over the environment, the environment
over the file, the file over the default.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from collections.abc import Callable


def _setting(default: Any, help_: str, kind: Any = None) -> Any:
    return field(default=default, metadata={"help": help_, "kind": kind})


def url(value: str) -> str:
    """`http://HOST:PORT` or `https://HOST:PORT`."""
    found = urlsplit(value)
    try:
        there = found.scheme in ("http", "https") and bool(found.hostname) and found.port is not None
    except ValueError:  # the port is no port
        there = False
    if not there:
        raise click.BadParameter(f"{value!r} is no address; write http://HOST:PORT, or https:// for TLS")
    return value


_PORT = click.IntRange(0, 65535)
_ABOVE_ZERO = click.FloatRange(0, min_open=True)


@dataclass(frozen=True)
class Settings:
    """All that can be set. The metadata is the definition; see `command`."""

    models: str = _setting("models", "Folder that holds the models.", click.Path())
    host: str = _setting("0.0.0.0", "Address to listen on.")
    port: int = _setting(8001, "Port of the gRPC services; 0 takes a free one.", _PORT)
    metrics_port: int = _setting(8002, "Port of /metrics and /healthz; 0 takes a free one.", _PORT)
    device: str = _setting("auto", "Where models run.", click.Choice(["auto", "cpu", "cuda"]))
    engine: str = _setting(
        "process" if os.name == "posix" else "thread",
        "Where the engines are: a process of their own, or threads.",
        click.Choice(["process", "thread"]),
    )
    engine_nice: int = _setting(
        5,
        "How far one-shot runs in an engine process let others go first where cores are short.",
        click.IntRange(0, 19),
    )
    only: str = _setting("", "Serve these models only, comma-separated. Empty: all.")
    batching: bool = _setting(True, "Let requests share runs.")
    max_run_ms: float = _setting(
        20.0, "Longest run planned while another model wants the device.", _ABOVE_ZERO
    )
    max_flush_ms: float = _setting(
        20.0, "Longest time that a stream's tokens are held back on a busy server.", click.FloatRange(0)
    )
    max_stall_s: float = _setting(
        30.0, "A stream whose reader takes nothing for this long is ended.", _ABOVE_ZERO
    )
    max_message_mb: int = _setting(64, "Largest message taken in.", click.IntRange(1, 2047))
    max_stream_inflight: int = _setting(
        1024, "Requests in flight on one stream before its reader waits.", click.IntRange(1)
    )
    model_control: str = _setting(
        "none", "explicit: clients may load and unload models.", click.Choice(["none", "explicit"])
    )
    reflection: bool = _setting(True, "Answer gRPC reflection, for tools such as grpcurl.")
    tokenizer_workers: int = _setting(1, "Threads that turn text into ids.", click.IntRange(1, 64))
    drain_s: float = _setting(
        10.0, "Longest time that requests in flight get at the end.", click.FloatRange(0)
    )
    cache: str = _setting(
        "~/.cache/lockstep", "Folder for measured costs and self-tests; empty: none.", click.Path()
    )
    metrics: bool = _setting(True, "Count, and answer /metrics.")
    traces: str = _setting(
        "off", "Where spans of calls go: nowhere, or to a collector by OTLP.", click.Choice(["off", "otlp"])
    )
    traces_endpoint: str = _setting("http://localhost:4317", "The collector of OTLP over gRPC.", url)
    traces_ratio: float = _setting(
        1.0, "Share of calls sampled, of those whose callers decide nothing.", click.FloatRange(0, 1)
    )
    log_level: str = _setting(
        "info", "Least level logged.", click.Choice(["debug", "info", "warning", "error"])
    )
    log_format: str = _setting("text", "How lines of the log are written.", click.Choice(["text", "json"]))
    log_texts: bool = _setting(False, "Let the log quote what callers send.")


def command(run: Callable[[Settings], int], version: str) -> click.Command:
    """The command line: builds `Settings`, or prints them, or ends with a usage error (exit 2)."""

    def invoke(config: Any, show_settings: bool, **values: Any) -> int:  # noqa: ARG001
        if show_settings:
            _show(click.get_current_context(), values)
            return 0
        return run(Settings(**values))

    options: list[click.Parameter] = [
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False),
            is_eager=True,
            expose_value=True,
            envvar="LOCKSTEP_CONFIG",
            callback=_read_config,
            help="TOML file of settings; its keys are the flags' names with underscores.",
        ),
        click.Option(
            ["--show-settings"], is_flag=True, help="Print every setting, where it comes from, and end."
        ),
        *(_option(name) for name in _FIELDS),
    ]
    built = click.Command(
        "lockstep-serve", callback=invoke, params=options, help="Serve trained sequence models over gRPC."
    )
    return click.version_option(version, prog_name="lockstep-serve")(built)


_FIELDS = {one.name: one for one in fields(Settings)}


def _option(name: str) -> click.Option:
    one = _FIELDS[name]
    assert one.default is not MISSING
    flag = "--" + name.replace("_", "-")
    boolean = isinstance(one.default, bool)
    return click.Option(
        [f"{flag}/--no-{flag[2:]}" if boolean else flag],
        type=None if boolean else one.metadata["kind"] or type(one.default),
        default=one.default,
        envvar=f"LOCKSTEP_{name.upper()}",
        show_default=True,
        show_envvar=True,
        help=one.metadata["help"],
    )


def _read_config(context: click.Context, parameter: click.Parameter, file: str | None) -> str | None:
    """Make the file's values the defaults that flags and environment override."""
    if file is None:
        return None
    try:
        content = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        _refuse(context, parameter, f"{file}: not valid TOML: {error}; correct the line named")
    for key, value in content.items():
        if key not in _FIELDS:
            close = difflib.get_close_matches(key, _FIELDS, 1)
            hint = f"did you mean {close[0]!r}?" if close else "see --show-settings for the keys"
            _refuse(context, parameter, f"{file}: {key}: unknown key; {hint}")
        _check_kind(context, parameter, file, key, value)
    context.default_map = content
    return file


def _check_kind(context: click.Context, parameter: click.Parameter, file: str, key: str, value: Any) -> None:
    default = _FIELDS[key].default
    wanted = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        name = "number" if isinstance(default, float) else type(default).__name__
        _refuse(context, parameter, f"{file}: {key}: {value!r} does not fit; write a {name}")
    try:
        _option(key).type.convert(value, None, context)
    except click.BadParameter as error:
        _refuse(context, parameter, f"{file}: {key}: {error.message}")


def _refuse(context: click.Context, parameter: click.Parameter, why: str) -> NoReturn:
    raise click.BadParameter(why, context, parameter)


_SOURCES = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}


def _show(context: click.Context, values: dict[str, Any]) -> None:
    """One line a setting, as TOML that `--config` reads back, with its source as a comment."""
    for name in _FIELDS:
        source = context.get_parameter_source(name)
        told = _SOURCES.get(source.name, source.name.lower()) if source else "default"
        click.echo(f"{name} = {_toml(values[name])}  # {told}")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return str(value)

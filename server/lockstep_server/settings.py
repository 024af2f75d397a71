"""Server settings. Each is defined once, for the flag, the environment variable and the TOML key.

The field `max_run_ms` is the flag `--max-run-ms`, the variable `LOCKSTEP_MAX_RUN_MS` and the key
`max_run_ms` in the file given by `--config`. Precedence: flag, environment, file, default.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import click

from .durations import LARGEST_COUNT, LONGEST_S

if TYPE_CHECKING:
    from collections.abc import Callable


def _setting(default: Any, help_: str, type_: Any = None, bare: Any = None) -> Any:
    """`bare` is the value of a flag without one."""
    return field(default=default, metadata={"help": help_, "type": type_, "bare": bare})


def host_name(value: str) -> str:
    """A host without the brackets that IPv6 addresses have before a port."""
    return value[1:-1] if value.startswith("[") and value.endswith("]") else value


def host_and_port(host: str, port: int) -> str:
    """`HOST:PORT`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url(value: str) -> str:
    """Check that the value is `http://HOST:PORT` or `https://HOST:PORT`, and return it."""
    parts = urlsplit(value)
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:  # the port is not a number, or out of range
        valid = False
    if not valid:
        raise click.BadParameter(f"invalid URL {value!r}; use http://HOST:PORT, or https://HOST:PORT for TLS")
    return value


EXAMPLES = "examples:"


def repositories(value: str) -> str:
    """Model repositories, separated by commas: `examples:` is the models that the package brings along."""
    if not value.strip(" ,"):
        raise click.BadParameter(f"empty; name a folder of models, an address, or {EXAMPLES}")
    if EXAMPLES not in value.split(","):
        return value
    return ",".join(_examples() if part == EXAMPLES else part for part in value.split(","))


def _examples() -> str:
    package = Path(__file__).resolve().parent
    for folder, proof in (
        (package / "examples", package),
        (package.parents[1] / "models", package.parents[1] / "setup.py"),
    ):
        if folder.is_dir() and proof.exists():  # of a wheel; of a checkout
            return str(folder)
    raise click.BadParameter(
        f"{EXAMPLES} was given, but this package was built without models; name a folder"
    )


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A finite duration of at least 0, in seconds or milliseconds; more than a year counts as a year."""

    def __init__(self, *, per_s: int = 1, zero: bool = False) -> None:
        self.name = "float"
        self._longest, self._zero = LONGEST_S * per_s, zero

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return "FLOAT RANGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number) or number < 0 or (number == 0 and not self._zero):
            least = "of 0 or more" if self._zero else "above 0"
            self.fail(f"{number} is not a duration; use a finite number {least}", param, ctx)
        return min(number, self._longest)


class _Ratio(click.FloatRange):
    """A number from 0 to 1. `click.FloatRange` takes NaN."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is not in the range 0<=x<=1.", param, ctx)
        return number


_PORT = click.IntRange(0, 65535)
_SECONDS, _MILLISECONDS = _Duration(), _Duration(per_s=1000)


@dataclass(frozen=True)
class Settings:
    """All server settings. `command` builds the command line from the field metadata."""

    models: str = _setting(
        "models",
        "Model repositories, separated by commas: folders, and addresses (s3://, gs://, hf://, https://) that"
        f" are copied into the cache first. `{EXAMPLES}`: the models that the package brings along.",
        repositories,
    )
    host: str = _setting(
        "",
        "Address to listen on: an IPv4 or IPv6 address (`::` is every address), or a name."
        " Empty: every IPv4 address with TLS, 127.0.0.1 without.",
        host_name,
    )
    port: int = _setting(8001, "gRPC port. 0 selects a free port.", _PORT)
    metrics_port: int = _setting(
        8002, "HTTP port for /metrics, /healthz and /readyz. 0 selects a free port.", _PORT
    )
    metrics_host: str = _setting("", "Address of the HTTP port. Empty: as --host.", host_name)
    tls_cert: str = _setting(
        "",
        "Serve over TLS: PEM file with the certificate, then those between it and its authority.",
        click.Path(),
    )
    tls_key: str = _setting("", "PEM file with the private key of --tls-cert.", click.Path())
    tls_client_ca: str = _setting(
        "", "Require client certificates (mutual TLS) of the authorities in this PEM file.", click.Path()
    )
    metrics_tls: bool = _setting(True, "With --tls-cert, serve the HTTP port over TLS too.")
    auth_file: str = _setting(
        "",
        "TOML file with the callers, their tokens and permissions. Empty: everybody may call.",
        click.Path(),
    )
    trusted_proxies: str = _setting(
        "", "Comma-separated addresses or networks of proxies that name the callers behind them."
    )
    caller_header: str = _setting("x-forwarded-for", "Metadata key in which trusted proxies name the caller.")
    priorities: bool = _setting(
        True,
        "Heed the priorities of requests, with --auth-file of callers with the permission only."
        " Off: they are taken and ignored.",
    )
    device: str = _setting(
        "auto",
        "Device that runs the models. auto: CUDA if available, otherwise CPU.",
        click.Choice(["auto", "cpu", "cuda"]),
    )
    device_id: int = _setting(0, "Number of the GPU, of several.", click.IntRange(0, 1023))
    gpu_memory_mb: int = _setting(
        0, "Memory of the GPU that one graph may take, in MiB. 0: no limit.", click.IntRange(0, LARGEST_COUNT)
    )
    state_values: str = _setting(
        "auto",
        "Where the states of sequences are between steps, and next tokens are sampled. auto: on the device if"
        " it is a GPU, otherwise in arrays of the host.",
        click.Choice(["auto", "host", "device"]),
    )
    engine: str = _setting(
        "process" if os.name == "posix" else "thread",
        "Run the engine in a separate process, or as threads of the server process.",
        click.Choice(["process", "thread"]),
    )
    frontends: int = _setting(
        1,
        "Number of gRPC front-end processes on the port, before one engine process. The system gives each"
        " connection to one of them. More than 1: Linux only, with --engine process.",
        click.IntRange(1, 64),
    )
    engine_nice: int = _setting(
        5,
        "Nice value (0 to 19) of one-shot engine threads. Linux only, with --engine process.",
        click.IntRange(0, 19),
    )
    only: str = _setting("", "Comma-separated names of the models to serve. Empty: all models.")
    require_models: float = _setting(
        0.0,
        "Share of the model versions in the repository that must have loaded before the server is ready."
        " Without a number: all. 0: the server is ready even if none has loaded.",
        click.FloatRange(0, 1),
        bare=1.0,
    )
    batching: bool = _setting(True, "Batch requests. Off: every request runs by itself.")
    verify_share: float = _setting(
        0.005,
        "Share of the time of shared runs to spend on computing their answers again, each alone, as a proof"
        " that batching does not change them. An idle model verifies its latest shared run in any case."
        " 0: never; 1: every answer.",
        click.FloatRange(0, 1),
    )
    recorded_runs: int = _setting(
        4096,
        "The most runs to remember of each model and kind of run, and requests of each model, for `lockstep"
        " runs` and `lockstep why`. 0: none.",
        click.IntRange(0, 1 << 20),
    )
    max_run_ms: float = _setting(
        20.0, "Longest run planned while another model waits for the device, in milliseconds.", _MILLISECONDS
    )
    max_run_s: float = _setting(
        60.0, "End a run of a model that takes longer than this many seconds.", _SECONDS
    )
    max_load_s: float = _setting(
        600.0, "Give a model up that takes longer than this many seconds to load.", _SECONDS
    )
    max_flush_ms: float = _setting(
        20.0,
        "Longest time a busy server buffers the tokens of a stream, in milliseconds. 0: do not buffer.",
        _Duration(per_s=1000, zero=True),
    )
    max_stall_s: float = _setting(
        30.0, "End a stream whose client reads nothing for this many seconds.", _SECONDS
    )
    max_message_mb: int = _setting(64, "Largest request message, in MiB.", click.IntRange(1, 2047))
    max_inflight_mb: int = _setting(
        256,
        "Tensors and waiting texts of requests in flight, in MiB. Requests beyond it are refused with a retry"
        " time. Several callers together may hold at most twice as much.",
        click.IntRange(1, LARGEST_COUNT),
    )
    shared_memory_keys: str = _setting(
        "",
        "Take tensors in POSIX shared memory whose key begins with this prefix. Empty: in messages only.",
    )
    max_stream_inflight: int = _setting(
        1024,
        "Maximum requests in flight per stream. The server stops reading the stream at this limit.",
        click.IntRange(1, LARGEST_COUNT),
    )
    model_control: str = _setting(
        "none", "explicit: allow clients to load and unload models.", click.Choice(["none", "explicit"])
    )
    reload_grace_s: float = _setting(
        300.0,
        "When a model is loaded again, how long live sequences may go on with the version they began on,"
        " in seconds.",
        click.FloatRange(0),
    )
    sequence_key_file: str = _setting(
        "",
        "File with the key that servers share to sign the states of sequences; its other lines are keys that"
        " verify only. Empty: states are for callers with the permission admin.",
        click.Path(),
    )
    peers: str = _setting(
        "",
        "HOST:PORT of the other servers of the fleet, comma-separated, or one name that leads to all of them."
        " Live sequences are moved to them when this server stops, and from them when a step comes here."
        " Needs --sequence-key-file.",
    )
    peer_ca: str = _setting(
        "",
        "PEM file with the authorities of the peers' certificates. Empty: --tls-client-ca.",
        click.Path(),
    )
    max_sequence_mb: int = _setting(
        64, "Largest state of a sequence that is given or taken, in MiB.", click.IntRange(1, 2047)
    )
    reflection: bool = _setting(True, "Enable gRPC server reflection, for tools such as grpcurl.")
    tokenizer_workers: int = _setting(1, "Number of tokenizer threads.", click.IntRange(1, 64))
    shutdown_delay_s: float = _setting(
        0.0,
        "How long a server that stops goes on taking requests, while its health checks already fail, in"
        " seconds: until load balancers have noticed.",
        _Duration(zero=True),
    )
    drain_s: float = _setting(
        10.0,
        "Drain timeout: how long requests in flight may take to finish at shutdown, in seconds.",
        _Duration(zero=True),
    )
    cache: str = _setting(
        "~/.cache/lockstep",
        "Cache folder for measured run costs and self-test results. Empty: no cache.",
        click.Path(),
    )
    metrics: bool = _setting(True, "Collect metrics and serve /metrics.")
    traces: str = _setting(
        "off", "Export trace spans over OTLP, or not at all.", click.Choice(["off", "otlp"])
    )
    traces_endpoint: str = _setting("http://localhost:4317", "OTLP collector (gRPC).", url)
    traces_ratio: float = _setting(1.0, "Sampling ratio for calls without a traceparent.", _Ratio())
    log_level: str = _setting(
        "info", "Minimum log level.", click.Choice(["debug", "info", "warning", "error"])
    )
    log_format: str = _setting("text", "Log line format.", click.Choice(["text", "json"]))
    log_texts: bool = _setting(False, "Allow request contents in the log.")

    @property
    def grpc_host(self) -> str:
        """The address of the gRPC port: without TLS, other machines reach it only if that is asked for."""
        return self.host or ("0.0.0.0" if self.tls_cert else "127.0.0.1")

    @property
    def http_host(self) -> str:
        """The address of the HTTP port."""
        return self.metrics_host or self.grpc_host

    @property
    def has_metrics_tls(self) -> bool:
        return bool(self.tls_cert) and self.metrics_tls


def command(run: Callable[[Settings], int], version: str) -> click.Command:
    """Build the command line. It passes `Settings` to `run`, or prints them with `--show-settings`.

    Invalid settings are usage errors (exit code 2).
    """

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
            help="TOML file with settings. Keys are the flag names with underscores.",
        ),
        click.Option(
            ["--show-settings"], is_flag=True, help="Print every setting and its source, then exit."
        ),
        *(_option(name) for name in _FIELDS),
    ]
    built = click.Command(
        "lockstep-serve", callback=invoke, params=options, help="Serve trained sequence models over gRPC."
    )
    return click.version_option(version, prog_name="lockstep-serve")(built)


_FIELDS = {setting.name: setting for setting in fields(Settings)}


def _option(name: str) -> click.Option:
    setting = _FIELDS[name]
    assert setting.default is not MISSING
    flag = "--" + name.replace("_", "-")
    boolean = isinstance(setting.default, bool)
    bare = setting.metadata["bare"]
    optional = {} if bare is None else {"is_flag": False, "flag_value": bare}
    return click.Option(
        [f"{flag}/--no-{flag[2:]}" if boolean else flag],
        type=None if boolean else setting.metadata["type"] or type(setting.default),
        default=setting.default,
        envvar=f"LOCKSTEP_{name.upper()}",
        show_default=True,
        show_envvar=True,
        help=setting.metadata["help"],
        **optional,
    )


def _read_config(context: click.Context, parameter: click.Parameter, file: str | None) -> str | None:
    """Use the values of the file as defaults, which flags and environment variables override."""
    if file is None:
        return None
    try:
        content = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        _usage_error(context, parameter, f"{file}: not valid TOML: {error}")
    for key, value in content.items():
        if key not in _FIELDS:
            close = difflib.get_close_matches(key, _FIELDS, 1)
            hint = f"did you mean {close[0]!r}?" if close else "--show-settings lists all keys"
            _usage_error(context, parameter, f"{file}: {key}: unknown key; {hint}")
        _check_type(context, parameter, file, key, value)
    context.default_map = content
    return file


_TOML_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def _check_type(context: click.Context, parameter: click.Parameter, file: str, key: str, value: Any) -> None:
    default = _FIELDS[key].default
    expected = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, expected) or isinstance(value, bool) != isinstance(default, bool):
        _usage_error(
            context,
            parameter,
            f"{file}: {key}: invalid value {value!r}; expected {_TOML_TYPES[type(default)]}",
        )
    try:
        _option(key).type.convert(value, None, context)
    except click.BadParameter as error:
        _usage_error(context, parameter, f"{file}: {key}: {error.message}")


def _usage_error(context: click.Context, parameter: click.Parameter, message: str) -> NoReturn:
    raise click.BadParameter(message, context, parameter)


_SOURCES = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}


def _show(context: click.Context, values: dict[str, Any]) -> None:
    """Print one TOML line per setting, with its source as a comment. `--config` accepts the output."""
    for name in _FIELDS:
        source = context.get_parameter_source(name)
        comment = _SOURCES.get(source.name, source.name.lower()) if source else "default"
        click.echo(f"{name} = {_toml(values[name])}  # {comment}")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return str(value)

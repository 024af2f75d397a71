"""Settings precedence: flag, environment, file, default."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from lockstep_server.durations import LONGEST_S
from lockstep_server.settings import Settings, command, host_and_port

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str, **environment: str) -> tuple[Any, Settings | None]:
    got: list[Settings] = []

    def run(settings: Settings) -> int:
        got.append(settings)
        return 0

    result = CliRunner().invoke(command(run, "1"), arguments, env=environment)
    return result, got[0] if got else None


def write(folder: Path, text: str) -> str:
    file = folder / "lockstep.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCKSTEP_CACHE")  # set for the servers of tests
    assert invoke()[1] == Settings()
    assert (Settings().port, Settings().metrics_port, Settings().model_control) == (8001, 8002, "none")


def test_precedence_is_flag_environment_file_default(tmp_path: Path) -> None:
    file = write(tmp_path, "port = 1\nmetrics_port = 1\ndrain_s = 1\n")
    _, got = invoke("--config", file, "--port", "3", LOCKSTEP_PORT="2", LOCKSTEP_METRICS_PORT="2")
    assert got is not None
    assert (got.port, got.metrics_port, got.drain_s, got.tokenizer_workers) == (3, 2, 1.0, 1)


def test_the_environment_can_name_the_config_file(tmp_path: Path) -> None:
    _, got = invoke(LOCKSTEP_CONFIG=write(tmp_path, "port = 5"))
    assert got is not None
    assert got.port == 5


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_a_boolean_can_be_turned_off_by_each_source(tmp_path: Path, source: str) -> None:
    sources = {
        "flag": lambda: invoke("--no-batching"),
        "environment": lambda: invoke(LOCKSTEP_BATCHING="false"),
        "file": lambda: invoke("--config", write(tmp_path, "batching = false")),
    }
    _, got = sources[source]()
    assert got is not None
    assert got.batching is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 3", "prot: unknown key; did you mean 'port'?"),
        ("zzz = 3", "zzz: unknown key; --show-settings lists all keys"),
        ('port = "many"', "port: invalid value 'many'; expected an integer"),
        ("port = true", "port: invalid value True; expected an integer"),
        ("batching = 1", "batching: invalid value 1; expected true or false"),
        ("port = 70000", "port"),
        ('device = "tpu"', "device"),
        ("max_run_ms = 0", "max_run_ms"),
        ('traces_endpoint = "collector"', "traces_endpoint: invalid URL 'collector'; use http://HOST:PORT"),
        ("port = ", "not valid TOML"),
    ],
)
def test_an_invalid_file_is_a_usage_error_that_names_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    file = write(tmp_path, text)
    result, got = invoke("--config", file)
    assert result.exit_code == 2
    assert got is None
    output = " ".join(result.output.split())
    assert message in output
    assert "lockstep.toml" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "70000"],
        ["--device", "tpu"],
        ["--max-message-mb", "0"],
        ["--drain-s", "-1"],
        ["--config", "nowhere.toml"],
        ["--traces", "maybe"],
        ["--traces-endpoint", "localhost:4317"],
        ["--traces-endpoint", "http://localhost:many"],
        ["--traces-ratio", "1.5"],
        ["--log-format", "xml"],
        ["--nonsense"],
    ],
)
def test_an_invalid_flag_is_a_usage_error(arguments: list[str]) -> None:
    result, got = invoke(*arguments)
    assert (result.exit_code, got) == (2, None)
    assert arguments[0] in result.output


def test_shown_settings_can_be_read_back(tmp_path: Path) -> None:
    flags = ["--models", 'a "quoted" \\ name', "--port", "9", "--no-reflection", "--max-run-ms", "0.5"]
    shown, ran = invoke(*flags, "--show-settings")
    assert (shown.exit_code, ran) == (0, None)
    _, direct = invoke(*flags)
    assert direct is not None
    assert tomllib.loads(shown.output) == vars(direct)
    assert invoke("--config", write(tmp_path, shown.output))[1] == direct


def test_shown_settings_with_control_characters_can_be_read_back() -> None:
    shown, _ = invoke("--models", "a\nb\tc", "--show-settings")
    assert tomllib.loads(shown.output)["models"] == "a\nb\tc"


def test_every_setting_is_shown_with_its_source(tmp_path: Path) -> None:
    shown, _ = invoke(
        "--config", write(tmp_path, "drain_s = 3"), "--port", "9", "--show-settings", LOCKSTEP_HOST="::1"
    )
    lines = dict(line.split(" = ", 1) for line in shown.output.splitlines())
    assert set(lines) == set(vars(Settings()))
    assert lines["port"] == "9  # flag"
    assert lines["host"] == '"::1"  # environment'
    assert lines["drain_s"] == "3.0  # file"
    assert lines["device"] == '"auto"  # default'


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize("setting", ["max_run_ms", "max_run_s", "max_load_s", "max_stall_s", "drain_s"])
def test_a_duration_is_a_finite_number(setting: str, value: str, tmp_path: Path) -> None:
    for result, got in (
        invoke(f"--{setting.replace('_', '-')}", value),
        invoke(**{f"LOCKSTEP_{setting.upper()}": value}),
        invoke("--config", write(tmp_path, f"{setting} = {value}")),
    ):
        assert (result.exit_code, got) == (2, None)


def test_a_duration_of_more_than_a_year_counts_as_a_year() -> None:
    _, got = invoke("--drain-s", "1e300", "--max-flush-ms", "1e300")
    assert got is not None
    assert (got.drain_s, got.max_flush_ms) == (LONGEST_S, LONGEST_S * 1000)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_may_stand_in_brackets(host: str) -> None:
    _, got = invoke("--host", host)
    assert got is not None
    assert (got.host, host_and_port(got.grpc_host, 8001)) == ("::1", "[::1]:8001")


def test_a_ratio_is_a_number() -> None:
    assert invoke("--traces-ratio", "nan")[0].exit_code == 2


def test_help_shows_every_setting() -> None:
    result, _ = invoke("--help")
    assert result.exit_code == 0, result.output
    for field in fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in result.output.replace("--no-", "--")


@pytest.mark.parametrize("value", ["", " ", ","])
def test_an_empty_repository_is_refused(value: str) -> None:
    """It would be the working directory."""
    result, settings = invoke("--models", value)
    assert (result.exit_code, settings) == (2, None)
    assert "empty; name a folder of models, an address, or examples:" in " ".join(result.output.split())

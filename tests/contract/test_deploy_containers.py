"""Every path, port, name, flag and user in compose, Dockerfile and Kubernetes manifests exists.

The files are compared with the project itself, so no container engine is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from contract.containers import (
    COMPOSE,
    DEPLOYMENT,
    GPU,
    MUTUAL_TLS,
    NETWORK_POLICY,
    POD_MONITOR,
    PROMETHEUS,
    ROOT,
    SERVICE,
    SERVICES,
    SETTINGS,
    arguments,
    command,
    environment,
    read_yaml,
    seconds,
    stages,
    with_defaults,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from patience import PATIENCE_S

from deploy.__main__ import generated
from lockstep_client import cli
from lockstep_load.command import app as load_app
from lockstep_server import settings
from lockstep_server.api.health import LIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULTS = settings.Settings()
STOP_S = 2.0
"""Time the server takes after the drain: one second for the engine, one for open connections."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTAINER: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
BUILT = {name for name, service in SERVICES.items() if "build" in service}

DIGEST = "(?:@sha256:[0-9a-f]{64})?"  # `make pin` writes it

each_service = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> list[list[str]]:
    return [one.split(":") for one in SERVICES[name].get("volumes", ())]


# --- all services ---------------------------------------------------------------------------------


@each_service
def test_each_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["mem_limit"]
    assert int(service["user"].split(":")[0]) > 0
    assert "privileged" not in service


@each_service
def test_each_image_is_pinned_or_built_here(name: str) -> None:
    image = SERVICES[name]["image"]
    if name in BUILT:
        assert image.endswith(":local")
        assert SERVICES[name]["build"]["target"] in stages()
    else:
        assert re.search(rf":v?\d+\.\d+\.\d+{DIGEST}$", image)


def test_the_base_image_is_pinned_to_a_supported_python() -> None:
    [base] = arguments("base", "FROM")
    version = re.match(rf"python:(\d+\.\d+)\.\d+-slim-bookworm{DIGEST} AS base$", base)
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


@each_service
def test_each_mounted_path_exists_and_is_read_only(name: str) -> None:
    for source, target, *how in mounts(name):
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert how == ["ro"], source
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")


def test_every_volume_is_used() -> None:
    used = {source for name in SERVICES for source, *_ in mounts(name) if not source.startswith(".")}
    assert used == set(COMPOSE["volumes"])


@each_service
def test_each_dependency_has_a_health_check(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        assert wanted["condition"] == "service_healthy"
        assert "healthcheck" in SERVICES[other]


@each_service
def test_only_grpc_is_published_to_other_machines(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:") or port == f"{DEFAULTS.port}:{DEFAULTS.port}"


@pytest.mark.parametrize("name", ["server", "prometheus", "grafana", "ui"])
def test_each_health_check_is_a_valid_command_with_a_shorter_timeout(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    program, *words = check["test"][1:]
    assert check["test"][0] == "CMD"
    assert seconds(check["timeout"]) <= seconds(check["interval"])
    if name == "server":
        assert program in PROJECT["scripts"]
        assert parses(cli.app, words)
        assert float(words[words.index("--timeout") + 1]) < seconds(check["timeout"])
    elif name == "ui":  # its image has no wget
        assert (program, words[0]) == ("python", "-c")
        assert f"http://127.0.0.1:{port_of(name)}/" in words[1]
        compile(words[1], "healthcheck", "exec")
    else:  # both images have the wget of busybox
        assert (program, words[:2]) == ("wget", ["-q", "--spider"])
        assert f":{port_of(name)}/" in words[2]


def port_of(name: str) -> str:
    """The port inside the container."""
    return str(SERVICES[name]["ports"][0].rsplit(":", 1)[1])


# --- the server -----------------------------------------------------------------------------------


def test_the_server_ports_are_the_default_settings_everywhere() -> None:
    wanted = {DEFAULTS.port, DEFAULTS.metrics_port}
    assert {int(port.rsplit(":", 1)[1]) for port in SERVICES["server"]["ports"]} == wanted
    assert {int(port) for port in arguments("server", "EXPOSE")[0].split()} == wanted
    assert environment("server")["LOCKSTEP_ADDRESS"] == f"localhost:{DEFAULTS.port}"
    assert {one["containerPort"] for one in CONTAINER["ports"]} == wanted
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["grpc"]["port"] == DEFAULTS.port


def test_the_container_listens_on_every_address_and_others_on_loopback() -> None:
    assert environment("server")["LOCKSTEP_HOST"] == "0.0.0.0"
    assert SETTINGS["LOCKSTEP_HOST"] == "0.0.0.0"
    assert DEFAULTS.grpc_host == "127.0.0.1"


def test_compose_with_tls_mounts_what_it_names() -> None:
    services = read_yaml(ROOT / "docker-compose.tls.yml")["services"]
    assert services.keys() <= SERVICES.keys()
    mounted = {one.split(":")[1] for one in services["server"]["volumes"]}
    for name, value in services["server"]["environment"].items():
        assert hasattr(DEFAULTS, name.removeprefix("LOCKSTEP_").lower())
        assert value in mounted
    assert f":{DEFAULTS.metrics_port}/healthz" in services["server"]["healthcheck"]["test"][-1]
    command: Any = typer.main.get_command(cli.app)
    known = {one.envvar for one in command.commands["classify"].params} | {"LOCKSTEP_TOKEN"}
    for name in ("load", "ui"):
        assert services[name]["environment"].keys() <= known


def test_prometheus_with_tls_differs_in_how_it_connects_only() -> None:
    secured = read_yaml(ROOT / "deploy/prometheus/prometheus-tls.yml")
    [job] = secured["scrape_configs"]
    services = read_yaml(ROOT / "docker-compose.tls.yml")["services"]
    mounted = {one.split(":")[1] for one in services["prometheus"]["volumes"]}
    assert {job.pop("tls_config")["ca_file"], job.pop("authorization")["credentials_file"]} <= mounted
    assert job.pop("scheme") == "https"
    assert secured == PROMETHEUS


def test_the_network_policy_opens_the_ports_of_the_pods() -> None:
    labels = NETWORK_POLICY["spec"]["podSelector"]["matchLabels"].items()
    assert labels <= DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items()
    opened = {port["port"] for rule in NETWORK_POLICY["spec"]["ingress"] for port in rule["ports"]}
    assert opened == {one["name"] for one in CONTAINER["ports"]}


def test_mutual_tls_patches_the_container_with_files_that_are_mounted() -> None:
    pod = MUTUAL_TLS["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == CONTAINER["name"]
    names = {one["name"]: one["value"] for one in container["env"]}
    assert {name.removeprefix("LOCKSTEP_").lower() for name in names} <= vars(DEFAULTS).keys()
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert {str(Path(value).parent) for value in names.values()} == mounted
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert {one["secret"]["defaultMode"] for one in pod["volumes"]} == {0o440}
    assert DEPLOYMENT["spec"]["template"]["spec"]["securityContext"]["fsGroup"]  # who may read them


def test_the_drain_can_finish_before_the_container_is_killed() -> None:
    assert seconds(SERVICES["server"]["stop_grace_period"]) > DEFAULTS.drain_s + STOP_S
    needed = float(SETTINGS["LOCKSTEP_DRAIN_S"]) + STOP_S
    sleep_s = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > needed + sleep_s


def test_the_server_user_owns_the_cache_and_has_the_same_id_everywhere() -> None:
    [line] = [line for line in arguments("server", "RUN") if line.startswith("useradd")]
    user = re.fullmatch(r"useradd --create-home --uid (\d+) (\w+)", line)
    assert user
    for stage in ("server", "load", "ui"):
        assert arguments(stage, "USER") == [user[2]]
    for name in BUILT:
        assert SERVICES[name]["user"] == f"{user[1]}:{user[1]}"
    assert POD["securityContext"]["runAsUser"] == int(user[1])
    cache = DEFAULTS.cache.replace("~", f"/home/{user[2]}")
    created = [line for line in arguments("server", "RUN") if f"install -d -o {user[2]}" in line]
    assert any(line.endswith(cache) for line in created)
    assert ["cache", cache] in mounts("server")
    assert cache in [one["mountPath"] for one in CONTAINER["volumeMounts"]]


def test_the_image_variables_are_settings_or_the_client_address() -> None:
    for name in environment("server"):
        if name.startswith("LOCKSTEP_") and name != "LOCKSTEP_ADDRESS":
            assert hasattr(DEFAULTS, name.removeprefix("LOCKSTEP_").lower())
    assert f"models {environment('server')['LOCKSTEP_MODELS']}" in arguments("server", "COPY")


@pytest.mark.parametrize("stage", ["build", "load", "ui", "server"])
def test_copied_paths_exist_and_are_not_ignored(stage: str) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in arguments(stage, "COPY"):
        *sources, _ = line.split()
        if sources[0].startswith("--from="):
            assert sources == [f"--from=build-{stage}", "/opt/lockstep"]
            assert environment(stage)["PATH"].startswith("/opt/lockstep/bin:")
            continue
        for source in sources:
            assert (ROOT / source).exists()
            assert source in kept


@pytest.mark.parametrize("stage", ["load", "ui", "server"])
def test_the_installed_extras_exist(stage: str) -> None:
    defaults = dict(part.split("=") for part in arguments(f"build-{stage}", "ARG"))
    [extras] = re.findall(r"\"\.\[([^]]+)\]\"", " ".join(arguments(f"build-{stage}", "RUN")))
    wanted = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], extras).split(",")
    assert set(wanted) <= set(PROJECT["optional-dependencies"])
    chosen = {
        SERVICES["server"]["build"]["args"]["EXTRA"],
        GPU["services"]["server"]["build"]["args"]["EXTRA"],
    }
    assert chosen == {"server-cpu", "server-gpu"}


LOCKS = {
    "load": ["load"],
    "ui": ["ui"],
    "server-cpu": ["server-cpu", "traces"],
    "server-gpu": ["server-gpu", "traces"],
}


def _wanted(extras: list[str]) -> Iterator[Requirement]:
    """What the project needs with some extras, those of extras included."""
    for text in [
        *PROJECT["dependencies"],
        *(one for e in extras for one in PROJECT["optional-dependencies"][e]),
    ]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            yield from _wanted(sorted(requirement.extras))
        else:
            yield requirement


@pytest.mark.parametrize("name", LOCKS)
def test_images_install_locked_versions_by_their_hashes(name: str) -> None:
    """`make lock` writes the locks."""
    lock = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text().replace("\\\n", "")
    locked = {}
    for line in lock.splitlines():
        pinned, _, hashes = line.partition(" --hash=")
        one = Requirement(pinned)
        [version] = [each.version for each in one.specifier if each.operator == "=="]
        assert re.fullmatch(r"sha256:[0-9a-f]{64}( +--hash=sha256:[0-9a-f]{64})*", hashes.strip()), line
        locked[canonicalize_name(one.name)] = version
    environment = {"python_version": "3.12", "sys_platform": "linux"}
    build = Requirement(tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"][0])
    for wanted in (build, *_wanted(LOCKS[name])):
        if wanted.marker is None or wanted.marker.evaluate(environment):
            assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


@pytest.mark.parametrize("stage", ["load", "ui", "server"])
def test_images_install_nothing_that_is_not_locked(stage: str) -> None:
    assert not [line for line in arguments(stage, "RUN") if "pip" in line]
    [run] = [line for line in arguments(f"build-{stage}", "RUN") if "pip" in line]
    first, second = re.findall(r"pip install ([^&]+)", run)
    assert re.match(r"--no-deps --require-hashes -r deploy/locks/(load|ui|\$\{EXTRA\})\.txt", first)
    assert second.startswith("--no-deps --no-build-isolation --no-index ")


def test_pin_writes_digests_and_renews_them(tmp_path: Path) -> None:
    """With a stand-in for `crane`, which reads the digest of a tag from a registry."""
    for name in ("Dockerfile", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    crane = tools / "crane"

    def pin(answer: str) -> int:
        crane.write_text(f"#!/bin/sh\n{answer}\n")
        crane.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        command = [str(ROOT / "deploy" / "pin.sh"), str(tmp_path)]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    def images() -> list[str]:
        text = "".join((tmp_path / name).read_text() for name in ("Dockerfile", "docker-compose.yml"))
        found = re.findall(r"(?:FROM|image:) (\S+:\S+)", text)
        return [image for image in found if not image.endswith(":local")]

    before = images()
    assert len(before) == 3
    for digit in "ab":
        assert pin(f"echo sha256:{digit * 64}") == 0
        assert images() == [f"{image.partition('@')[0]}@sha256:{digit * 64}" for image in before]
    pinned = images()
    assert pin("exit 1") == 1
    assert images() == pinned


@pytest.mark.parametrize("stage", ["load", "ui", "server"])
def test_each_image_starts_a_command_of_the_project(stage: str) -> None:
    assert command(stage, "ENTRYPOINT")[0] in PROJECT["scripts"]


def test_the_last_stage_is_the_server() -> None:
    assert list(stages())[-1] == "server"


def test_the_image_health_check_is_a_verb_of_the_client() -> None:
    program, *words = command("server", "HEALTHCHECK")
    assert program in PROJECT["scripts"]
    assert parses(cli.app, words)


@pytest.mark.parametrize("name", ["load", "load-streams"])
def test_each_load_command_is_valid(name: str) -> None:
    verb, *words = [with_defaults(str(word)) for word in SERVICES[name]["command"]]
    assert verb in {one.name or one.callback.__name__ for one in cli.app.registered_commands}
    assert parses(load_app, words)
    assert (ROOT / "models" / words[words.index("--model") + 1] / "model.toml").exists()
    host, port = SERVICES[name]["environment"]["LOCKSTEP_ADDRESS"].split(":")
    assert (host, int(port)) == ("server", DEFAULTS.port)
    assert SERVICES[name]["profiles"] == ["load"]


def test_the_page_of_compose_listens_where_it_is_published() -> None:
    program, *words = command("ui", "ENTRYPOINT")
    assert program in PROJECT["scripts"]
    group: Any = typer.main.get_command(cli.app)
    context = group.commands["ui"].make_context("ui", words[1:])
    assert context.params["host"] == "0.0.0.0"
    assert f"127.0.0.1:{context.params['port']}:{context.params['port']}" in SERVICES["ui"]["ports"]
    assert arguments("ui", "EXPOSE") == [str(context.params["port"])]
    assert SERVICES["ui"]["environment"]["LOCKSTEP_ADDRESS"] == f"server:{DEFAULTS.port}"


def test_the_gpu_file_overrides_existing_services_with_existing_flags() -> None:
    assert set(GPU["services"]) <= set(SERVICES)
    server = settings.command(lambda _: 0, "0")
    context = server.make_context("lockstep-serve", list(GPU["services"]["server"]["command"]))
    assert context.params["device"] == "cuda"


def parses(app: typer.Typer, words: list[str]) -> bool:
    """Parse the whole command line without running it."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("lockstep", list(words))
    name, inner, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    inner.make_context(name, rest, parent=context)
    return True


def test_parses_rejects_an_unknown_flag() -> None:
    with pytest.raises(typer.TyperException, match="--no-such-flag"):
        parses(load_app, ["run", "--model", "m", "--seconds", "1", "--no-such-flag"])


# --- Prometheus and Grafana -----------------------------------------------------------------------


def test_prometheus_scrapes_the_server_of_compose() -> None:
    [job] = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "lockstep"
    [[file]] = [one["files"] for one in job["file_sd_configs"]]
    targets = {target: source for source, target, *_ in mounts("prometheus")}
    mounted = targets[f"/etc/prometheus/{file}"]
    [group] = read_yaml(ROOT / mounted)
    assert group["targets"] == [f"server:{DEFAULTS.metrics_port}"]
    [group] = read_yaml(ROOT / "deploy/prometheus" / file)
    assert group["targets"] == [f"localhost:{DEFAULTS.metrics_port}"]


def test_the_prometheus_configuration_and_rules_are_mounted() -> None:
    targets = {target: source for source, target, *_ in mounts("prometheus")}
    flags = dict(word.split("=", 1) for word in SERVICES["prometheus"]["command"])
    assert targets[flags["--config.file"]] == "./deploy/prometheus/prometheus.yml"
    assert targets[flags["--storage.tsdb.path"]] == "prometheus"
    for pattern in PROMETHEUS["rule_files"]:
        folder = Path(flags["--config.file"]).parent / Path(pattern).parent
        assert list((ROOT / targets[str(folder)]).glob(Path(pattern).name))


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_the_prometheus_flags_exist() -> None:
    help_ = subprocess.run(
        ["prometheus", "--help"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    for word in SERVICES["prometheus"]["command"]:
        assert word.split("=")[0] in help_.stdout + help_.stderr


def test_the_grafana_data_source_is_the_prometheus_of_compose() -> None:
    [source] = provisioned("datasources")
    host, port = re.fullmatch(r"http://([^:]+):(\d+)", source["url"]).groups()
    assert host in SERVICES
    assert port == port_of(host)
    assert source["uid"] == "lockstep-prometheus"
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]


def test_the_grafana_dashboards_are_mounted() -> None:
    targets = {target: source for source, target, *_ in mounts("grafana")}
    [provider] = provisioned("dashboards")
    folder = ROOT / targets[provider["options"]["path"]]
    built = {file for file in generated() if file.suffix == ".json"}
    assert set(folder.glob("*.json")) == built
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"])
    assert folder / Path(home).name in built
    for kind in ("datasources", "dashboards"):
        assert targets[f"/etc/grafana/provisioning/{kind}"] == f"./deploy/grafana/provisioning/{kind}"


def test_grafana_allows_only_anonymous_viewers() -> None:
    variables = SERVICES["grafana"]["environment"]
    assert variables["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert variables["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert all(isinstance(value, str) for value in variables.values())


def provisioned(kind: str) -> list[dict[str, Any]]:
    [file] = (ROOT / "deploy/grafana/provisioning" / kind).glob("*.yml")
    content = read_yaml(file)
    assert content["apiVersion"] == 1
    found: list[dict[str, Any]] = content["datasources" if kind == "datasources" else "providers"]
    return found


# --- Kubernetes -----------------------------------------------------------------------------------


def test_kubernetes_labels_and_ports_agree() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    ports = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}
    for selector in (DEPLOYMENT["spec"]["selector"], POD_MONITOR["spec"]["selector"]):
        assert selector["matchLabels"] == labels
    assert SERVICE["spec"]["selector"] == labels
    [grpc] = SERVICE["spec"]["ports"]
    assert ports[grpc["targetPort"]] == grpc["port"] == DEFAULTS.port
    [endpoint] = POD_MONITOR["spec"]["podMetricsEndpoints"]
    assert ports[endpoint["port"]] == DEFAULTS.metrics_port
    assert endpoint["interval"] == PROMETHEUS["global"]["scrape_interval"]
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(DEFAULTS.metrics_port)


def test_the_kubernetes_job_name_is_the_one_in_the_alerts() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert labels[POD_MONITOR["spec"]["jobLabel"]] == PROMETHEUS["scrape_configs"][0]["job_name"]


def test_the_pod_is_hardened_and_its_volumes_exist() -> None:
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert {one["name"] for one in POD["volumes"]} == {one["name"] for one in CONTAINER["volumeMounts"]}
    assert CONTAINER["image"] == SERVICES["server"]["image"]


def test_probes_use_health_services_of_the_server() -> None:
    assert CONTAINER["livenessProbe"]["grpc"]["service"] == LIVE
    for probe in ("startupProbe", "readinessProbe"):
        assert "service" not in CONTAINER[probe]["grpc"], "the health of the whole server"

"""Every Kubernetes file is valid by its schema, and everything that one names exists.

The core schemas are those of the package kubernetes-validate; crds.json has those of KEDA and KServe. What
kustomize makes of the overlays is checked where `kubectl` or `kustomize` is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from contract.containers import (
    KUBERNETES,
    LOADER,
    NETWORK_POLICY,
    PROMETHEUS,
    SERVICES,
    SETTINGS,
    command,
    environment,
    manifest,
    read_yaml,
)
from contract.deployed import TARGET_LABELS, exported, selectors
from jsonschema import Draft202012Validator
from patience import PATIENCE_S

from lockstep_server import settings
from lockstep_server.api.health import LIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULTS = settings.Settings()
CRDS = json.loads((Path(__file__).parent / "crds.json").read_text())
VERSION = "1.32"
"""Of Kubernetes: native gRPC probes are stable since 1.27."""

BUILDERS = [[found, *more] for name, more in (("kubectl", ["kustomize"]), ("kustomize", ["build"]))
            if (found := shutil.which(name))]  # fmt: skip
BUILDS = sorted(path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))
PATCHES = {"gpu.yaml", "stateful.yaml", "mutual-tls.yaml", "peers.yaml"}
PLAIN = [
    path
    for path in sorted(KUBERNETES.rglob("*.yaml"))
    if path.name != "kustomization.yaml" and path.name not in PATCHES
]
NOT_CHECKED = {"PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus Operator; promtool checks the rules (test_deploy_rules.py)."""


def validate(resource: dict[str, Any]) -> None:
    """Check an object by the schema of its kind."""
    kind = resource["kind"]
    if kind in CRDS:
        Draft202012Validator(CRDS[kind]["schema"]).validate(resource)
    elif kind not in NOT_CHECKED:
        kubernetes_validate.validate(resource, VERSION, strict=True)


def wrong(resource: dict[str, Any]) -> bool:
    try:
        validate(resource)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_each_file_is_valid_and_a_typo_in_it_is_not(path: Path) -> None:
    resource = read_yaml(path)
    validate(resource)
    if resource["kind"] not in NOT_CHECKED:
        assert wrong({**resource, "spec": {**resource["spec"], "replicsa": 2}})


@pytest.mark.parametrize(
    "path", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=lambda path: path.parent.name
)
def test_what_a_kustomization_names_exists_and_nothing_is_left_out(path: Path) -> None:
    content = read_yaml(path)
    for name in (*content.get("resources", ()), *content.get("components", ())):
        assert (path.parent / name).exists(), name
    named = {*content.get("resources", ()), *(one["path"] for one in content.get("patches", ()))}
    assert {file.name for file in path.parent.glob("*.yaml")} - {"kustomization.yaml"} <= named
    for generator in content.get("configMapGenerator", ()):
        for literal in generator["literals"]:
            assert hasattr(DEFAULTS, literal.split("=")[0].removeprefix("LOCKSTEP_").lower()), literal


def test_all_objects_select_the_pods_of_the_server() -> None:
    labels = manifest("base/deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    budget = manifest("base/disruption.yaml")["spec"]["selector"]["matchLabels"]
    assert budget == labels
    assert NETWORK_POLICY["spec"]["podSelector"]["matchLabels"] == labels
    assert NETWORK_POLICY["spec"]["policyTypes"] == ["Ingress"]  # --models of buckets must be reachable
    deployment = manifest("base/deployment.yaml")
    for path in ("components/autoscale/autoscaler.yaml", "components/keda/scaledobject.yaml"):
        target = manifest(path)["spec"]["scaleTargetRef"]
        assert {target["kind"], target["name"]} == {"Deployment", deployment["metadata"]["name"]}
        assert target["apiVersion"] == deployment["apiVersion"]
    assert manifest("overlays/gpu/gpu.yaml")["metadata"]["name"] == deployment["metadata"]["name"]


def test_autoscaling_reads_metrics_that_the_server_exports() -> None:
    known = exported()
    triggers = manifest("components/keda/scaledobject.yaml")["spec"]["triggers"]
    assert {one["name"] for one in triggers} == {"waiting", "slots"}
    for trigger in triggers:
        found = selectors(trigger["metadata"]["query"])
        assert found
        for selector in found:
            assert selector.metric in known
            assert selector.matchers.keys() <= known[selector.metric] | TARGET_LABELS
            assert selector.matchers["job"] == f"={PROMETHEUS['scrape_configs'][0]['job_name']}"


def test_kserve_starts_the_server_with_flags_and_ports_that_it_has() -> None:
    runtime, service = manifest("kserve/runtime.yaml"), manifest("kserve/inferenceservice.yaml")
    [container] = runtime["spec"]["containers"]
    started: list[settings.Settings] = []

    def serve(one: settings.Settings) -> int:
        started.append(one)
        return 0

    assert command("server", "ENTRYPOINT") == ["lockstep-serve"]  # args follow it
    settings.command(serve, "").main(container["args"], standalone_mode=False)
    assert started[0].models == "/mnt/models"
    [port] = container["ports"]
    assert port["containerPort"] == started[0].port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == started[0].port
    assert container["livenessProbe"]["grpc"]["service"] == LIVE
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(started[0].metrics_port)
    assert container["image"] == SERVICES["server"]["image"]
    predictor = service["spec"]["predictor"]
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    formats = {(one["name"], one["version"]) for one in runtime["spec"]["supportedModelFormats"]}
    assert (
        predictor["model"]["modelFormat"]["name"],
        predictor["model"]["modelFormat"]["version"],
    ) in formats
    assert predictor["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    grace_s = started[0].shutdown_delay_s + started[0].drain_s
    assert predictor["terminationGracePeriodSeconds"] > grace_s + 5
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"},
        "spec": {"containers": runtime["spec"]["containers"]},
    }  # fmt: skip
    validate(pod)


# --- what kustomize makes of it -------------------------------------------------------------------

needs_kustomize = pytest.mark.skipif(not BUILDERS, reason="neither kubectl nor kustomize is installed")


def build(folder: Path) -> list[dict[str, Any]]:
    built = subprocess.run(
        [*BUILDERS[0], str(folder)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert built.returncode == 0, built.stderr
    return [one for one in yaml.load_all(built.stdout, LOADER) if one]


def workload(resources: list[dict[str, Any]]) -> dict[str, Any]:
    [found] = [one for one in resources if one["kind"] in ("Deployment", "StatefulSet")]
    return found


def pods(resources: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod of the workload, and its container."""
    pod = workload(resources)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    return pod, container


def volumes(resources: list[dict[str, Any]]) -> Iterator[str]:
    spec = workload(resources)["spec"]
    yield from (one["name"] for one in spec["template"]["spec"]["volumes"])
    yield from (one["metadata"]["name"] for one in spec.get("volumeClaimTemplates", ()))


@needs_kustomize
@pytest.mark.parametrize("folder", BUILDS, ids=lambda path: path.name)
def test_each_overlay_builds_and_refers_to_what_it_has(folder: Path) -> None:
    resources = build(folder)
    for resource in resources:
        validate(resource)
    _, container = pods(resources)
    names = {(one["kind"], one["metadata"]["name"]) for one in resources}
    for source in container["envFrom"]:
        assert ("ConfigMap", source["configMapRef"]["name"]) in names
    assert sorted(volumes(resources)) == sorted(one["name"] for one in container["volumeMounts"])
    image, _, tag = container["image"].partition(":")
    assert image == SERVICES["server"]["image"].partition(":")[0]
    assert tag == ("gpu" if folder.name == "gpu" else "local")
    [config] = [one["data"] for one in resources if one["kind"] == "ConfigMap"]
    assert config.items() >= SETTINGS.items()


@needs_kustomize
def test_the_overlays_differ_as_their_names_say() -> None:
    gpu, stateful, cpu = (build(KUBERNETES / "overlays" / name) for name in ("gpu", "stateful", "cpu"))
    assert pods(gpu)[1]["resources"]["limits"]["nvidia.com/gpu"] == 1
    [config] = [one["data"] for one in gpu if one["kind"] == "ConfigMap"]
    assert config["LOCKSTEP_DEVICE"] == "cuda"
    assert workload(stateful)["kind"] == "StatefulSet"
    services = {one["metadata"]["name"] for one in stateful if one["kind"] == "Service"}
    assert workload(stateful)["spec"]["serviceName"] in services
    assert "HorizontalPodAutoscaler" in {one["kind"] for one in cpu}


@needs_kustomize
@pytest.mark.parametrize("overlay", ["cpu", "stateful"])
def test_components_go_with_any_overlay(tmp_path: Path, overlay: str) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    mine = tmp_path / "kubernetes" / "mine"
    mine.mkdir()
    components = [f"../components/{name}" for name in ("tls", "monitoring", "keda", "peers")]
    own = {"resources": [f"../overlays/{overlay}"], "components": components}
    if overlay == "cpu":
        own["resources"] = ["../base"]  # keda in place of its autoscaler
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(own))
    resources = build(mine)
    for resource in resources:
        validate(resource)
    pod, container = pods(resources)
    assert sorted(volumes(resources)) == sorted(one["name"] for one in container["volumeMounts"])
    assert "grpc" not in container["readinessProbe"]
    assert {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one} == {
        "lockstep-tls",
        "lockstep-auth",
        "lockstep-sequence-key",
    }
    assert {"ScaledObject", "PodMonitor", "PrometheusRule"} <= {one["kind"] for one in resources}


def test_the_network_policy_names_no_port_that_the_image_lacks() -> None:
    exposed = {str(DEFAULTS.port), str(DEFAULTS.metrics_port)}
    ports = manifest("base/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert {str(one["containerPort"]) for one in ports} == exposed
    assert re.fullmatch(r"/\w+", environment("server")["LOCKSTEP_MODELS"])

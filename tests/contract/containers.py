"""The compose, Kubernetes and Prometheus files as data, and the stages of the Dockerfile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, if there is one: every worker reads these files before its first test."""


def read_yaml(file: Path) -> Any:
    """A file with one YAML document."""
    return yaml.load(file.read_text(), LOADER)


COMPOSE: dict[str, Any] = read_yaml(ROOT / "docker-compose.yml")
GPU: dict[str, Any] = read_yaml(ROOT / "docker-compose.gpu.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = read_yaml(ROOT / "deploy/prometheus/prometheus.yml")
KUBERNETES = ROOT / "deploy" / "kubernetes"


def manifest(name: str) -> Any:
    """A Kubernetes file with one object."""
    return read_yaml(KUBERNETES / name)


DEPLOYMENT: dict[str, Any] = manifest("base/deployment.yaml")
SERVICE: dict[str, Any] = manifest("base/service.yaml")
NETWORK_POLICY: dict[str, Any] = manifest("base/network.yaml")
MUTUAL_TLS: dict[str, Any] = manifest("components/tls/mutual-tls.yaml")
POD_MONITOR: dict[str, Any] = manifest("components/monitoring/podmonitor.yaml")
[_SETTINGS] = manifest("base/kustomization.yaml")["configMapGenerator"]
SETTINGS: dict[str, str] = dict(one.split("=", 1) for one in _SETTINGS["literals"])
"""The variables of the server in Kubernetes."""


def stages() -> dict[str, list[tuple[str, str]]]:
    """(instruction, argument) pairs of each stage of the Dockerfile, including those of its base stages."""
    result: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, argument in _instructions():
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", argument).groups()
            result[name] = list(result.get(base, []))
        result[name].append((instruction, argument))
    return result


def arguments(stage: str, instruction: str) -> list[str]:
    return [argument for name, argument in stages()[stage] if name == instruction]


def environment(stage: str) -> dict[str, str]:
    return dict(part.split("=", 1) for line in arguments(stage, "ENV") for part in line.split())


def command(stage: str, instruction: str) -> list[str]:
    """The arguments of the last ENTRYPOINT or HEALTHCHECK in exec form."""
    [*_, last] = arguments(stage, instruction)
    words: list[str] = json.loads(last[last.index("[") :])
    return words


def seconds(written: str) -> float:
    """Parse a compose duration with a single unit."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", written).groups()
    return int(number) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[unit]


def with_defaults(word: str) -> str:
    """Replace `${NAME:-default}` by its default, as compose does if NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word)


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return [(instruction, argument.strip()) for instruction, argument in pairs]

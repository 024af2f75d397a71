"""`python -m deploy.ray`: the demo on a local cluster, with a report of its figures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep_client.server_process import ServerProcess

from . import measure, parts
from .cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLASSIFIERS = ["sentiment-gru", "sentiment-lstm", "sentiment-textcnn"]
_PARTS = ("configuration", "answers", "killed", "cancelled", "scaled", "multiplexed", "measured")
_SHORT = "short"
"""Alone: on one node, for `make test`."""


def run(arguments: Sequence[str]) -> int:
    """Run the parts in order. Returns the exit code: 1 if a check failed."""
    parser = argparse.ArgumentParser("deploy.ray", description="Run Lockstep on a local Ray cluster.")
    parser.add_argument("--models", default="models", help="model repository (%(default)s)")
    parser.add_argument("--only", default=",".join(_PARTS), help="parts, comma-separated (%(default)s)")
    parser.add_argument("--report", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    if chosen == [_SHORT]:
        return _run_short(str(Path(options.models).resolve()), options.report)
    if unknown := set(chosen) - set(_PARTS):
        parser.error(
            f"--only: there is no part {', '.join(sorted(unknown))}; choose from {', '.join(_PARTS)}"
        )
    models = str(Path(options.models).resolve())
    report: dict[str, Any] = {}

    def show(part: str, figures: dict[str, Any]) -> None:
        report[part] = figures
        print(f"{part}:", ", ".join(f"{key}: {value}" for key, value in figures.items()), flush=True)

    served = ["--only", ",".join({parts.CLASSIFIER, parts.WRITER, *_CLASSIFIERS})]
    every = {"models": models, "flags": served, "num_cpus": 1}
    try:
        if "configuration" in chosen:
            show("configuration", parts.configuration())
        with ServerProcess("--models", models, *served) as lone, LocalCluster(nodes=2) as cluster:
            lone.wait_ready()
            if {"answers", "killed"} & set(chosen):
                cluster.deploy(**every, min_replicas=2, max_replicas=2)
                print(f"2 nodes with a replica each, ingress on {cluster.address}", flush=True)
            if "answers" in chosen:
                show("answers", parts.answers(cluster, lone.address))
            if "killed" in chosen:
                show("killed", parts.killed(cluster, lone.address))
            if {"cancelled", "scaled"} & set(chosen):
                cluster.deploy(
                    **every,
                    max_replicas=2,
                    target_queue=2,
                    upscale_delay_s=1,
                    downscale_delay_s=1,
                    look_back_s=5,
                )
                cluster.wait_for_replicas(1)
            if "cancelled" in chosen:
                show("cancelled", parts.cancelled(cluster))
            if "scaled" in chosen:
                show("scaled", parts.scaled(cluster))
            if "multiplexed" in chosen:
                cluster.deploy(models=models, max_models=2, num_cpus=1)
                show("multiplexed", parts.multiplexed(cluster, lone.address, _CLASSIFIERS))
            if "measured" in chosen:
                cluster.deploy(**every)
                cluster.wait_for_replicas(1)
                show("measured", measure.measured(cluster, lone.address))
    except (parts.CheckError, TimeoutError) as error:
        print(f"ray-demo: {error}", file=sys.stderr)
        return 1
    if options.report is not None:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _run_short(models: str, report: Path | None) -> int:
    served = ["--only", f"{parts.CLASSIFIER},{parts.WRITER}"]
    try:
        with ServerProcess("--models", models, *served) as lone, LocalCluster(nodes=0) as cluster:
            cluster.deploy(models=models, flags=served, num_cpus=1, min_replicas=2, max_replicas=2)
            lone.wait_ready()
            shown = parts.short(cluster, lone.address)
    except (parts.CheckError, TimeoutError) as error:
        print(f"ray-demo: {error}", file=sys.stderr)
        return 1
    print(f"{_SHORT}:", ", ".join(f"{key}: {value}" for key, value in shown.items()))
    if report is not None:
        report.write_text(json.dumps({_SHORT: shown}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

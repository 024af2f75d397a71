"""All rules as one object for the Prometheus operator, which takes no files."""

from __future__ import annotations

import textwrap

_HEAD = """\
# Written by `make dashboards` from deploy/prometheus/rules/*.yml, for the Prometheus operator.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: lockstep
  labels:
    app.kubernetes.io/name: lockstep
spec:
  groups:
"""


def prometheus_rule(*files: str) -> str:
    """`files` are the texts of files of rules."""
    return _HEAD + "".join(textwrap.indent(text.split("\ngroups:\n", 1)[1], "  ") for text in files)

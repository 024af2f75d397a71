"""Grafana dashboards, one module each, built from `panel_types` and `promql` expressions."""

from . import batching, decoding, machine, service

DASHBOARDS = (service.DASHBOARD, batching.DASHBOARD, decoding.DASHBOARD, machine.DASHBOARD)

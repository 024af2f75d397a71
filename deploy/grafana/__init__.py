"""The dashboards: parts.py and promql.py make panels, one module a dashboard arranges them."""

from . import batching, decoding, machine, service

DASHBOARDS = (service.DASHBOARD, batching.DASHBOARD, decoding.DASHBOARD, machine.DASHBOARD)

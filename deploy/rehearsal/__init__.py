"""Runs a server, a load and a Prometheus with the shipped configuration, and queries the dashboards.

processes (starts all three) -> traffic (sends requests) -> grafana (expressions of the dashboards)
-> prometheus (HTTP API client) -> dashboard_picture (draws a dashboard)

tests/observability queries every expression. `python -m deploy.rehearsal` draws the pictures of
docs/observability.md. Needs `prometheus` on the PATH (Debian and Ubuntu: apt install prometheus) and
`pip install '.[server-cpu,plot]'`.
"""

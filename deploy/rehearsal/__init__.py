"""Runs a server, a load and a Prometheus with the shipped configuration, and queries the dashboards.

processes (starts all three) -> traffic (sends requests) -> grafana (expressions of the dashboards)
-> prometheus (HTTP API client) -> dashboard_picture (draws a dashboard)

page drives the page of `lockstep ui` in a browser, for its pictures and tests/integration/test_page.py.

tests/observability queries every expression. `python -m deploy.rehearsal` draws the pictures of docs/ui.md
and docs/observability.md. Needs `prometheus` and `chromium` on the PATH (Debian and Ubuntu: apt install
prometheus chromium) and `pip install '.[server-cpu,plot,ui]' playwright`.
"""

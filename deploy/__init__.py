"""Deployment of the server: Grafana dashboards, Prometheus rules and Kubernetes manifests.

`python -m deploy` generates the dashboards (`grafana/`) and rules (`prometheus/burn_rates.py`).
`python -m deploy.rehearsal` runs them against a real server and draws the dashboards.
"""

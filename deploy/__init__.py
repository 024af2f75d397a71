"""What an operator starts beside the server: dashboards, rules, compose and Kubernetes files.

`python -m deploy` writes what is generated: the dashboards of `grafana/` and the rules of
`prometheus/burn_rates.py`. `python -m deploy.rehearsal` runs all of it against a real server.
"""

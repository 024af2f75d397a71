"""What is shipped, run for real: a server, a load, a Prometheus with the shipped configuration.

stage.py starts them -> traffic.py calls the server -> grafana.py reads the dashboards' expressions as
Grafana would send them -> prometheus.py asks -> draw.py shows. tests/observability asks everything;
`python -m deploy.rehearsal` draws the pictures of docs/observability.md. Needs `prometheus` on the
PATH (Debian and Ubuntu: apt install prometheus) and `pip install '.[server-cpu,plot]'`.
"""

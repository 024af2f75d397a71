"""Prometheus metrics: metric types, the metric families of the server, and the HTTP endpoints."""

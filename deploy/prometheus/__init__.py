"""Prometheus configuration, rules and targets. `burn_rates` generates rules/objectives.yml."""

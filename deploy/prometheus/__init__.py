"""What Prometheus reads: prometheus.yml, rules, targets. burn_rates.py writes rules/objectives.yml."""

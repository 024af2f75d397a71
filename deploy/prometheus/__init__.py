"""What Prometheus reads: prometheus.yml, rules, targets. objectives.py writes rules/objectives.yml."""

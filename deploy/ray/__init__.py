"""Lockstep on Ray Serve: a configuration file, and a demo on a local cluster of several nodes.

`python -m deploy.ray` starts the nodes, deploys the application and runs the parts of `parts.py`, which check
what they show. It runs in an environment with the extra `ray`.
"""

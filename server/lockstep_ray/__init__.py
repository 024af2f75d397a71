"""Lockstep as an application of Ray Serve: servers as replicas behind Serve's gRPC ingress.

caller → Serve's gRPC proxy (`ingress`) → router (`routing`) → replica (`replica`) → its own `lockstep-serve`

`application.build` makes the application; `scaling` decides how many replicas there are. Nothing else in this
project imports Ray.
"""

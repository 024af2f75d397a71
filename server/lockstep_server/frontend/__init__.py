"""The front end without gRPC: requests in flight, admission control, model registry, request log, traces."""

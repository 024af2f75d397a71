"""The front end's core: requests in flight, admission, model registry, request log and traces. No gRPC."""

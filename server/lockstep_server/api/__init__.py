"""The gRPC services: translate and validate requests, delegate to the front end, translate results."""

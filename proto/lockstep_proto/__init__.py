"""The wire contracts of Lockstep: generated protobuf and gRPC stubs."""

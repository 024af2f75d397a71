"""Fuzzing: mutated bytes to every RPC, both ports, and every file that the server reads."""

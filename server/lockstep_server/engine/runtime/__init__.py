"""Shared by both engines: ONNX Runtime sessions, the device scheduler and padding."""

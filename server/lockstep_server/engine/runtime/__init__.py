"""What both engines run on: ONNX Runtime sessions, the device's scheduler, padding."""

"""Servers of the comparison, each run as a script in an environment of its own; they import nothing of ours
but `onnx_model.py`, except `sixty_lines.py`, which shares our environment and our protocol's stubs."""

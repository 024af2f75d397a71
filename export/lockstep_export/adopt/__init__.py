"""Adopts graphs that others have exported: finds out what their tensors mean and writes model.toml.

an ONNX file, a folder of them, or a folder of `optimum`
→ source.py: files and configurations → graph.py: tensors of each graph → pairing.py: states by their names
→ inputs.py: what the other inputs mean → oneshot.py, stepwise.py, seq2seq.py: the tables of model.toml
→ selftest.py: the server's own test → publication

Each decision, with its reason, goes into a `Report`, and so does what could not be decided, with the line of
model.toml that decides it. Graphs are copied byte for byte.
"""

from lockstep_export.adopt.adoption import Adoption, adopt

__all__ = ["Adoption", "adopt"]

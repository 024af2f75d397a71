"""Trains the zoo's sequence models in PyTorch and exports them to ONNX with proven parity.

The path of a model: data → tokenizers → lesson → train → onnx → parity → manifest. What a task does its own
way lies in its folder (`classify`, `generate`, `translate`), behind the verbs of `trade`; the rest is the
same for all. What comes out is a folder `<name>/{model.toml, *.json, 1/*.onnx}` that the server loads; the
two sides share nothing else.
"""

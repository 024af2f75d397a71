"""Trains the zoo's sequence models in PyTorch and exports them to ONNX with proven parity.

The path of a model: data → tokenizer → train → onnx → parity → manifest. What comes out is a folder
`<name>/{model.toml, tokenizer.json, 1/model.onnx}` that the server loads; the two sides share nothing else.
"""

"""Export of modules that are not the zoo's: anybody's `nn.Module` to a proven folder that the server loads.

what its author says (contract.py: axes.py, task.py) → what the module does, asked before anything is
exported (examination.py, samples.py) → its faces (face.py, derivation.py) → ../onnx.py → proof.py
→ publication.py (../manifest.py). `oneshot.py` and `stepwise.py` are the two ways in.
"""

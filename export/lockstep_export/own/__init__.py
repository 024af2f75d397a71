"""Export of modules that are not the zoo's: anybody's `nn.Module` to a proven folder that the server loads.

what its author says (serving.py, axes.py, task.py → reading.py → contract.py)
    → what the module does, asked before anything is exported (samples.py → examination.py)
    → its faces (face.py; derivation.py or written.py) → ../onnx.py
    → proof, against the module (proof.py, walking.py) → publication.py (../manifest.py)

`oneshot.py` and `stepwise.py` are the two ways in.
"""

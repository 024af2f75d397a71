"""Studies of the architectures: common claims about them, measured and reported whatever the result.

    a study's file: plan → measure → rows            the only part that takes time
    the same file:  rows → finding, table, panels    pure: the text follows from the numbers
    report.py:      rows → NAME.json, NAME.svg, README.md of the folder

`catalogue.py` lists all studies, `command.py` is `lockstep-export study`. The studies share `encoders.py`
(layers of one width), `graphs.py` (layers as ONNX graphs) and `formatting.py` (numbers as text).
"""

"""Studies of the architectures: what a course claims of them, measured here and told as it comes out.

    a study's file: plan → measure → rows            the only part that takes time
    the same file:  rows → finding, table, panels    pure: the text follows from the numbers
    report.py:      rows → NAME.json, NAME.svg, README.md of the folder

`catalogue.py` names them all, `command.py` is `lockstep-export study`. Several studies share `encoders.py`
(layers of one width), `laps.py` (who takes how long, in turn) and `wording.py`.
"""

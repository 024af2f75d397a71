"""Three servers behind HAProxy, under load, while servers are stopped, stalled and killed.

`integration/test_fleet.py` checks the promises of docs/scaling.md in short, `python -m fleet` (make fleet)
for as long as wanted.
"""

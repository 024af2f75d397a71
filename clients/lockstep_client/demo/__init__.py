"""The main job in half a minute: `python -m lockstep_client.demo`, or `make demo`.

start a server on the shipped models → wait until each is healthy → the acts, one after another (program.py)
→ stop the server. Everything goes through this package's own client; the server is a process of its own and
knows nothing of this. An act whose model is not there says so, and the next one begins.
"""


class DemoError(Exception):
    """The demo cannot be shown; the message says why, and what to do."""

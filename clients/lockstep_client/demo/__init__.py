"""A demo of Lockstep in half a minute: `lockstep demo`, or `make demo` in a checkout.

start a server on the shipped models → wait until each model is healthy → run the parts in order (program.py)
→ stop the server. The demo uses the public client; the server is an ordinary server process. A part whose
model is missing is skipped with a message.
"""


class DemoError(Exception):
    """The demo cannot run. The message states why, and the fix."""

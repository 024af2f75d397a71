"""Settings of all tests."""

import signal

from hypothesis import HealthCheck, settings

# How long an example takes depends on the machine; what it finds must not.
settings.register_profile(
    "lockstep", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lockstep")


def pytest_configure() -> None:
    """A shell that starts us in the background has us ignore Ctrl-C, and our servers inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

"""Settings of all tests."""

import gc
import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from made_once import RUN_FOLDER
from patience import SLOWNESS, limit_s

# Set before torch is imported, for this process and those that it starts: small tensors gain nothing from
# threads and lose much where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on the machine; what it finds must not.
settings.register_profile(
    "lockstep", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lockstep")


gc.disable()  # until all tests are collected


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Before pytest-timeout reads it; workers are given the scaled value.
    if config.option.timeout is None:
        config.option.timeout = limit_s(float(config.getini("timeout")))
    if not hasattr(config, "workerinput"):  # workers inherit the environment
        os.environ[RUN_FOLDER] = folder = tempfile.mkdtemp(prefix="lockstep-tests-")
        os.environ["LOCKSTEP_CACHE"] = (
            f"{folder}/cache"  # servers share measurements, and leave the user's alone
        )
    # A background job ignores Ctrl-C, and one of nohup SIGHUP; our servers would inherit that.
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[RUN_FOLDER], ignore_errors=True)


def pytest_collection_finish() -> None:
    """Modules and tests stay: the collector of garbage need not visit them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


def pytest_report_header() -> str:
    return f"time limits: {SLOWNESS:.1f} times those of an idle machine"

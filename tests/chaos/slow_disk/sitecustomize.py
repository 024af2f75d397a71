"""A slow disk for a server that runs with this folder on its PYTHONPATH.

Every file and folder below the folders of LOCKSTEP_CHAOS_SLOW (separated by colons) takes up to
LOCKSTEP_CHAOS_SLOW_S seconds to open or to list.
"""

import os
import random
import sys
import time

_FOLDERS = tuple(filter(None, os.environ.get("LOCKSTEP_CHAOS_SLOW", "").split(":")))
_LONGEST_S = float(os.environ.get("LOCKSTEP_CHAOS_SLOW_S", "0"))


def _wait(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(_FOLDERS):
        time.sleep(random.random() * _LONGEST_S)


if _FOLDERS and _LONGEST_S:
    sys.addaudithook(_wait)

"""`lockstep-serve` as the child of a replica: it ends when the replica's process does. Linux.

Ray ends a worker with SIGKILL, after which nobody else would end the server.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """`python -m lockstep_ray.served PARENT_PID FLAGS...`"""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv.pop(1)):
        raise SystemExit("the replica that started this server has ended")
    from lockstep_server.__main__ import main as serve

    serve()


if __name__ == "__main__":
    main()

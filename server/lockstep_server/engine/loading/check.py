"""Loads one model as the server does, reports what the self-test found, and ends.

`python -m lockstep_server.engine.loading.check ROOT NAME [VERSION]` → lines of JSON; the last is one of two:

    {"step": "self-test"}                                                          what begins now
    {"modes": [{"mode": "stepwise", "batched": true, "padded": true, "notice": ""}]}   exit status 0
    {"error": "models/x/model.toml: roles.scores: …"}                                  exit status 1
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ... import messages
from ...errors import LoadError
from ..runtime.device import CPU
from ..runtime.device_scheduler import DeviceScheduler
from ..runtime.run_watch import RunWatch
from .loader import Loader
from .repository import find_versions


def check(root: Path, name: str, version: int = 1) -> dict[str, Any]:
    """What the load of one model version finds, on the CPU.

    Raises:
        LoadError: the model cannot be served. Names the file, the key and how to fix it.
    """
    config = messages.EngineConfig(models=str(root), device="cpu")
    entries = [entry for entry in find_versions(root, name) if entry.version == version]
    if not entries:
        raise LoadError(f"{root / name}: no version {version}; add the graph {version}/model.onnx")
    scheduler = DeviceScheduler(1, config.max_run_s)
    watch = RunWatch(on_step=lambda _, step: print(json.dumps({"step": step}), flush=True))
    with watch.load(name):
        loaded = Loader(config, CPU, scheduler, watch).load(entries[0], lambda _: None)
    return {
        "modes": [
            {
                "mode": model.spec.mode,
                "batched": model.spec.batched,
                "padded": model.spec.padded,
                "notice": model.spec.notice,
            }
            for model in loaded
        ]
    }


def main() -> int:
    root, name, *version = sys.argv[1:]
    try:
        found = check(Path(root), name, *map(int, version))
    except LoadError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
    return 1 if "error" in found else 0


if __name__ == "__main__":
    sys.exit(main())

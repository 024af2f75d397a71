"""Imports: coexistence with tritonclient, and the modules that an import loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from patience import PATIENCE_S

OURS = "import lockstep_client.client, lockstep_client.inference as ours; m = ours.ModelInferRequest(id='a')"
THEIRS = "import tritonclient.grpc.service_pb2 as theirs; t = theirs.ModelInferRequest(id='a')"
SAME = "assert m.SerializeToString() == t.SerializeToString(); assert type(m) is not type(t)"


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_tritonclient_works_in_the_same_process(order):
    python("; ".join([*order, SAME]))


def test_the_default_pools_inference_messages_are_never_imported():
    loaded = python("import sys, lockstep_client.client, lockstep_client.cli; print(*sys.modules)").split()
    assert "lockstep.open_inference_pb2" not in loaded
    assert not {"onnxruntime", "torch", "lockstep_server", "lockstep_export"} & set(loaded)


def test_the_command_line_starts_without_grpc_and_numpy():
    loaded = python("import sys, lockstep_client.cli; print(*sys.modules)").split()
    assert not {"grpc", "numpy"} & set(loaded)


def test_every_exported_name_exists():
    python("import lockstep_client as lc; [getattr(lc, name) for name in lc.__all__]")

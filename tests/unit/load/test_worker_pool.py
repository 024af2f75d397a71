"""How worker processes end: failed before the start, or abandoned by the parent."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from patience import PATIENCE_S

from lockstep_load import worker
from lockstep_load.lengths import parse
from lockstep_load.plan import (
    LoadPattern,
    LoadProfile,
    OpenLoop,
    Target,
    WorkerJob,
    Workload,
    worker_jobs,
)
from lockstep_load.worker_messages import WorkerDone, WorkerFailed, WorkerReady
from lockstep_load.worker_pool import WorkerPool

if TYPE_CHECKING:
    import pytest


def job(pattern: LoadPattern, tls: str = "", seconds: float = 10.0) -> WorkerJob:
    lengths = parse("3")
    assert lengths is not None
    load = LoadProfile(pattern, seconds, warmup_s=0.0)
    (made,) = worker_jobs(Target("localhost:1", "m", tls=tls), Workload("classify", lengths), load)
    return made


async def test_a_worker_whose_parent_exits_before_the_start_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "CONNECT_TIMEOUT_S", 0.01)
    received: asyncio.Queue[Any] = asyncio.Queue()
    received.put_nowait(None)
    messages: list[Any] = []
    await worker.run_job(job(OpenLoop(10.0)), received, messages.append)
    assert [type(one) for one in messages] == [WorkerReady, WorkerDone]
    assert received.get_nowait() is None


def test_a_worker_that_cannot_start_is_reported_and_not_awaited() -> None:
    messages: list[Any] = []
    with WorkerPool(1) as workers:
        worker_job = [job(OpenLoop(10.0), tls="/there/is/none.pem")]
        run = threading.Thread(
            target=workers.run,
            args=(worker_job, messages.append, lambda: None, lambda: False),
            daemon=True,
        )
        run.start()
        run.join(PATIENCE_S)
        assert not run.is_alive()
    (failed,) = messages
    assert isinstance(failed, WorkerFailed)
    assert "none.pem" in failed.error

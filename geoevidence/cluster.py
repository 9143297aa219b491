"""Worker processes for engines that divide their work: of this machine alone, or a Dask cluster that is there already.

In: how many workers, or an address. Out: a connected client, closed with everything it started. Nothing listens but on 127.0.0.1, and
whoever connects needs keys made for the run (TLS). It hands out no task and checks nothing of who answers at an address.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def local_workers(count: int, *, lives: int) -> Iterator[Client]:
    """Worker processes of one thread on this machine, without web pages and without a limit of memory of their own.

    Args:
        count: of workers. lives: how many workers a task may lose before it is given up (`distributed.KilledWorker`).
    """
    import dask
    from distributed import Client, LocalCluster

    quiet = {
        "distributed.scheduler.allowed-failures": lives,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.admin.low-level-log-length": 0,
    }
    with (
        tempfile.TemporaryDirectory(prefix="geoevidence-workers-") as scratch,
        dask.config.set(quiet),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            security=True,
            memory_limit=0,
            local_directory=scratch,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def workers_at(address: str) -> Iterator[Client]:
    """The cluster whose scheduler listens at an address. Raises OSError, ValueError, TimeoutError where none answers in ten seconds."""
    from distributed import Client

    with Client(address, timeout="10s") as client:
        yield client

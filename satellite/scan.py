"""Who does the tasks of a region scan: this process, processes of this machine, or a Dask cluster that is there already.

In: a `Job` and named tasks of its `Bench`. Out: each result, or why there is none, as it gets done. A bounded number of
tasks is on the way at once, so that a scan of a hundred thousand tiles is no graph of a hundred thousand nodes. A worker that
dies is replaced and its task tried again; a task that kills its workers fails alone. Dask appears here and nowhere else in this
package; no file is written here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from types import TracebackType
from typing import Any

import numpy as np

from geoevidence.cluster import local_workers, workers_at
from geoevidence.errors import ConfigError, GeoEvidenceError, InputError
from geoevidence.types import Message
from satellite.fused import STRIP_ROWS, Bench, Job, code_digest
from satellite.stack import Stack

_IN_FLIGHT = 3
"""Tasks handed out for each worker thread: one at work, the next ones on the way."""

_LIGHT = {"settle"}
"""Tasks that take less time than starting workers for them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task gave nothing."""

    reason: Message


def attempt(bench: Bench, work: str, args: tuple[Any, ...]) -> Any:
    """The result of a method of the bench, or a `Failure`: one bad tile must not end the scan."""
    try:
        return getattr(bench, work)(*args)
    except GeoEvidenceError as error:
        values = {
            name: value if isinstance(value, (int, str)) and not isinstance(value, bool) else str(value)
            for name, value in error.values.items()
        }
        return Failure(Message(id=error.message_id, values=values))
    except Exception as error:
        return Failure(Message(id="satellite.scan_task_failed", values={"error": type(error).__name__}))


def _remote(work: str, args: tuple[Any, ...]) -> Any:
    from distributed import get_worker

    return attempt(get_worker().geoevidence_bench, work, args)  # type: ignore[attr-defined]


def _worker_code() -> str:
    return code_digest()


class Crew:
    """Does tasks: in this process, in processes of this machine, or on a cluster. A bounded number is on the way at once."""

    def __init__(self, job: Job, *, workers: int, address: str = "") -> None:
        self._job, self._workers, self._address = job, workers, address
        self._bench = Bench(job)
        self._client: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Crew:
        self._stack.callback(self._bench.close)
        return self

    def _start(self) -> None:
        from distributed import WorkerPlugin

        job = self._job

        class BenchPlugin(WorkerPlugin):  # type: ignore[misc]
            """Puts the bench onto each worker, also onto one that takes the place of a dead one."""

            name = "geoevidence-scan"

            def setup(self, worker: Any) -> None:
                worker.geoevidence_bench = Bench(job)

        with ExitStack() as stack:
            if not self._address:
                client = stack.enter_context(local_workers(self._workers, lives=2))
            else:
                try:
                    client = stack.enter_context(workers_at(self._address))
                except (OSError, ValueError, TimeoutError) as error:
                    raise InputError("satellite.scan_no_cluster", address=self._address, reason=str(error)) from error
                others = {digest for digest in client.run(_worker_code).values() if digest != code_digest()}
                if others or not client.scheduler_info()["workers"]:
                    raise InputError("satellite.scan_other_code", address=self._address)
            client.register_plugin(BenchPlugin())
            self._client = client
            self._stack.enter_context(stack.pop_all())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def run(self, work: str, items: Iterable[tuple[Any, tuple[Any, ...]]]) -> Iterator[tuple[Any, Any]]:
        """(name, result or `Failure`) of each (name, arguments) of a method of `Bench`, as they get done."""
        left = iter(items)
        if self._client is None:
            # Workers take seconds to start: what is little, or nothing, is done here.
            first = list(islice(left, 2))
            left = chain(first, left)
            if (self._workers == 1 and not self._address) or len(first) < 2 or work in _LIGHT:
                for name, args in left:
                    yield name, attempt(self._bench, work, args)
                return
            self._start()
        from distributed import KilledWorker, as_completed

        names: dict[str, Any] = {}
        done = as_completed()
        width = _IN_FLIGHT * max(1, sum(self._client.nthreads().values()))

        def hand_out() -> None:
            for name, args in left:
                future = self._client.submit(_remote, work, args, pure=False)
                names[future.key] = name
                done.add(future)
                return

        for _ in range(width):
            hand_out()
        for future in done:
            name = names.pop(future.key)
            hand_out()
            if future.status == "finished":
                result = future.result()
            elif future.status == "error" and isinstance(future.exception(), KilledWorker):
                result = Failure(Message(id="satellite.scan_worker_died"))
            elif future.status == "error":
                error = type(future.exception()).__name__
                result = Failure(Message(id="satellite.scan_task_failed", values={"error": error}))
            else:
                raise InputError("satellite.scan_cluster_lost")
            yield name, result


def tile_bytes(stack: Stack, size: int) -> int:
    """Memory that one worker takes for a tile, bytes: the cube with its states, `STRIP_ROWS` of its rows once more in the detector's
    order, and 800 MB of program, files and events."""
    rows, cols = min(size, stack.grid.shape[0]), min(size, stack.grid.shape[1])
    item = np.dtype(stack.storage.dtype).itemsize
    return int((rows + STRIP_ROWS) * cols * len(stack.days) * (len(stack.spec.bands) * item + 1)) + 800_000_000


def worker_count(asked: int | None, stack: Stack, size: int) -> int:
    """Workers on this machine that fit. Raises ConfigError when more are asked for than memory holds."""
    from distributed.system import MEMORY_LIMIT  # also knows the limit of a container

    have, need = int(MEMORY_LIMIT), tile_bytes(stack, size)
    fitting = int(0.85 * have / need)
    if asked is None:
        return max(1, min(os.cpu_count() or 1, fitting))
    if asked < 1:
        raise ConfigError("satellite.setting_out_of_range", name="workers", value=asked, low=1, high="-")
    if asked > 1 and asked > fitting:
        values = {"need": f"{asked * need / 1e9:.1f}", "have": f"{have / 1e9:.1f}", "workers": asked, "tile": size}
        raise ConfigError("satellite.scan_memory", **values)
    return asked

"""Windows computed by other processes of this machine, or by the workers of a Dask cluster: one loop over futures.

The coordinator alone writes and journals, so a lost worker costs the windows that it had in flight and nothing else.
Workers must see the same files (images, weights, work folder) under the same paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from threading import Lock

import torch

from competition.configuration import Backbone
from competition.images import ImageSet
from competition.messages import log, on_stderr
from features.dumps.layout import Target
from features.dumps.part_tables import PartTable
from features.extraction.batching import Window, compute_window
from features.extraction.device_claims import own_device
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine
from features.extraction.learn_parts import part_models
from features.extraction.settings import Settings, available_cores
from features.search.sharding import cluster_client

ATTEMPTS = 5  # in a row without a single window done
LOST = ("TerminatedWorkerError", "BrokenProcessPool", "KilledWorker", "CancelledError")


@dataclass(frozen=True)
class Assignment:
    """What every window of a pass needs. cores: as in `Engine`; tables: of the part detectors, learnt already."""

    backbone: Backbone
    settings: Settings
    cores: int | None
    tables: tuple[PartTable, ...]
    targets: tuple[Target, ...]


def computed_elsewhere(
    engine: Engine,
    tables: Sequence[PartTable],
    images: ImageSet,
    group: DumpGroup,
    jobs: int,
    cluster: str | None,
) -> Iterator[Window]:
    """Compute windows in `jobs` processes, or by the workers of the Dask scheduler at `cluster`, in any order.

    Tasks are drawn as they go out, so memory does not grow with the gallery. Twins in one window are run once.
    """
    cores = None if cluster else max(1, available_cores() // jobs)
    without_ids = tuple(replace(table, ids=()) for table in tables)  # only learning needs them
    assignment = Assignment(engine.backbone, engine.settings, cores, without_ids, tuple(group.targets))
    windows = group.pending()
    again: list[tuple[range, list[int]]] = []
    failures = 0
    while True:
        waiting: dict[Future, tuple[range, list[int]]] = {}
        try:
            with _executor(jobs, cluster, assignment.settings.threads) as (pool, at_once):
                while True:
                    while len(waiting) < 2 * at_once:
                        pending = again.pop(0) if again else next(windows, None)
                        if pending is None:
                            break
                        rows, needed = pending
                        if needed:
                            sent = pool.submit(compute_rows, assignment, rows, needed, images.rows(needed))
                            waiting[sent] = pending
                        else:
                            yield Window(rows, asdict(assignment.settings))
                    if not waiting:
                        return
                    for done in sorted(wait(waiting, return_when=FIRST_COMPLETED).done, key=_failed):
                        window = done.result()
                        failures = 0
                        del waiting[done]
                        yield window
        except Exception as error:
            failures += 1
            if type(error).__name__ not in LOST or failures == ATTEMPTS:
                raise
            again = list(waiting.values()) + again
            log.warning(f"a worker was lost ({type(error).__name__}): {len(waiting)} windows go out again")


def _failed(future: Future) -> bool:
    return future.cancelled() or future.exception() is not None


@contextmanager
def _executor(jobs: int, cluster: str | None, threads: int) -> Iterator[tuple[Executor, int]]:
    """Open what runs the calls; yields it and how many it runs at once."""
    if cluster:
        with cluster_client(cluster) as client:
            yield client.get_executor(pure=False), max(1, sum(client.ncores().values()))
        return
    from joblib.externals.loky import get_reusable_executor  # the next pass finds the processes as they are

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    pool = get_reusable_executor(jobs, timeout=300, env=dict.fromkeys(names, str(threads)))
    try:
        yield pool, jobs
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise


@on_stderr()
def compute_rows(assignment: Assignment, rows: range, needed: Sequence[int], images: ImageSet) -> Window:
    """In a worker: the window of `rows`, of which `images` are those `needed`."""
    engine = _engine(assignment)
    pictures = engine.pictures(images, range(len(images)))
    placed = (replace(picture, row=needed[picture.row]) for picture in pictures)
    with closing(pictures):
        return compute_window(engine, assignment.targets, rows, placed, needed)


_engines: dict[str, Engine] = {}  # the one that this process built last
_building = Lock()


def _engine(assignment: Assignment) -> Engine:
    """The engine of this process, built once for all windows of a backbone."""
    settings, counts = assignment.settings, tuple(target.count for target in assignment.targets)
    key = repr((assignment.backbone, settings, assignment.cores, assignment.tables, counts))
    with _building:
        if key not in _engines:
            _engines.clear()
            if settings.device == "cuda" and (devices := torch.cuda.device_count()) > 1:
                torch.cuda.set_device(own_device(devices))
            engine = Engine(assignment.backbone, settings, cores=assignment.cores)
            engine.part_models = part_models(assignment.tables, assignment.targets)
            _engines[key] = engine
        return _engines[key]

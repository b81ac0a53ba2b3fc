"""The same windows computed by several processes of this machine, or by the workers of a Dask cluster.

The coordinator alone writes and journals, so a lost worker costs the windows that it had in flight and
nothing else. Workers must see the same files (images, weights, work folder) under the same paths.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import torch

from competition.configuration import Backbone, Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet
from features.extraction.engine import Engine
from features.extraction.passes import Producer, Result, Task
from features.extraction.reading import read_ahead
from features.extraction.settings import Settings
from features.extraction.targets import Target
from features.extraction.windows import Window, blank_window, compute_window

ATTEMPTS = 5


@dataclass(frozen=True)
class Shard:
    """A task as it travels: the window's first row, its length, and the images to run with their places."""

    number: int
    start: int
    rows: int
    places: tuple[int, ...]
    images: ImageSet


def elsewhere(
    configuration: Configuration,
    engine: Engine,
    images: ImageSet,
    targets: Sequence[Target],
    widths: Sequence[int],
    jobs: int,
    cluster: str | None,
) -> Producer:
    """A producer for `run_pass`: tasks go out to `jobs` processes, or to the Dask scheduler at `cluster`."""

    def produce(tasks: Iterator[Task]) -> Iterator[Result]:
        waiting = {task.number: task for task in tasks}
        for attempt in range(ATTEMPTS):
            try:
                shards = [_shard(task, images) for task in waiting.values() if task.needed]
                for number in [task.number for task in waiting.values() if not task.needed]:
                    task = waiting.pop(number)
                    yield Result(task, blank_window(task.rows, widths), asdict(engine.settings))
                for number, window, settings in _sent(
                    shards, configuration, engine, targets, widths, jobs, cluster
                ):
                    yield Result(waiting.pop(number), window, settings)
                return
            except Exception as error:
                if not _worker_lost(error) or attempt == ATTEMPTS - 1:
                    raise
                print(
                    f"a worker was lost ({type(error).__name__}): {len(waiting)} windows go out again",
                    file=sys.stderr,
                )

    return produce


def _shard(task: Task, images: ImageSet) -> Shard:
    places = tuple(row - task.rows.start for row in task.needed)
    return Shard(task.number, task.rows.start, len(task.rows), places, images.rows(task.needed))


def _sent(
    shards: Sequence[Shard],
    configuration: Configuration,
    engine: Engine,
    targets: Sequence[Target],
    widths: Sequence[int],
    jobs: int,
    cluster: str | None,
) -> Iterator[tuple[int, Window, dict]]:
    import joblib

    backbone, settings = engine.backbone, engine.settings
    with ExitStack() as stack:
        if cluster:
            stack.enter_context(_dask_client(cluster))
            stack.enter_context(joblib.parallel_config(backend="dask"))
            jobs = -1
        else:
            stack.enter_context(
                joblib.parallel_config(backend="loky", inner_max_num_threads=settings.threads)
            )
        calls = (
            joblib.delayed(compute_shard)(
                configuration, backbone, settings, shard, tuple(targets), tuple(widths)
            )
            for shard in shards
        )
        yield from joblib.Parallel(
            n_jobs=jobs, return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1
        )(calls)


def _dask_client(cluster: str):
    try:
        from dask.distributed import Client
    except ImportError:
        raise ConfigurationError(
            "--cluster needs Dask: install the extra [cluster] (dask[distributed])"
        ) from None
    try:
        return Client(cluster, timeout="20s")
    except OSError as error:
        raise Top7Error(
            f"--cluster {cluster}: no Dask scheduler answers there ({error}): start one with `dask "
            "scheduler`, or give its address as tcp://host:port"
        ) from None


def _worker_lost(error: BaseException) -> bool:
    return type(error).__name__ in (
        "TerminatedWorkerError",
        "BrokenProcessPool",
        "KilledWorker",
        "CancelledError",
    )


def compute_shard(
    configuration: Configuration,
    backbone: Backbone,
    settings: Settings,
    shard: Shard,
    targets: tuple[Target, ...],
    widths: tuple[int, ...],
) -> tuple[int, Window, dict]:
    """In a worker: one window. The engine is built once in each process."""
    engine = _engine(
        configuration.path,
        configuration.competition.work,
        backbone.name,
        _Held(configuration, backbone),
        settings,
    )
    pictures = read_ahead(
        shard.images,
        range(len(shard.places)),
        engine.sizings(),
        workers=settings.decode_threads,
        ahead=4 * settings.batch_rows,
    )
    rows = range(shard.start, shard.start + shard.rows)
    placed = (replace(picture, row=rows.start + shard.places[picture.row]) for picture in pictures)
    needed = [rows.start + place for place in shard.places]
    try:
        window = compute_window(engine, targets, widths, rows, placed, needed=needed)
    finally:
        pictures.close()
    return shard.number, window, asdict(engine.settings)


class _Held:
    """An argument that a cache does not look at: the others identify it."""

    def __init__(self, configuration: Configuration, backbone: Backbone) -> None:
        self.configuration, self.backbone = configuration, backbone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and repr(self.backbone) == repr(other.backbone)

    def __hash__(self) -> int:
        return hash(repr(self.backbone))


@lru_cache(maxsize=1)
def _engine(path: object, work: object, name: str, held: _Held, settings: Settings) -> Engine:
    from features.extraction.learning import open_part_model

    if settings.device == "cuda" and torch.cuda.device_count() > 1:
        torch.cuda.set_device(_ordinal() % torch.cuda.device_count())
    engine = Engine(held.backbone, settings)
    for parts in held.backbone.parts:
        engine.part_models[parts] = open_part_model(held.configuration, held.backbone, parts)
    return engine


def _ordinal() -> int:
    """The number of this worker process: loky and multiprocessing count theirs, others go by process id."""
    identity = multiprocessing.current_process()._identity
    return identity[-1] - 1 if identity else os.getpid()

"""The same windows computed by several processes of this machine, or by the workers of a Dask cluster.

The coordinator alone writes and journals, so a lost worker costs the windows that it had in flight and
nothing else. Workers must see the same files (images, weights, work folder) under the same paths.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from threading import Lock

import torch

from competition.configuration import Backbone, Configuration
from competition.images import ImageSet
from competition.messages import log, on_stderr
from features.dumps.layout import Target
from features.extraction.backbone_pass import columns_of
from features.extraction.batching import Window, blank_window, compute_window
from features.extraction.contents import Contents, done_contents, task_contents
from features.extraction.decode_ahead import Timed, read_ahead
from features.extraction.devices import own_device
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine
from features.extraction.settings import Settings, available_cores
from features.extraction.tasks import Producer, Result, Task
from features.sharding import on_cluster

ATTEMPTS = 5  # in a row without a single window done


@dataclass(frozen=True)
class Shard:
    """A task as it travels: the window's first row, its length, the images to run with their places, and the
    contents that some of them may share with rows done already, content hash -> row.
    """

    number: int
    start: int
    rows: int
    places: tuple[int, ...]
    images: ImageSet
    known: Mapping[bytes, int]


@dataclass(frozen=True)
class Answer:
    """What a worker gives for a shard. window: None where nothing was to be run; times as in `Result`."""

    number: int
    window: Window | None
    settings: dict
    waited_s: float = 0.0
    taken_s: float = 0.0


def elsewhere(
    configuration: Configuration,
    engine: Engine,
    images: ImageSet,
    groups: Sequence[DumpGroup],
    jobs: int,
    cluster: str | None,
) -> Producer:
    """A producer for `run_pass`: tasks go out to `jobs` processes, or to the Dask scheduler at `cluster`.

    Tasks are drawn as they go out, so memory does not grow with the gallery. An image whose content a done
    row has is not run again; twins that are under way at the same time both are.
    """
    targets, widths = columns_of(groups)
    sent = partial(_sent, configuration, engine, tuple(targets), tuple(widths), jobs, cluster)

    def produce(tasks: Iterator[Task]) -> Iterator[Result]:
        contents = Contents()
        for content in done_contents(groups):
            contents.add(*content)
        waiting: dict[int, Task] = {}
        drawing, failures = Lock(), 0
        while True:
            shards = _Shards(tasks, waiting, drawing, images, contents)
            try:
                for found in sent(shards):
                    task, failures = waiting.pop(found.number), 0
                    window = blank_window(task.rows, widths) if found.window is None else found.window
                    for content in task_contents(task, window):
                        contents.add(*content)
                    yield Result(task, window, found.settings, found.waited_s, found.taken_s)
                return
            except Exception as error:
                failures += 1
                if not _worker_lost(error) or failures == ATTEMPTS:
                    raise
                shards.close()
                log.warning(
                    f"a worker was lost ({type(error).__name__}): {len(waiting)} windows go out again"
                )

    return produce


class _Shards(Iterator):
    """Shards as they are asked for, by any thread: those under way when a worker was lost, then new ones."""

    def __init__(
        self,
        tasks: Iterator[Task],
        waiting: dict[int, Task],
        drawing: Lock,
        images: ImageSet,
        contents: Contents,
    ) -> None:
        self.tasks, self.waiting, self.drawing = tasks, waiting, drawing
        self.images, self.contents = images, contents
        self.closed = False
        with drawing:
            self.again = list(waiting.values())

    def close(self) -> None:
        """Nothing more is drawn: who still asks serves a run that has failed."""
        with self.drawing:
            self.closed = True

    def __next__(self) -> Shard:
        with self.drawing:
            if self.closed:
                raise StopIteration
            task = self.again.pop(0) if self.again else next(self.tasks)
            self.waiting[task.number] = task
        places = tuple(row - task.rows.start for row in task.needed)
        rows = self.images.rows(task.needed)
        known = self.contents.of_size(rows.paths.texts)
        return Shard(task.number, task.rows.start, len(task.rows), places, rows, known)


def _sent(
    configuration: Configuration,
    engine: Engine,
    targets: tuple[Target, ...],
    widths: tuple[int, ...],
    jobs: int,
    cluster: str | None,
    shards: Iterator[Shard],
) -> Iterator[Answer]:
    import joblib

    backbone, settings, cores = engine.backbone, engine.settings, None
    with ExitStack() as stack:
        if cluster:
            stack.enter_context(on_cluster(cluster))
            jobs = -1
        else:
            cores = max(1, available_cores() // jobs)
            stack.enter_context(
                joblib.parallel_config(backend="loky", inner_max_num_threads=settings.threads)
            )
        calls = (
            joblib.delayed(compute_shard)(configuration, backbone, settings, cores, shard, targets, widths)
            for shard in shards
        )
        yield from joblib.Parallel(
            n_jobs=jobs, return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1
        )(calls)


def _worker_lost(error: BaseException) -> bool:
    return type(error).__name__ in (
        "TerminatedWorkerError",
        "BrokenProcessPool",
        "KilledWorker",
        "CancelledError",
    )


@on_stderr()
def compute_shard(
    configuration: Configuration,
    backbone: Backbone,
    settings: Settings,
    cores: int | None,
    shard: Shard,
    targets: tuple[Target, ...],
    widths: tuple[int, ...],
) -> Answer:
    """In a worker: one window. The engine is built once in each process; cores: as in `Engine`."""
    if not shard.places:
        return Answer(shard.number, None, asdict(settings))
    engine = _engine(
        configuration.path,
        configuration.competition.work,
        backbone.name,
        _Held(configuration, backbone),
        settings,
        cores,
    )
    started = time.perf_counter()
    pictures = read_ahead(
        shard.images,
        range(len(shard.places)),
        engine.sizings(),
        workers=engine.decode_threads,
        ahead=4 * settings.batch_rows,
    )
    rows = range(shard.start, shard.start + shard.rows)
    timed = Timed(pictures)
    placed = (replace(picture, row=rows.start + shard.places[picture.row]) for picture in timed)
    needed = [rows.start + place for place in shard.places]
    try:
        window = compute_window(engine, targets, widths, rows, placed, needed=needed, known=shard.known)
    finally:
        pictures.close()
    taken_s = time.perf_counter() - started
    return Answer(shard.number, window, asdict(engine.settings), timed.waited_s, taken_s)


class _Held:
    """An argument that a cache does not look at: the others identify it."""

    def __init__(self, configuration: Configuration, backbone: Backbone) -> None:
        self.configuration, self.backbone = configuration, backbone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and repr(self.backbone) == repr(other.backbone)

    def __hash__(self) -> int:
        return hash(repr(self.backbone))


@lru_cache(maxsize=1)
def _engine(
    path: object, work: object, name: str, held: _Held, settings: Settings, cores: int | None
) -> Engine:
    from features.extraction.learn_parts import open_part_model

    if settings.device == "cuda" and (devices := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(own_device(devices))
    engine = Engine(held.backbone, settings, cores=cores)
    for parts in held.backbone.parts:
        engine.part_models[parts] = open_part_model(held.configuration, held.backbone, parts)
    return engine

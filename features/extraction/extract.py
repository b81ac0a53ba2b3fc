"""`extract`, `plan` and `describe`: which passes there are, in which order, under which lock.

The configuration is read here, once, into the images, folders, dumps and tables that everything below works with.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from competition.configuration import SIMULATED, Configuration
from competition.errors import Top7Error
from competition.images import ImageSet
from competition.messages import log
from features.dumps import read_sidecar
from features.dumps.disk import Disk
from features.dumps.layout import sample_record
from features.extraction.backbone_pass import columns_of, run_pass
from features.extraction.beside_dumps import write_contact_sheet, write_lists
from features.extraction.engine_choice import Engines
from features.extraction.estimate import (
    Plan,
    PlannedPass,
    free_bytes,
    plan_pass,
    refuse_small_disk,
    seconds_an_image,
    seconds_of,
)
from features.extraction.external import ExternalDump, external_bytes, write_external
from features.extraction.learn_parts import (
    learn_part_models,
    learning_bytes,
    left_to_learn,
)
from features.extraction.sample import DESCRIBED, SplitImages, images_to_describe, use_sample
from features.extraction.settings import available_cores, choose_device
from features.extraction.status import dump_statuses, refuse_lost_rows
from features.extraction.wanted_dumps import (
    BackboneDumps,
    backbone_dumps,
    external_dumps,
    whole_gallery_dumps,
)


@dataclass
class ExtractionReport:
    """paths: every dump of the configuration; images: how many were run; unreadable: (split, id, reason).

    limits: (backbone, split, what bounded the rate) of every pass that ran images.
    """

    paths: list[Path] = field(default_factory=list)
    images: int = 0
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    bytes_written: int = 0
    seconds: float = 0.0
    limited: int | None = None
    limits: list[tuple[str, str, str]] = field(default_factory=list)

    def say(self) -> None:
        """What was left out, and whether the gallery is a sample."""
        for split, image_id, reason in self.unreadable:
            log.warning(f"unreadable: {split} {image_id}: {reason}")
        if self.limited:
            log.warning(f"the gallery is a sample of {self.limited} images: scores are optimistic")


def extract(
    configuration: Configuration,
    *,
    splits: Sequence[str] = DESCRIBED,
    device: str = "auto",
    limit: int | None = None,
    progress: bool = True,
    jobs: int = 1,
    cluster: str | None = None,
    check_content: bool = False,
    drop_gone: bool = False,
) -> ExtractionReport:
    """Fill every missing dump of the splits that the configuration has; what is there and complete is kept.

    Rows that `verify` found damaged, new images and images whose content changed are computed, all others
    taken over. limit: only a seeded sample of the gallery that holds every labelled positive. jobs: processes
    on this machine; cluster: address of a Dask scheduler whose workers see the same files. check_content:
    compare every file's content hash with the recorded one, not only where size or time differ. drop_gone:
    rows of images that are gone may be dropped from finished dumps (otherwise ConfigurationError).
    Top7Error: another extraction runs on this work folder, the disk is too small or full, a network that
    cannot run.
    """
    start = time.perf_counter()
    work = Path(configuration.competition.work)
    device = choose_device(device)
    with alone(work):
        images, whole = images_to_describe(configuration, splits, limit)
        dumps = backbone_dumps(configuration, images, whole)
        engines = Engines(device, sum(len(found.images) for found in images.values()), jobs=jobs)
        if not drop_gone:
            for split, found in images.items():
                if split != SIMULATED:
                    targets = [target for each in dumps for target in each.targets[split]]
                    refuse_lost_rows(found.source, found.folder, targets, found.images)
        externals = external_dumps(configuration, images)
        plan_ = _planned(dumps, images, engines, externals, check_content=check_content, jobs=jobs)
        log.info(plan_.sentence())
        refuse_small_disk(plan_, work)
        report = _run(plan_, dumps, images, engines, whole, progress, jobs, cluster)
        if any(planned.split == SIMULATED for planned in plan_.passes):
            write_contact_sheet(images[SIMULATED].folder, images[SIMULATED].images)
        for external in externals:
            write_external(external)
            report.paths.append(external.path)
            unreadable = read_sidecar(external.path)["unreadable"]
            report.unreadable += [(external.split, entry["id"], entry["reason"]) for entry in unreadable]
        if whole is not None and images["gallery"].sampled:
            report.limited = len(images["gallery"].images)
            use_sample(
                sample_record(configuration), images["gallery"].images.ids, whole_gallery_dumps(configuration)
            )
        elif whole is not None:
            sample_record(configuration).unlink(missing_ok=True)
    report.seconds = time.perf_counter() - start
    report.say()
    return report


def plan(
    configuration: Configuration,
    *,
    splits: Sequence[str] = DESCRIBED,
    device: str = "auto",
    limit: int | None = None,
) -> Plan:
    """What `extract` with these arguments would compute; measures a few images for the hours."""
    with alone(Path(configuration.competition.work)):
        images, whole = images_to_describe(configuration, splits, limit)
        dumps = backbone_dumps(configuration, images, whole, recovering=False)
        engines = Engines(choose_device(device), sum(len(found.images) for found in images.values()))
        return _planned(dumps, images, engines, external_dumps(configuration, images))


def describe(
    configuration: Configuration,
    images: ImageSet,
    folder: Path | str,
    *,
    device: str = "auto",
    progress: bool = True,
) -> ExtractionReport:
    """Extract any images into dumps under `folder`: the same settings, code and bytes as `extract` gives them.

    Part detectors are those learnt under the configuration's work folder. Externals are left out: they cannot
    describe new images.
    """
    start = time.perf_counter()
    folder = Path(folder)
    with alone(folder):
        found = {"queries": SplitImages("queries", images, folder)}
        engines = Engines(choose_device(device), len(images), keep=False)
        dumps = backbone_dumps(configuration, found, None)
        report = _run(_planned(dumps, found, engines, measure=False), dumps, found, engines, None, progress)
    report.seconds = time.perf_counter() - start
    report.say()
    return report


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when the process dies. A read-only folder needs none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not Disk().writable(folder):
        yield
        return
    try:
        with FileLock(folder / ".extract.lock", timeout=0):
            yield
    except Timeout:
        raise Top7Error(
            f"{folder}: another extraction is running on this folder: wait for it, or use another --work"
        ) from None


def _planned(
    dumps: Sequence[BackboneDumps],
    images: dict[str, SplitImages],
    engines: Engines,
    externals: Sequence[ExternalDump] = (),
    *,
    check_content: bool = False,
    measure: bool = True,
    jobs: int = 1,
) -> Plan:
    """The passes with something to do; measure: time a few images for the hours."""
    passes: list[PlannedPass] = []
    sizes = [external_bytes(external) for external in externals]
    needed = sum(sizes)
    for each in dumps:
        missing = {}
        for split, found in images.items():
            status = dump_statuses(each.targets[split], found.images, check_content=check_content)
            if not all(target.complete for target in status):
                missing[split] = status
        if not missing:
            continue
        engine = engines.of(each.backbone, each.settings)
        for note in engine.notes:
            log.info(note)
        planned = [plan_pass(engine, split, images[split].images, found) for split, found in missing.items()]
        if measure and (most := max(found.images for found in planned)):
            first = planned[0]
            an_image_s = seconds_an_image(engine, images[first.split].images, first.targets, most)
            seconds = seconds_of(planned, an_image_s, each.tables, jobs)
            planned = [replace(found, seconds=taken) for found, taken in zip(planned, seconds, strict=True)]
        passes += planned
        needed += sum(learning_bytes(engine, table) for table in each.tables)
    needed += sum(planned.bytes_needed for planned in passes)
    free = free_bytes(next(iter(images.values())).folder) if images else 0
    copied = tuple(
        (external.name, external.split, len(external.images))
        for external, size in zip(externals, sizes, strict=True)
        if size
    )
    return Plan(tuple(passes), needed, free, copied)


def _run(
    plan_: Plan,
    dumps: Sequence[BackboneDumps],
    images: dict[str, SplitImages],
    engines: Engines,
    whole: ImageSet | None,
    progress: bool,
    jobs: int = 1,
    cluster: str | None = None,
) -> ExtractionReport:
    """Do what the plan says and report on every dump."""
    report = ExtractionReport()
    for each in dumps:
        passes = [planned for planned in plan_.passes if planned.backbone == each.backbone.name]
        left = [left_to_learn(table) for table in each.tables]
        if not passes and any(found.passes or found.counts for found in left):
            log.warning(f"{each.backbone.name}: part detectors are missing or damaged: learnt again")
            learn_part_models(engines.of(each.backbone, each.settings), each.tables, whole, [])
        for planned in passes:
            engine, found = engines.of(each.backbone, each.settings), images[planned.split].images
            learn_part_models(engine, each.tables, whole, planned.targets)
            elsewhere = None
            if jobs > 1 or cluster:
                from features.extraction.workers import Assignment, computed_elsewhere

                targets, widths = columns_of(planned.groups)
                cores = None if cluster else max(1, available_cores() // jobs)
                tables = tuple(replace(table, ids=()) for table in each.tables)  # only learning needs them
                assignment = Assignment(
                    each.backbone, engine.settings, cores, tables, tuple(targets), tuple(widths)
                )
                elsewhere = partial(computed_elsewhere, assignment, found, jobs=jobs, cluster=cluster)
            done = run_pass(
                engine, planned.split, found, planned.groups, elsewhere=elsewhere, progress=progress
            )
            report.images += done.images
            report.bytes_written += done.bytes_written
            if done.limit:
                report.limits.append((planned.backbone, planned.split, done.limit))
    for split, of in images.items():
        paths = [target.path for each in dumps for target in each.targets[split]]
        report.paths += paths
        unreadable = write_lists(paths, of.folder, of.images) if paths else []
        if split != SIMULATED:  # photos of unreadable images: they are named already
            report.unreadable += [(split, *entry) for entry in unreadable]
    return report

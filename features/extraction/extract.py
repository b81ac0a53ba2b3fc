"""`extract`, `plan` and `describe`: which passes there are, in which order, under which lock.

The configuration is read here, once, into the images, folders, dumps and tables that everything below works with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from competition.atomic import remove_abandoned
from competition.configuration import SIMULATED, USERS, Backbone, Configuration
from competition.errors import Top7Error
from competition.images import ImageSet
from competition.messages import log
from features.dumps import read_sidecar
from features.dumps.layout import (
    Target,
    backbone_recipe,
    by_views,
    has_views,
    sample_record,
    targets_of,
    views_folder,
)
from features.dumps.part_tables import PartTable
from features.extraction.backbone_pass import run_pass
from features.extraction.beside_dumps import write_contact_sheet, write_lists
from features.extraction.engine import Engine
from features.extraction.engine_choice import chosen_engine
from features.extraction.estimate import (
    Plan,
    PlannedPass,
    free_bytes,
    plan_pass,
    refuse_small_disk,
    seconds_an_image,
)
from features.extraction.external import external_dumps
from features.extraction.extraction_report import ExtractionReport
from features.extraction.learn_parts import drawn_tables, learn_part_models, learning_bytes
from features.extraction.sample import DESCRIBED, SplitImages, images_to_describe, use_sample
from features.extraction.settings import available_cores, choose_device, settings_path
from features.extraction.status import lacking_dumps, recover
from features.extraction.workers import computed_elsewhere
from features.parts.learning import remaining

QUERIES, BY_VIEWS = "queries", ", by views"  # the images given to `describe`; after the name of a split


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
        images, gallery = images_to_describe(configuration, splits, limit)
        extraction = _Extraction(configuration, images, device, gallery=gallery, jobs=jobs, cluster=cluster)
        plan_ = extraction.planned(check_content=check_content, drop_gone=drop_gone)
        log.info(plan_.sentence())
        refuse_small_disk(plan_, work)
        report = extraction.run(plan_, progress)
        if gallery is not None and images["gallery"].sampled:
            report.limited = len(images["gallery"].images)
            use_sample(configuration, images["gallery"].images.ids)
        elif gallery is not None:
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
        images, gallery = images_to_describe(configuration, splits, limit)
        return _Extraction(configuration, images, choose_device(device), gallery=gallery).planned()


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
        queries = {QUERIES: SplitImages(images, folder)}
        extraction = _Extraction(configuration, queries, choose_device(device), keep=False)
        report = extraction.run(extraction.planned(measure=False), progress)
    report.seconds = time.perf_counter() - start
    report.say()
    return report


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when the process dies. A read-only folder needs none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        yield
        return
    try:
        with FileLock(folder / ".extract.lock", timeout=0):
            yield
    except Timeout:
        raise Top7Error(
            f"{folder}: another extraction is running on this folder: wait for it, or use another --work"
        ) from None


@dataclass(frozen=True)
class _BackboneDumps:
    """A backbone with what it is to give. targets: the dumps of each split; settings: the file of its settings."""

    backbone: Backbone
    settings: Path
    tables: tuple[PartTable, ...]
    targets: dict[str, list[Target]]


class _Extraction:
    """What is to be extracted, and the engines for it; the last is kept, since a backbone alone needs one only once.

    images: by split; gallery: all of it, which part detectors learn from, by samples that are drawn where they are not
    yet; keep: the settings chosen now are those of later runs, too. What an earlier run left between its last row and
    its last file name is completed; what it left half written in between goes.
    """

    def __init__(
        self,
        configuration: Configuration,
        images: dict[str, SplitImages],
        device: str,
        *,
        gallery: ImageSet | None = None,
        jobs: int = 1,
        cluster: str | None = None,
        keep: bool = True,
    ) -> None:
        work = Path(configuration.competition.work)
        self.gallery, self.device, self.keep, self.jobs, self.cluster = gallery, device, keep, jobs, cluster
        self.externals = external_dumps(configuration.externals, images)
        self.backbones: list[_BackboneDumps] = []
        self._engine: Engine | None = None
        views = {f"{split}{BY_VIEWS}": of for split, of in images.items() if split in (*USERS, QUERIES)}
        views = {split: replace(of, folder=views_folder(of.folder)) for split, of in views.items()}
        self.images = images | views
        folders = {of.folder for of in self.images.values()}
        for folder in {work, *work.glob("*/"), *work.glob("dumps/*/"), *folders}:
            remove_abandoned(folder)
        for backbone in configuration.backbones:
            self._add(configuration, backbone, images)
            if views and has_views(configuration, backbone):
                self._add(configuration, by_views(backbone), views)

    def _add(
        self, configuration: Configuration, backbone: Backbone, images: Mapping[str, SplitImages]
    ) -> None:
        work, recipe = Path(configuration.competition.work), backbone_recipe(configuration, backbone)
        tables = drawn_tables(work, backbone, recipe, self.gallery)
        targets = {split: targets_of(backbone, recipe, tables, of.folder) for split, of in images.items()}
        for split, of in images.items():
            recover(targets[split], of.folder)
        settings = settings_path(work, backbone, recipe)
        self.backbones.append(_BackboneDumps(backbone, settings, tables, targets))

    def engine(self, each: _BackboneDumps) -> Engine:
        """The engine of a backbone, made at the first call."""
        if self._engine is None or self._engine.backbone is not each.backbone:
            images = sum(len(self.images[split].images) for split in each.targets)
            threads = max(1, available_cores() // self.jobs) if self.jobs > 1 else None
            self._engine = chosen_engine(
                each.backbone, each.settings, self.device, images, threads=threads, keep=self.keep
            )
        return self._engine

    def planned(self, *, check_content: bool = False, drop_gone: bool = True, measure: bool = True) -> Plan:
        """The passes with something to do; measure: time a few images for the hours."""
        passes: list[PlannedPass] = []
        said = set[str]()  # of a network that describes queries by views too
        images = self.images
        needed = sum(external.bytes_needed for external in self.externals)
        for each in self.backbones:
            missing = {}
            for split, targets in each.targets.items():
                dropped, of = drop_gone or split == SIMULATED, images[split]
                left = lacking_dumps(targets, of, check_content=check_content, drop_gone=dropped)
                if left:
                    missing[split] = left
            if not missing:
                continue
            engine = self.engine(each)
            for note in filter(lambda note: note not in said, engine.notes):
                log.info(note)
            said.update(engine.notes)
            planned = [
                plan_pass(engine, split, images[split].images, left) for split, left in missing.items()
            ]
            if measure and (most := max(one.images for one in planned)):
                first = planned[0]
                an_image_s = seconds_an_image(engine, images[first.split].images, first.targets, most)
                for one in planned:
                    one.seconds = one.images * an_image_s / self.jobs
                for table in each.tables:  # it is learnt before the first pass
                    more = remaining(table.parts, **table.model).passes
                    first.seconds += more * len(table.ids) * an_image_s
            passes += planned
            needed += sum(learning_bytes(engine, table) for table in each.tables)
        needed += sum(one.bytes_needed for one in passes)
        free = free_bytes(next(iter(images.values())).folder) if images else 0
        copied = [(one.name, one.split, len(one.images)) for one in self.externals if one.bytes_needed]
        return Plan(tuple(passes), needed, free, tuple(copied))

    def run(self, plan_: Plan, progress: bool) -> ExtractionReport:
        """Do what the plan says and report on every dump."""
        report = ExtractionReport()
        for each in self.backbones:
            passes = [planned for planned in plan_.passes if planned.backbone is each.backbone]
            left = [remaining(table.parts, **table.model) for table in each.tables]
            if not passes and any(found.passes or found.counts for found in left):
                log.warning(f"{each.backbone.name}: part detectors are missing or damaged: learnt again")
                learn_part_models(self.engine(each), each.tables, self.gallery, [])
            for planned in passes:
                engine, images = self.engine(each), self.images[planned.split].images
                learn_part_models(engine, each.tables, self.gallery, planned.targets)
                group, elsewhere = planned.group, None
                if self.jobs > 1 or self.cluster:
                    elsewhere = computed_elsewhere(
                        engine, each.tables, images, group, self.jobs, self.cluster
                    )
                limit = run_pass(
                    engine, planned.split, images, group, report, elsewhere=elsewhere, progress=progress
                )
                if limit and not planned.split.endswith(BY_VIEWS):
                    report.limits.append((planned.backbone.name, planned.split, limit))
                if planned.split == SIMULATED:
                    write_contact_sheet(self.images[SIMULATED].folder, images)
        for split, of in self.images.items():
            paths = [target.path for each in self.backbones for target in each.targets.get(split, ())]
            unreadable = write_lists(paths, of.folder, of.images) if paths else []
            viewed = split.endswith(BY_VIEWS)
            (report.views if viewed else report.paths).extend(paths)
            if split != SIMULATED and not viewed:  # those of images that are named already
                report.unreadable += [(split, *entry) for entry in unreadable]
        for external in self.externals:
            external.write()
            report.paths.append(external.path)
            rows = read_sidecar(external.path)["unreadable"]
            report.unreadable += [(external.split, row["id"], row["reason"]) for row in rows]
        return report

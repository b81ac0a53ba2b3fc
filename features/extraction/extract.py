"""`extract`, `plan` and `describe`: which passes there are, in which order, under which lock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from competition.atomic import remove_abandoned
from competition.configuration import SIMULATED, SPLITS, Backbone, Configuration, External
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, configured_images
from competition.labels import validation_labels
from competition.messages import log
from competition.simulated_split import simulated_images
from features.dumps import read_sidecar
from features.dumps.disk import Disk
from features.dumps.layout import (
    backbone_recipe,
    sample_folder,
    sampled_ids,
    targets_of,
    whole_folder,
)
from features.extraction.backbone_pass import run_pass
from features.extraction.compiling import COMPILED_FROM, compiling_helps
from features.extraction.contact_sheet import write_contact_sheet
from features.extraction.engine import Engine
from features.extraction.estimate import (
    Plan,
    PlannedPass,
    free_bytes,
    plan_pass,
    refuse_small_disk,
)
from features.extraction.external import external_bytes, write_external
from features.extraction.foretelling import learning_s, part_costs, projecting_s, seconds_an_image
from features.extraction.learn_parts import (
    check_part_tables,
    learning_bytes,
    left_to_learn,
    record_samples,
    set_part_models,
)
from features.extraction.lists import write_lists
from features.extraction.report import ExtractionReport
from features.extraction.sample import extracted_images, sample_of, use_sample, use_whole
from features.extraction.settings import (
    available_cores,
    choose_device,
    fixed_settings,
    keep_settings,
    settings_path,
)
from features.extraction.status import Standing, recover, refuse_lost_rows, standings

DESCRIBED = (*SPLITS, SIMULATED)


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
    device = choose_device(device)
    with alone(Path(configuration.competition.work)):
        work = _work(
            configuration, splits, limit, device, check_content=check_content, jobs=jobs, cluster=cluster
        )
        images, folders = work.images, work.folders
        work.recover()
        if not drop_gone:
            files = {split: found for split, found in images.items() if split != SIMULATED}
            refuse_lost_rows(configuration, files, folders)
        plan_ = work.plan()
        log.info(plan_.sentence())
        refuse_small_disk(plan_, configuration)
        report = work.run(plan_, progress)
        if any(planned.split == SIMULATED for planned in plan_.passes):
            write_contact_sheet(folders[SIMULATED], images[SIMULATED])
        for external in configuration.externals:
            for split, found in images.items():
                if getattr(external, split, None) is None:
                    continue
                path = write_external(configuration, external, split, found, folders[split])
                report.paths.append(path)
                report.unreadable += [
                    (split, entry["id"], entry["reason"]) for entry in read_sidecar(path)["unreadable"]
                ]
        if work.limited:
            report.limited = len(images["gallery"])
            use_sample(configuration, images["gallery"])
        elif "gallery" in images:
            use_whole(configuration)
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
        return _work(configuration, splits, limit, choose_device(device)).plan()


def describe(
    configuration: Configuration,
    images: ImageSet,
    folder: Path | str,
    *,
    device: str = "auto",
    progress: bool = True,
) -> ExtractionReport:
    """Extract any images into dumps under `folder`: same settings, same code, same bytes as `extract` gives
    them.

    Part detectors are those learnt under the configuration's work folder. Externals are left out: they cannot
    describe new images.
    """
    start = time.perf_counter()
    folder = Path(folder)
    with alone(folder):
        device = choose_device(device)
        work = Work(configuration, {"queries": images}, {"queries": folder}, device, keep_settings=False)
        work.recover()
        report = work.run(work.plan(measure=False), progress)
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


def _work(
    configuration: Configuration, splits: Sequence[str], limit: int | None, device: str, **more: Any
) -> Work:
    """The image sets of the splits that the configuration has, and the folders their dumps go to."""
    for split in splits:
        if split not in DESCRIBED:
            raise ConfigurationError(f"unknown split {split!r}: expected one of {', '.join(DESCRIBED)}")
    found = configured_images(configuration, splits)
    if "gallery" in found and "validation" in found and configuration.competition.labelled:
        validation_labels(
            configuration, found["validation"].ids, found["gallery"].ids
        )  # wrong ones: now, not later
    folders = {split: whole_folder(configuration, split) for split in found}
    whole = found.get("gallery")
    if whole is not None and limit is not None:
        found["gallery"] = sample_of(configuration, whole, limit)
        if len(found["gallery"]) < len(whole):
            folders["gallery"] = sample_folder(configuration, found["gallery"].ids)
    if SIMULATED in splits and configuration.simulate.images and configuration.backbones:
        gallery = found.get("gallery") or extracted_images(configuration, "gallery")
        found[SIMULATED] = simulated_images(gallery, configuration.simulate)
        sampled = sampled_ids(configuration) is not None if whole is None else len(gallery) < len(whole)
        folders[SIMULATED] = (
            sample_folder(configuration, gallery.ids, SIMULATED)
            if sampled
            else whole_folder(configuration, SIMULATED)
        )
    return Work(configuration, found, folders, device, whole, **more)


@dataclass
class Work:
    """What one call has to do: image sets and folders by split, and how. whole: all of the gallery, also under
    `--limit`: part detectors are learnt from it. keep_settings: settings chosen now are those of later runs, too.
    """

    configuration: Configuration
    images: dict[str, ImageSet]
    folders: dict[str, Path]
    device: str
    whole: ImageSet | None = None
    keep_settings: bool = True
    check_content: bool = False
    jobs: int = 1
    cluster: str | None = None
    engine: Engine | None = None  # the last one built: a single backbone needs it only once

    @property
    def limited(self) -> bool:
        """Whether the gallery is a sample."""
        return self.whole is not None and len(self.images["gallery"]) < len(self.whole)

    def recover(self) -> None:
        """Complete what an earlier run left between its last row and its last file name; what it left half written
        in between goes."""
        work = Path(self.configuration.competition.work)
        for folder in {work, *work.glob("*/"), *work.glob("dumps/*/"), *self.folders.values()}:
            remove_abandoned(folder)
        for backbone in self.configuration.backbones:
            check_part_tables(backbone)
            record_samples(self.configuration, backbone, self.whole)
            for folder in self.folders.values():
                recover(targets_of(self.configuration, backbone, folder), folder, Disk())

    def plan(self, *, measure: bool = True) -> Plan:
        """The passes with something to do; measure: time a few images for the hours."""
        externals, passes, learnt_bytes = self._externals(), [], 0
        for backbone in self.configuration.backbones:
            check_part_tables(backbone)
            record_samples(self.configuration, backbone, self.whole)
            missing: dict[str, list[Standing]] = {}
            for split, found in self.images.items():
                targets = targets_of(self.configuration, backbone, self.folders[split])
                standing = standings(targets, found, check_content=self.check_content)
                if not all(target.complete for target in standing):
                    missing[split] = standing
            if not missing:
                continue
            engine = self._engine(backbone)
            for note in engine.notes:
                log.info(note)
            planned = [
                plan_pass(engine, split, self.images[split], standing) for split, standing in missing.items()
            ]
            passes += self._timed(engine, planned) if measure else planned
            learnt_bytes += sum(learning_bytes(self.configuration, engine, parts) for parts in backbone.parts)
        free = free_bytes(next(iter(self.folders.values()))) if self.folders else 0
        needed, total_s = sum(p.bytes_needed for p in passes), sum(p.seconds for p in passes)
        copied = tuple((external.name, split, len(self.images[split])) for external, split, _ in externals)
        needed += learnt_bytes + sum(size_bytes for *_, size_bytes in externals)
        return Plan(tuple(passes), needed, free, total_s, copied)

    def _externals(self) -> list[tuple[External, str, int]]:
        """(external, split, bytes) still to be copied; a missing or damaged file is said before anything is run."""
        sized = [
            (
                external,
                split,
                external_bytes(self.configuration, external, split, images, self.folders[split]),
            )
            for external in self.configuration.externals
            for split, images in self.images.items()
            if getattr(external, split, None) is not None
        ]
        return [entry for entry in sized if entry[2]]

    def _timed(self, engine: Engine, planned: list[PlannedPass]) -> list[PlannedPass]:
        """The passes of one backbone with their seconds: what has to be learnt counts to the first."""
        first, backbone = planned[0], engine.backbone
        images, most = self.images[first.split], max(found.images for found in planned)
        if not most:
            return planned
        an_image, before = seconds_an_image(engine, images, first.targets, most), 0.0
        views = len(backbone.scales) * (2 if backbone.flip else 1)
        for parts in backbone.parts:
            counts = sorted({target.count for target in first.targets if target.parts == parts})
            to_learn, sample = left_to_learn(self.configuration, backbone, parts)
            if counts and sample:
                costs = part_costs(engine, parts, images, sample)
                before += learning_s(costs, parts, to_learn, sample)
                an_image += projecting_s(costs, counts, views)
        seconds = [found.images * an_image / self.jobs for found in planned]
        seconds[0] += before
        return [replace(found, seconds=taken) for found, taken in zip(planned, seconds)]

    def run(self, plan_: Plan, progress: bool) -> ExtractionReport:
        """Do what the plan says and report on every dump."""
        report = ExtractionReport()
        for backbone in self.configuration.backbones:
            unfinished = any(
                left.passes or left.counts
                for left, _ in (
                    left_to_learn(self.configuration, backbone, parts) for parts in backbone.parts
                )
            )
            if unfinished and not any(planned.backbone is backbone for planned in plan_.passes):
                log.warning(f"{backbone.name}: part detectors are missing or damaged: learnt again")
                set_part_models(self._engine(backbone), self.configuration, self.whole, [])
        for planned in plan_.passes:
            engine, images = self._engine(planned.backbone), self.images[planned.split]
            set_part_models(engine, self.configuration, self.whole, planned.targets)
            producer = None
            if self.jobs > 1 or self.cluster:
                from features.extraction.workers import elsewhere

                producer = elsewhere(
                    self.configuration, engine, images, planned.groups, self.jobs, self.cluster
                )
            found = run_pass(
                engine, planned.split, images, planned.groups, producer=producer, progress=progress
            )
            report.images += found.images
            report.bytes_written += found.bytes_written
        for split, folder in self.folders.items():
            dumps: list[Path] = []
            for backbone in self.configuration.backbones:
                dumps += [target.path for target in targets_of(self.configuration, backbone, folder)]
            report.paths += dumps
            unreadable = write_lists(dumps, folder, self.images[split]) if dumps else []
            if split != SIMULATED:  # photos of unreadable images: they are named already
                report.unreadable += [(split, *entry) for entry in unreadable]
        return report

    def _engine(self, backbone: Backbone) -> Engine:
        if self.engine is None or self.engine.backbone is not backbone:
            path = settings_path(self.configuration, backbone, backbone_recipe(self.configuration, backbone))
            threads = max(1, available_cores() // self.jobs) if self.jobs > 1 else None
            settings = fixed_settings(path, backbone, self.device, threads=threads, keep=self.keep_settings)
            few = sum(map(len, self.images.values())) < COMPILED_FROM
            self.engine = Engine(backbone, replace(settings, compiled=None) if few else settings)
            if self.device == "cuda" and settings.compiled is None and not few:
                settings = replace(settings, compiled=_compiled(self.engine))
                if self.keep_settings:
                    keep_settings(path, settings)
                self.engine = Engine(backbone, settings)
        return self.engine


def _compiled(engine: Engine) -> bool:
    compiled, why = compiling_helps(engine)
    log.info(why)
    return compiled

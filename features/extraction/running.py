"""`extract`, `plan` and `describe`: which passes there are, in which order, under which lock."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from competition.configuration import SPLITS, Backbone, Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, sample_images, split_images
from features.extraction.disk import Disk
from features.extraction.engine import Engine
from features.extraction.external import write_external
from features.extraction.learning import check_part_tables, record_samples, set_part_models
from features.extraction.passes import PassReport, run_pass
from features.extraction.planning import (
    Plan,
    PlannedPass,
    free_bytes,
    missing_targets,
    plan_pass,
    refuse_small_disk,
    seconds_an_image,
)
from features.extraction.settings import choose_device, fixed_settings, settings_path
from features.extraction.targets import Target, backbone_recipe, dumps_folder, targets_of

LIMIT_FILE = "limit.json"


@dataclass
class ExtractionReport:
    """paths: every dump of the configuration; images: how many were run; unreadable: (split, id, reason)."""

    paths: list[Path] = field(default_factory=list)
    images: int = 0
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    bytes_written: int = 0
    seconds: float = 0.0
    limited: int | None = None


def extract(
    configuration: Configuration,
    *,
    splits: Sequence[str] = SPLITS,
    device: str = "auto",
    limit: int | None = None,
    progress: bool = True,
) -> ExtractionReport:
    """Fill every missing dump of the splits that the configuration has; what is there and complete is kept.

    limit: only a seeded sample of the gallery that holds every labelled positive. Says on stderr what it will
    do. Top7Error: another extraction runs on this work folder, the disk is too small or full, a network that
    cannot run.
    """
    start = time.perf_counter()
    device = choose_device(device)
    with alone(Path(configuration.competition.work)):
        images = _images(configuration, splits, limit)
        folders = {split: dumps_folder(configuration, split) for split in images}
        plan_, engine = _planned(configuration, images, folders, device)
        print(plan_.sentence(), file=sys.stderr)
        refuse_small_disk(plan_, configuration)
        report = _run(configuration, images, folders, plan_, device, engine, progress)
        for external in configuration.externals:
            report.paths += [
                write_external(configuration, external, split, found)
                for split, found in images.items()
                if getattr(external, split) is not None
            ]
    report.seconds = time.perf_counter() - start
    report.limited = _limit_of(configuration)
    _say(report)
    return report


def plan(
    configuration: Configuration,
    *,
    splits: Sequence[str] = SPLITS,
    device: str = "auto",
    limit: int | None = None,
) -> Plan:
    """What `extract` with these arguments would compute; measures a few images for the hours."""
    images = _images(configuration, splits, limit, keep=False)
    folders = {split: dumps_folder(configuration, split) for split in images}
    return _planned(configuration, images, folders, choose_device(device))[0]


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
    device, folder = choose_device(device), Path(folder)
    with alone(folder):
        sets, folders = {"queries": images}, {"queries": folder}
        plan_, engine = _planned(configuration, sets, folders, device)
        report = _run(configuration, sets, folders, plan_, device, engine, progress)
    report.seconds = time.perf_counter() - start
    _say(report)
    return report


def extracted_images(configuration: Configuration, split: str) -> ImageSet:
    """The images of a split that its dumps are about: all of them, or after `extract --limit` the sample."""
    images = split_images(configuration, split)
    limited = _limited_ids(configuration) if split == "gallery" else None
    if limited is None:
        return images
    wanted = set(limited)
    found = images.rows(row for row, image_id in enumerate(images.ids) if image_id in wanted)
    if len(found) != len(wanted):
        raise Top7Error(
            f"{_limit_path(configuration)}: {len(wanted) - len(found)} images of the sample are gone from "
            f"{configuration.competition.gallery}: run ./run.sh extract --limit again"
        )
    return found


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".extract.lock", timeout=0):
            yield
    except Timeout:
        raise Top7Error(
            f"{folder}: another extraction is running on this folder: wait for it, or use another --work"
        ) from None


def _images(
    configuration: Configuration, splits: Sequence[str], limit: int | None, keep: bool = True
) -> dict[str, ImageSet]:
    for split in splits:
        if split not in SPLITS:
            raise ConfigurationError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    found = {
        split: split_images(configuration, split)
        for split in SPLITS
        if split in splits and getattr(configuration.competition, split) is not None
    }
    if "gallery" in found:
        found["gallery"] = _limit(configuration, found, limit, keep)
    return found


def _limit(
    configuration: Configuration, found: dict[str, ImageSet], limit: int | None, keep: bool
) -> ImageSet:
    gallery, path = found["gallery"], _limit_path(configuration)
    if limit is None or limit >= len(gallery):
        if keep:
            path.unlink(missing_ok=True)
        return gallery
    positives: set[str] = set()
    if configuration.competition.labels is not None:
        from competition.labels import read_labels

        queries = found.get("validation") or split_images(configuration, "validation")
        labels = read_labels(configuration.competition.labels, query_ids=queries.ids, gallery_ids=gallery.ids)
        positives = {image_id for relevant in labels.values() for image_id in relevant}
    sample = sample_images(gallery, limit, configuration.tuning.seed, sorted(positives))
    print(
        f"--limit {limit}: a sample of {len(sample)} of {len(gallery)} gallery images, with all "
        f"{len(positives)} "
        "labelled positives in it: scores on it are optimistic, the full gallery has more to confuse them",
        file=sys.stderr,
    )
    if keep:
        Disk().write_file(path, json.dumps({"limit": limit, "ids": list(sample.ids)}).encode())
    return sample


def _limit_path(configuration: Configuration) -> Path:
    return dumps_folder(configuration, "gallery") / LIMIT_FILE


def _limited_ids(configuration: Configuration) -> list[str] | None:
    path = _limit_path(configuration)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["ids"]
    except FileNotFoundError:
        return None


def _limit_of(configuration: Configuration) -> int | None:
    ids = _limited_ids(configuration)
    return None if ids is None else len(ids)


def _engine(configuration: Configuration, backbone: Backbone, device: str) -> Engine:
    path = settings_path(configuration, backbone, backbone_recipe(configuration, backbone))
    return Engine(backbone, fixed_settings(path, backbone, device))


def _planned(
    configuration: Configuration, images: dict[str, ImageSet], folders: dict[str, Path], device: str
) -> tuple[Plan, Engine | None]:
    """The passes with something to do, and the last engine built (a single backbone needs it only once)."""
    passes: list[PlannedPass] = []
    engine = None
    for backbone in configuration.backbones:
        check_part_tables(backbone)
        record_samples(
            configuration, backbone, images.get("gallery"), _limited_ids(configuration) is not None
        )
        missing: dict[str, list[Target]] = {}
        for split, found in images.items():
            targets = targets_of(configuration, backbone, folders[split])
            if left := missing_targets(targets, found):
                missing[split] = left
        if not missing:
            continue
        engine = _engine(configuration, backbone, device)
        for note in engine.notes:
            print(note, file=sys.stderr)
        split = next(iter(missing))
        seconds = seconds_an_image(engine, images[split], missing[split])
        passes += [
            plan_pass(engine, split, images[split], targets, seconds_an_image=seconds)
            for split, targets in missing.items()
        ]
    free = free_bytes(next(iter(folders.values()))) if folders else 0
    return Plan(
        tuple(passes), sum(p.bytes_needed for p in passes), free, sum(p.seconds for p in passes)
    ), engine


def _run(
    configuration: Configuration,
    images: dict[str, ImageSet],
    folders: dict[str, Path],
    plan_: Plan,
    device: str,
    engine: Engine | None,
    progress: bool,
) -> ExtractionReport:
    report = ExtractionReport()
    for planned in plan_.passes:
        if engine is None or engine.backbone is not planned.backbone:
            engine = _engine(configuration, planned.backbone, device)
        set_part_models(engine, configuration, images.get("gallery"), planned.targets)
        found: PassReport = run_pass(
            engine, planned.split, images[planned.split], planned.targets, progress=progress
        )
        report.images += found.images
        report.bytes_written += found.bytes_written
    for backbone in configuration.backbones:
        for split, split_set in images.items():
            targets = targets_of(configuration, backbone, folders[split])
            report.paths += [target.path for target in targets]
            report.unreadable += _unreadable(split, targets)
    report.unreadable = list(dict.fromkeys(report.unreadable))
    return report


def _unreadable(split: str, targets: Sequence[Target]) -> list[tuple[str, str, str]]:
    from features.dumps import read_sidecar

    return [
        (split, entry["id"], entry["reason"])
        for target in targets[:1]
        for entry in read_sidecar(target.path)["unreadable"]
    ]


def _say(report: ExtractionReport) -> None:
    for split, image_id, reason in report.unreadable:
        print(f"unreadable: {split} {image_id}: {reason}", file=sys.stderr)
    if report.limited:
        print(f"the gallery is a sample of {report.limited} images: scores are optimistic", file=sys.stderr)

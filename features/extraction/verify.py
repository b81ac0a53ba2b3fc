"""`verify`: reads every file that a figure or a list depends on back against its checksum and names what is damaged.

Dumps are named with their bad rows, which `extract` then computes again; what part detectors learnt is learnt again by
`extract`; whitened components, candidates and what steps keep are removed and made again when next asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from competition.atomic import write_json
from competition.configuration import SIMULATED, SPLITS, Configuration
from competition.errors import Top7Error
from competition.progress import Progress
from features.components import parts_component
from features.dumps import DAMAGE, DamagedSidecar, bad_rows, beside, read_sidecar
from features.dumps.layout import backbone_recipe, component_path, dumps_folder, extracted_dumps, table_of
from features.dumps.part_tables import learnt_path, read_learnt
from features.dumps.seals import bad_files, remove
from features.extraction.status import record_is_whole
from features.parts.part_model import model_folder


@dataclass
class VerifyReport:
    """What was read, and what of it is damaged.

    dumps and rows read; files: others read, learnt or computed from dumps; missing: dumps that are not there;
    damaged: {path: ids of its bad rows}, a dump's or of the record of the images beside it, of which a missing or
    cut-off one has no good row; no ids for a file that has no rows of images.
    """

    dumps: int = 0
    rows: int = 0
    files: int = 0
    missing: list[Path] = field(default_factory=list)
    damaged: dict[Path, list[str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return not self.missing and not self.damaged


def verify(
    configuration: Configuration, *, splits: Sequence[str] = (*SPLITS, SIMULATED), progress: bool = True
) -> VerifyReport:
    """Check every dump of the configuration and what is made from them.

    Damage to a dump is noted beside it: no command reads it until `extract` has repaired it.
    """
    report = VerifyReport()
    configuration = _with_samples(configuration, report)
    paths: list[Path] = []
    for extracted, whitened in (split_dumps(configuration, split) for split in splits):
        paths += extracted + [path for path in whitened if beside(path, ".json").exists()]
    for path in Progress(paths, desc="verify", unit="dump", shown=progress):
        if not beside(path, ".json").exists():
            report.missing.append(path)
            continue
        try:
            sidecar = read_sidecar(path)
        except DamagedSidecar:
            report.damaged[beside(path, ".json")] = []
            continue
        ids, bad = sidecar["ids"], bad_rows(path)
        record = path.parent / sidecar["images"] if "images" in sidecar else None
        if record is not None and not record_is_whole(record, sidecar):
            report.damaged[record] = list(ids)
        report.dumps, report.rows = report.dumps + 1, report.rows + len(ids)
        with suppress(OSError):  # a read-only folder: what is found is reported all the same
            if len(bad):
                report.damaged[path] = [ids[row] for row in bad]
                write_json(beside(path, DAMAGE), {"rows": bad.tolist()})
            else:
                beside(path, DAMAGE).unlink(missing_ok=True)
    _check_sealed(configuration, report)
    return report


def _with_samples(configuration: Configuration, report: VerifyReport) -> Configuration:
    """The configuration without the parts tables whose record of the sample is damaged: their dumps are named by it."""
    backbones = []
    for backbone in configuration.backbones:
        base, whole = backbone_recipe(configuration, backbone), []
        for parts in backbone.parts:
            path = learnt_path(configuration.competition.work, backbone.name, base, parts)
            try:
                read_learnt(path)
                whole.append(parts)
            except Top7Error:
                report.damaged[path] = []
        backbones.append(replace(backbone, parts=tuple(whole)))
    return replace(configuration, backbones=tuple(backbones))


def _check_sealed(configuration: Configuration, report: VerifyReport) -> None:
    """Check what part detectors learnt, candidates and what steps keep of the gallery.

    A damaged one is removed: `extract` learns it again, the others are made again when next asked for.
    """
    folders: list[tuple[Path, str]] = []
    for backbone in configuration.backbones:
        tables = [table_of(configuration, backbone, parts) for parts in backbone.parts]
        folders += [(model_folder(table.parts, **table.model), "*.sum") for table in tables]
    work = Path(configuration.competition.work)
    for folder, names in [*folders, (work / "candidates", "*.json"), (work / "ranking", "*.json")]:
        for sidecar in sorted(folder.glob(names)):
            report.files += 1
            if bad := bad_files(sidecar):
                report.damaged |= dict.fromkeys(bad, [])
                with suppress(OSError):
                    if sidecar.suffix == ".json":
                        remove(sidecar)
                    else:  # others are sealed with the same file of scales
                        sidecar.with_suffix("").unlink(missing_ok=True)
                        sidecar.unlink(missing_ok=True)


def split_dumps(configuration: Configuration, split: str) -> tuple[list[Path], list[Path]]:
    """The dumps that extraction fills for a split, and the whitened components that may be asked for, there or not."""
    asked_for = getattr(configuration.competition, split, None) is not None
    if not (configuration.simulate.images if split == SIMULATED else asked_for):
        return [], []
    whitened = [
        component_path(configuration, parts_component(backbone, number, count, dim, exponent), split)
        for backbone in configuration.backbones
        for number, parts in enumerate(backbone.parts)
        for count, dim, exponent in product(parts.counts, parts.dims, parts.exponents)
    ]
    return extracted_dumps(configuration, split, dumps_folder(configuration, split)), whitened

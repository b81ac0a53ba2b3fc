"""What `extract` and `verify` say of the dumps: one line a backbone, layer and pooling, and what is damaged."""

from __future__ import annotations

import numpy as np

from competition.configuration import SIMULATED, SPLITS, Configuration
from competition.messages import log
from competition.tables import table
from features.dumps.layout import configured_targets, dumps_folder
from features.extraction import ExtractionReport
from features.extraction.verify import VerifyReport
from submissions.outcome import Outcome

SHOWN_ROWS = 20  # bad rows of a dump


def extraction_outcome(configuration: Configuration, report: ExtractionReport) -> Outcome:
    """Return what an extraction did, with the table of the dumps that are there."""
    values = {
        "dumps": [str(path) for path in report.paths],
        "views": [str(path) for path in report.views],
        "images": report.images,
        "seconds": round(report.seconds, 3),
        "bytes_written": report.bytes_written,
        "limited": report.limited,
        "unreadable": [dict(zip(("split", "id", "reason"), each)) for each in report.unreadable],
    }
    unreadable = f", {len(report.unreadable)} unreadable" if report.unreadable else ""
    views = f", {len(report.views)} of queries by views" if report.views else ""
    done = f"{report.images} images run in {report.seconds:.1f} s{unreadable}"
    complete = f"{len(report.paths)} dumps complete in {configuration.competition.work / 'dumps'}{views}"
    return Outcome(values, f"{dump_table(configuration)}\n{complete}; {done}")


def dump_table(configuration: Configuration) -> str:
    """Return a table a backbone: of each layer and pooling its dimensions and how many images each split has."""
    folders = {split: dumps_folder(configuration, split) for split in (*SPLITS, SIMULATED)}
    folders = {split: folder for split, folder in folders.items() if folder.is_dir()}
    tables = []
    for backbone in configuration.backbones:
        rows: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
        for split, folder in folders.items():
            for target in configured_targets(configuration, backbone, folder):
                named = str(target.layer), target.pooling or f"{target.count} part detectors"
                if target.path.exists():
                    shape = np.load(target.path, mmap_mode="r", allow_pickle=False).shape
                    rows.setdefault(named, {})[split] = shape
        lines = [["layer", "pooling", "dims", *folders]]
        for named, shapes in rows.items():
            counts = [str(shapes[split][0]) if split in shapes else "-" for split in folders]
            lines.append([*named, str(next(iter(shapes.values()))[1]), *counts])
        tables.append(f"{backbone.name}\n{table(lines, left=(0, 1))}")
    return "\n".join(tables)


def verification_outcome(report: VerifyReport) -> Outcome:
    """Return what a comparison of the dumps with their checksums found; exit code 1 where something is damaged."""
    damaged = {str(path): ids for path, ids in report.damaged.items()}
    values = {**vars(report), "missing": list(map(str, report.missing)), "damaged": damaged}
    if report.whole:
        made = f"{report.files} files made from them"
        return Outcome(values, f"{report.dumps} dumps, {report.rows} rows, {made}: whole")
    lines = [f"{path}: missing" for path in report.missing]
    for path, ids in damaged.items():
        named = f"{len(ids)} bad rows: {', '.join(ids[:SHOWN_ROWS])}{' …' * (len(ids) > SHOWN_ROWS)}"
        lines.append(f"{path}: {named if ids else 'damaged'}")
    log.warning(
        f"top7: {len(report.missing)} dumps missing, {len(report.damaged)} files damaged: ./run.sh extract repairs them; "
        "candidates and what steps keep are made again when next asked for"
    )
    return Outcome(values, "\n".join(lines), exit_code=1)

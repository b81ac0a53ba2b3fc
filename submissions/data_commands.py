"""The commands about images and dumps: init, extract, verify, duplicates, parts, clean."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from competition.errors import ConfigurationError
from competition.messages import log
from submissions.outcome import Outcome, configuration_of


def init(options: Namespace) -> Outcome:
    """Look at a folder and write its first configuration."""
    from submissions.first_configuration import write_first_configuration
    from submissions.folder_contents import look

    out = options.out or Path(f"{options.folder.resolve().name or 'competition'}.toml")
    if out.exists():
        raise ConfigurationError(f"{out} is there already: it stays as it is; give another --out FILE")
    seen, unsure = write_first_configuration(
        look(options.folder), out, model=options.model, weights=options.weights
    )
    for line in unsure:
        log.warning(f"top7: please check: {line}")
    values = {"configuration": str(out), "found": seen, "unsure": unsure}
    return Outcome(values, "\n".join([*seen, f"{out}: next, ./run.sh extract --config {out}"]))


def extract(options: Namespace) -> Outcome:
    """Fill the dumps."""
    from features.extraction import extract as run_extraction
    from submissions.report.data_health import note_extraction
    from tuning.space import space_of

    configuration = configuration_of(options)
    space_of(configuration)  # a step that cannot be is said now, not after the hours of the extraction
    report = run_extraction(
        configuration,
        device=options.device,
        limit=options.limit,
        jobs=options.jobs,
        cluster=options.cluster,
        check_content=options.check_content,
        drop_gone=options.drop_gone,
    )
    note_extraction(configuration, report)
    values = {
        "dumps": [str(path) for path in report.paths],
        "images": report.images,
        "seconds": round(report.seconds, 3),
        "bytes_written": report.bytes_written,
        "limited": report.limited,
        "unreadable": [
            {"split": split, "id": name, "reason": reason} for split, name, reason in report.unreadable
        ],
    }
    unreadable = f", {len(report.unreadable)} unreadable" if report.unreadable else ""
    return Outcome(
        values,
        f"{len(report.paths)} dumps complete; {report.images} images run in {report.seconds:.1f} s"
        f"{unreadable}\n{_dump_table(report.paths, Path(configuration.competition.work) / 'dumps')}",
    )


def _dump_table(paths: Sequence[Path], folder: Path) -> str:
    """A line for each backbone, layer and pooling: its dimensions and how many images each split has."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for path in paths:
        split = path.relative_to(folder).parts[0]
        shapes.setdefault(path.stem.rpartition("-")[0], {})[split] = np.load(path, mmap_mode="r").shape
    splits = list(dict.fromkeys(split for row in shapes.values() for split in row))
    width = max(map(len, [str(folder), *shapes]))
    lines = [f"{str(folder):<{width}}  {'dims':>6}  " + "  ".join(f"{split:>10}" for split in splits)]
    for name, row in shapes.items():
        counts = "  ".join(
            f"{row[split][0] if split in row else '':>{max(10, len(split))}}" for split in splits
        )
        lines.append(f"{name:<{width}}  {next(iter(row.values()))[1]:>6}  {counts}")
    return "\n".join(lines)


def verify(options: Namespace) -> Outcome:
    """Check every dump against its checksums."""
    from features.extraction import verify as check_dumps

    report = check_dumps(configuration_of(options))
    values = {
        "dumps": report.dumps,
        "rows": report.rows,
        "files": report.files,
        "missing": [str(path) for path in report.missing],
        "damaged": {str(path): ids for path, ids in report.damaged.items()},
    }
    if report.whole:
        return Outcome(
            values, f"{report.dumps} dumps, {report.rows} rows, {report.files} files made from them: whole"
        )
    lines = [f"{path}: missing" for path in report.missing]
    lines += [
        f"{path}: {len(ids)} bad rows: {', '.join(ids[:20])}{' …' if len(ids) > 20 else ''}"
        if ids
        else f"{path}: damaged"
        for path, ids in report.damaged.items()
    ]
    log.warning(
        f"top7: {len(report.missing)} dumps missing, {len(report.damaged)} files damaged: ./run.sh extract repairs them; "
        "candidates and what steps keep are made again when next asked for"
    )
    return Outcome(values, "\n".join(lines), exit_code=1)


def duplicates(options: Namespace) -> Outcome:
    """Group exact duplicates of the gallery, or near ones by descriptor."""
    from submissions.duplicate_groups import duplicates as find

    return Outcome(*find(configuration_of(options), options.near))


def parts(options: Namespace) -> Outcome:
    """Write the page of the part detectors."""
    from submissions.parts_page import write_parts_page

    page = write_parts_page(
        configuration_of(options), options.out, top=options.top, images=options.images, device=options.device
    )
    return Outcome({"page": str(page)}, str(page))


def clean(options: Namespace) -> Outcome:
    """Remove what is not needed."""
    from submissions.cleaning import clean as remove

    report = remove(configuration_of(options), dry_run=options.dry_run)
    removed = "would be removed" if options.dry_run else "removed"
    lines = [f"{kind}: {of['files']} files, {of['bytes'] / 1e6:.1f} MB" for kind, of in report.items()]
    total = sum(of["bytes"] for of in report.values())
    values = {"dry_run": options.dry_run, "removed": report, "bytes": total}
    return Outcome(values, "\n".join([*lines, f"{total / 1e6:.1f} MB {removed}"]))

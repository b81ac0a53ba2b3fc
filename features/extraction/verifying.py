"""`verify`: reads every dump back against its checksums and names the bad rows, which `extract` then makes
anew.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from competition.atomic import write_json
from competition.configuration import SPLITS, Configuration
from features.dumps import DAMAGE, beside, npy_header, read_sidecar
from features.extraction.rebuilding import record_is_whole
from features.extraction.targets import dumps_folder, external_dump_path, targets_of

BLOCK_ROWS = 4096


@dataclass
class VerifyReport:
    """dumps and rows read; missing: dumps that are not there; damaged: {path: ids of its bad rows}, a dump's or of the
    record of the images beside it, of which a missing or cut-off one has no good row.
    """

    dumps: int = 0
    rows: int = 0
    missing: list[Path] = field(default_factory=list)
    damaged: dict[Path, list[str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return not self.missing and not self.damaged


def verify(
    configuration: Configuration, *, splits: Sequence[str] = SPLITS, progress: bool = True
) -> VerifyReport:
    """Check every dump of the configuration; damage is noted beside the dump, so that `extract` repairs
    it.
    """
    report = VerifyReport()
    paths = [path for split in splits for path in _dumps(configuration, split)]
    for path in tqdm(paths, desc="verify", unit="dump", disable=not progress, file=sys.stderr):
        if not beside(path, ".json").exists():
            report.missing.append(path)
            continue
        sidecar = read_sidecar(path)
        ids, bad = sidecar["ids"], bad_rows(path)
        record = path.parent / sidecar["images"] if "images" in sidecar else None
        if record is not None and not record_is_whole(record, sidecar):
            report.damaged[record] = list(ids)
        report.dumps, report.rows = report.dumps + 1, report.rows + len(ids)
        if len(bad):
            report.damaged[path] = [ids[row] for row in bad]
            write_json(beside(path, DAMAGE), {"rows": bad.tolist()})
    return report


def _dumps(configuration: Configuration, split: str) -> list[Path]:
    if getattr(configuration.competition, split) is None:
        return []
    folder = dumps_folder(configuration, split)
    found = [
        target.path
        for backbone in configuration.backbones
        for target in targets_of(configuration, backbone, folder)
    ]
    return found + [
        external_dump_path(configuration, split, external)
        for external in configuration.externals
        if getattr(external, split) is not None
    ]


def bad_rows(path: Path) -> np.ndarray:
    """(m,) int64 rows whose bytes, or whose norm's, are not those that were written; all of them where the
    shape or the checksums are gone.
    """
    sidecar = read_sidecar(path)
    rows, width = sidecar["shape"]
    sums = _column(beside(path, ".sums.npy"), rows, np.uint32)
    norms = _column(beside(path, ".norms.npy"), rows, np.float32)
    head = npy_header((rows, width), sidecar["dtype"])
    row_bytes = width * np.dtype(sidecar["dtype"]).itemsize
    if sums is None or norms is None or not path.exists():
        return np.arange(rows)
    bad: list[int] = []
    with open(path, "rb") as stream:
        if stream.read(len(head)) != head:
            return np.arange(rows)
        for start in range(0, rows, BLOCK_ROWS):
            block = memoryview(stream.read(row_bytes * min(BLOCK_ROWS, rows - start)))
            for row in range(start, min(rows, start + BLOCK_ROWS)):
                data = block[(row - start) * row_bytes : (row - start + 1) * row_bytes]
                if (
                    len(data) < row_bytes
                    or zlib.crc32(norms[row : row + 1].tobytes(), zlib.crc32(data)) != sums[row]
                ):
                    bad.append(row)
        if stream.read(1):
            return np.arange(rows)
    return np.array(bad, dtype=np.int64)


def _column(path: Path, rows: int, dtype: type) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (rows,) and found.dtype == dtype else None

"""Images with the same content, by the hashes taken during extraction, and images alike by their descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.errors import Top7Error
from features.dumps import Dump, read_sidecar
from features.dumps.dump_writer import record_type
from features.dumps.layout import dumps_folder, targets_of
from features.extraction.dump_group import IMAGE

BLOCK_ROWS = 2048


def first_rows(record: Path, columns: int) -> np.ndarray:
    """(n,) int64: the first row with the same content as each row; a file that could not be opened equals no other."""
    records = np.memmap(record, dtype=record_type(columns, IMAGE), mode="r")
    hashes = np.ascontiguousarray(records["sha256"]).view("V32")[:, 0]
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    rows = first[group].astype(np.int64)
    absent = records["size_bytes"] < 0
    rows[absent] = np.flatnonzero(absent)
    return rows


def exact_duplicates(configuration: Configuration, split: str = "gallery") -> np.ndarray:
    """(n,) int64: for each image of the split the first row with the same file content, which may be its own.

    Top7Error: nothing has been extracted yet.
    """
    folder = dumps_folder(configuration, split)
    for backbone in configuration.backbones:
        for target in targets_of(configuration, backbone, folder):
            if target.path.exists():
                sidecar = read_sidecar(target.path)
                return first_rows(folder / sidecar["images"], len(sidecar["columns"]))
    raise Top7Error(f"{folder}: no dump that would tell the duplicates: run ./run.sh extract")


def near_duplicates(dump: Dump, threshold: float = 0.98) -> Iterator[tuple[int, int, float]]:
    """Yield (row, later row, cosine) of the pairs of a dump at or above `threshold`, by row.

    Unreadable rows never. Every pair is compared, block by block: time grows with the square of the rows, memory does
    not grow.
    """
    rows = len(dump.descriptors)
    for start in range(0, rows, BLOCK_ROWS):
        block = np.asarray(dump.descriptors[start : start + BLOCK_ROWS], dtype=np.float32)
        found: list[tuple[int, int, float]] = []
        for other in range(start, rows, BLOCK_ROWS):
            others = np.asarray(dump.descriptors[other : other + BLOCK_ROWS], dtype=np.float32)
            similarity = block @ others.T
            for a, b in zip(*np.nonzero(similarity >= threshold)):
                first, second = start + int(a), other + int(b)
                if first < second and not (dump.unreadable[first] or dump.unreadable[second]):
                    found.append((first, second, float(similarity[a, b])))
        yield from sorted(found)

"""Labels: which gallery images are correct for a query. Files of `query,gallery[,gallery…]`, ragged, or folders."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from competition.errors import Top7Error, file_bytes
from competition.images import ids_digest
from competition.once import once

EXPECTED = "expected query,gallery[,gallery…]"
DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_labels(
    path: Path | str, *, query_ids: Sequence[str], gallery_ids: Collection[str], complete: bool = True
) -> dict[str, tuple[str, ...]]:
    """Read a label file; returns query id -> correct gallery ids, in the order of `query_ids`.

    Rows of one query are joined, so that a file may hold a pair a row. The word "folders" in place of a path:
    correct are the gallery images in the folder of the query's own path (ids are paths then). UTF-8 with or
    without a BOM, lines ending in \\n or \\r\\n. Line 1 is a header if its first field is no known query id
    and no other field a gallery id. Empty fields at the end of a row, blank lines and blanks around an id are
    passed over. Top7Error, one line with file and line number: an unknown query or gallery id, a gallery id
    twice for a query, a row without gallery ids, another delimiter, not UTF-8, no row at all; and, where
    `complete`, a query of `query_ids` without a row.
    """
    if path == "folders":
        return folder_labels(query_ids, gallery_ids)
    queries, gallery = frozenset(query_ids), frozenset(gallery_ids)
    found: dict[str, dict[str, int]] = {}  # query -> gallery id -> line
    for number, (line, row) in enumerate(_rows(Path(path))):
        if number == 0 and row[0] not in queries and gallery.isdisjoint(row[1:]):
            continue  # a header
        where, (query, *correct) = f"{path}: line {line}", row
        if query not in queries:
            expected = f"expected one of the {len(queries)} query ids (file names without extension)"
            raise Top7Error(f"{where}: unknown query {query!r}: {expected}")
        _add_row(where, line, correct, found.setdefault(query, {}), query, gallery)
    if not found:
        raise Top7Error(f"{path}: the label file holds no label: expected rows query,gallery[,gallery…]")
    missing = [query for query in query_ids if query not in found]
    if complete and missing:
        raise Top7Error(
            f"{path}: {len(missing)} of {len(queries)} queries have no row, the first is {missing[0]!r}: "
            "label them or remove their images"
        )
    return {query: tuple(found[query]) for query in query_ids if query in found}


def _add_row(
    where: str, line: int, correct: Sequence[str], known: dict[str, int], query: str, gallery: Collection[str]
) -> None:
    """Add the correct images of a row to those `known` of its query, each with its line; each is named once."""
    if not correct:
        raise Top7Error(f"{where}: query {query!r} has no gallery id: {EXPECTED}")
    for gallery_id in correct:
        if gallery_id not in gallery:
            expected = f"expected one of the {len(gallery)} gallery ids (file names without extension)"
            raise Top7Error(f"{where}: unknown gallery id {gallery_id!r}: {expected}")
        if gallery_id in known:
            first = f"for {query!r}, first on line {known[gallery_id]}"
            again = "in the row" if known[gallery_id] == line else first
            raise Top7Error(f"{where}: gallery id {gallery_id!r} appears twice {again}: remove one")
        known[gallery_id] = line


def folder_labels(query_ids: Sequence[str], gallery_ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Labels of ids that are paths: correct for a query are the gallery images in the folder of the same path.

    Top7Error: queries whose folder holds no gallery image.
    """
    inside: dict[str, list[str]] = {}
    for gallery_id in gallery_ids:
        inside.setdefault(gallery_id.rpartition("/")[0], []).append(gallery_id)
    lost = [query for query in query_ids if "/" not in query or query.rpartition("/")[0] not in inside]
    if lost:
        raise Top7Error(
            f'labels = "folders": {len(lost)} of {len(query_ids)} queries are in a folder that the gallery does not '
            f"have, the first is {lost[0]!r}: expected a folder of the same path, a class, in both"
        )
    return {query: tuple(inside[query.rpartition("/")[0]]) for query in query_ids}


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row that is not blank, without the empty fields at its end."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            row = [field.strip() for field in fields]
            while row and not row[-1]:
                row.pop()
            other = [name for mark, name in DELIMITERS.items() if len(row) == 1 and mark in row[0]]
            if other:
                found = f"{path}: line {line}: the fields are separated by {other[0]}"
                raise Top7Error(f"{found}: expected commas, save the file as comma-separated CSV")
            if "" in row:
                raise Top7Error(f"{path}: line {line}: field {row.index('') + 1} is empty: {EXPECTED}")
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise Top7Error(f"{path}: line {line}: not valid CSV ({error}): {EXPECTED}") from None


def _text(path: Path) -> str:
    data = file_bytes(path, "label file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Top7Error(
            f"{path}: line {line}: not UTF-8 (byte 0x{data[error.start]:02x}): save the label file as UTF-8"
        ) from None


def measured_by(
    labels: Mapping[str, Sequence[str]], gallery_ids: Sequence[str], top_k: int, metric: str = "map"
) -> dict[str, object]:
    """What a figure depends on besides the lists: gallery, labels, top_k, metric; figures compare where these agree."""
    text = json.dumps({query: sorted(labels[query]) for query in sorted(labels)}, sort_keys=True)
    return {
        "gallery": once(ids_digest, tuple(gallery_ids)),
        "labels": hashlib.sha256(text.encode()).hexdigest()[:16],
        "top_k": top_k,
        "metric": metric,
    }


def relevant_rows(labels: Mapping[str, Sequence[str]], gallery_ids: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Per query, in the order of `labels`, the sorted gallery rows (int64) of its correct images."""
    row_of = {gallery_id: row for row, gallery_id in enumerate(gallery_ids)}
    return tuple(
        np.array(sorted(row_of[gallery_id] for gallery_id in correct), dtype=np.int64)
        for correct in labels.values()
    )


def rows_there(lists: Sequence[Sequence[str]], gallery_ids: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The gallery rows (int64) of each list's ids; those that a sample of the gallery has not are left out."""
    row_of = {gallery_id: row for row, gallery_id in enumerate(gallery_ids)}
    return tuple(np.array([row_of[each] for each in ids if each in row_of], dtype=np.int64) for ids in lists)

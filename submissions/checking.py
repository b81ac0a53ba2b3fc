"""Whether a submission would be accepted: every fault with its line number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.configured import split_images
from competition.errors import Top7Error, file_bytes
from competition.labels import DELIMITERS
from features.descriptors import gallery_ids
from submissions.submitting import KAGGLE_HEADER

BOM = b"\xef\xbb\xbf"
SEPARATORS = DELIMITERS | {" ": "blanks"}


@dataclass(frozen=True)
class Expected:
    """What a submission must be: the query ids of each split it may answer, gallery ids in row order, how many, the form."""

    splits: Mapping[str, Sequence[str]]
    gallery_ids: Sequence[str]
    top_k: int = 7
    form: str = "plain"


def expected_of(configuration: Configuration) -> Expected:
    """Return what submissions of a configuration must be, by the files on disk as they are now."""
    competition = configuration.competition
    named = [split for split in ("validation", "test") if getattr(competition, split) is not None]
    splits = {split: split_images(configuration, split).ids for split in named}
    return Expected(splits, gallery_ids(configuration), competition.top_k, competition.submission)


@dataclass(frozen=True)
class Fault:
    """What is wrong on a line (counted from 1; missing queries are one past the last line)."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True)
class Check:
    """The result: the split whose queries the file answers (None: of none), its rows, and the faults by line.

    answers: query -> gallery ids as on its first row; only without faults are they a whole
    submission.
    """

    split: str | None
    answers: Mapping[str, tuple[str, ...]]
    faults: tuple[Fault, ...]

    def ranks(self, query_ids: Iterable[str], gallery_ids: Sequence[str]) -> np.ndarray:
        """Return the answers to queries of a file without faults as gallery rows, (Q, k) int64."""
        row_of = {gallery_id: row for row, gallery_id in enumerate(gallery_ids)}
        return np.array([[row_of[one] for one in self.answers[query]] for query in query_ids], dtype=np.int64)


def check_submission(path: Path | str, expected: Expected) -> Check:
    """Check the CSV `path` against the format `id,id1,…,id<top_k>`, no header, UTF-8, lines ending in \\n.

    form "kaggle" asks for the header `id,images` and for ids separated by spaces instead. The file is taken to answer the
    split to which most of its query ids belong. The last line may lack its \\n. Top7Error only where the file cannot be
    read at all.
    """
    faults: list[Fault] = []
    rows = _rows(file_bytes(path, "submission"), faults, expected.form)
    gallery = frozenset(expected.gallery_ids)
    queries_of = {split: frozenset(ids) for split, ids in expected.splits.items()}
    first = rows[0][1] if rows and rows[0][0] == 1 else []
    if expected.form == "kaggle":
        rows = _kaggle_rows(rows, faults)
    elif first and gallery.isdisjoint(first[1:]) and not any(first[0] in ids for ids in queries_of.values()):
        header = ",".join(rows.pop(0)[1])
        faults.append(Fault(1, f"a header line ({header[:60]!r}): remove it, line 1 is the first query"))
    split = _split_of([fields[0] for _, fields in rows], queries_of)
    answers: dict[str, tuple[str, ...]] = {}
    line_of: dict[str, int] = {}
    for line, (query, *answer) in rows:
        found = [_query_fault(query, line_of.get(query), split, queries_of)]
        if query not in answers:
            answers[query], line_of[query] = tuple(answer), line
        if len(answer) != expected.top_k:
            found.append(f"{len(answer)} gallery ids: expected {expected.top_k}")
        for gallery_id, count in Counter(answer).items():
            if gallery_id not in gallery:
                found.append(_unknown(gallery_id, gallery))
            elif count > 1:
                distinct = f"expected {expected.top_k} distinct ids"
                found.append(f"gallery id {gallery_id!r} appears {count} times: {distinct}")
        faults += [Fault(line, text) for text in found if text]
    end = max((line for line, _ in rows), default=0) + 1
    missing = [query for query in expected.splits.get(split or "", ()) if query not in answers]
    faults += [Fault(end, f"query {query!r} of {split} is missing: add its line") for query in missing]
    return Check(split, answers, tuple(sorted(faults, key=lambda fault: fault.line)))


def read_submission(path: Path | str, expected: Expected) -> Check:
    """Read a submission without fault (see `check_submission`); Top7Error naming the first otherwise."""
    check = check_submission(path, expected)
    if check.faults:
        count = f"{len(check.faults)} fault" + "s" * (len(check.faults) > 1)
        first = f"the first on {check.faults[0]}"
        raise Top7Error(f"{path}: {count}, {first}; ./run.sh check {path} lists them all")
    return check


def _rows(data: bytes, faults: list[Fault], form: str) -> list[tuple[int, list[str]]]:
    """(line number, fields) of every line that has fields; adds faults of encoding, line ends, delimiters."""
    if not data.removeprefix(BOM).strip():
        faults.append(Fault(1, "the file is empty: expected a line a query"))
        return []
    if data.startswith(BOM):
        faults.append(Fault(1, "a byte order mark (BOM) before the first id: save as UTF-8 without BOM"))
        data = data.removeprefix(BOM)
    lines = data.removesuffix(b"\n").split(b"\n")
    carriage = [number for number, line in enumerate(lines, start=1) if line.endswith(b"\r")]
    if carriage:
        found = f"{len(carriage)} of {len(lines)} lines end in \\r\\n, this is the first"
        faults.append(Fault(carriage[0], f"{found}: expected \\n, save with Unix line ends"))
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            faults.append(Fault(number, f"not UTF-8 (byte 0x{line[error.start]:02x}): save as UTF-8"))
            continue
        if fault := _line_fault(text, form):
            faults.append(Fault(number, fault))
        else:
            rows.append((number, text.split(",")))
    return rows


def _kaggle_rows(rows: list[tuple[int, list[str]]], faults: list[Fault]) -> list[tuple[int, list[str]]]:
    """The rows below the header, query and gallery ids apart; adds the faults of Kaggle's form."""
    if rows and rows[0] == (1, KAGGLE_HEADER.split(",")):
        rows = rows[1:]
    else:
        faults.append(Fault(1, f"no header: expected {KAGGLE_HEADER}"))
    for line, fields in rows:
        if len(fields) != 2:
            expected = "expected one, after the query; the gallery ids are separated by single spaces"
            faults.append(Fault(line, f"{len(fields) - 1} commas: {expected}"))
    return [(line, [fields[0], *fields[1].split(" ")]) for line, fields in rows if len(fields) == 2]


def _line_fault(text: str, form: str) -> str | None:
    """The fault for which a line cannot be cut into fields."""
    if not text.strip():
        return "a blank line: remove it"
    if "\r" in text:
        return "a carriage return inside the line: expected lines ending in \\n, save with Unix line ends"
    if '"' in text:
        return "quotes: expected bare ids, id,id1,…"
    if "," not in text and form == "plain":
        for mark, name in SEPARATORS.items():
            if mark in text.strip():
                return f"the ids are separated by {name}: expected commas"
    return None


def _split_of(found: Sequence[str], queries_of: Mapping[str, frozenset[str]]) -> str | None:
    """The split that holds most of the ids; of equally many the one that leaves the fewest of its own out."""
    held = {split: sum(query in ids for query in found) for split, ids in queries_of.items()}
    split = max(held, key=lambda name: (held[name], -len(queries_of[name])), default=None)
    return split if split is not None and held[split] else None


def _query_fault(
    query: str, first_line: int | None, split: str | None, queries_of: Mapping[str, frozenset[str]]
) -> str | None:
    if first_line is not None:
        return f"query {query!r} appears twice, first on line {first_line}: remove one of the lines"
    if split is not None and query in queries_of[split]:
        return None
    if query.strip() != query or not query:
        return f"query {query!r} is empty or has blanks around it: expected the bare id"
    other = next((name for name, ids in queries_of.items() if query in ids), None)
    if other is not None:
        most = f"while most lines answer {split}: expected the queries of one split"
        return f"query {query!r} is of {other}, {most}"
    named = split or " or ".join(queries_of) or "a split"
    return f"unknown query {query!r}: expected a query id of {named}"


def _unknown(gallery_id: str, gallery: frozenset[str]) -> str:
    if not gallery_id:
        return "an empty gallery id: remove the comma or add the id"
    if gallery_id.strip() in gallery:
        return f"blanks around gallery id {gallery_id!r}: expected the bare id"
    bare = gallery_id.rpartition(".")[0]
    if bare in gallery:
        return f"unknown gallery id {gallery_id!r}: expected the id without extension, {bare!r}"
    return f"unknown gallery id {gallery_id!r}: expected one of the {len(gallery)} gallery ids"

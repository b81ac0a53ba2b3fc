"""The local leaderboard: <work>/leaderboard.jsonl, one JSON object a line, written under a lock, the file as a whole.

A "score" line holds what a submission got here, an "official" line what the judges gave it; the SHA-256 of
the submission's bytes joins them. Of several lines of a kind for one submission the last counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from competition.atomic import unless_read_only, write_bytes
from competition.errors import ConfigurationError, Top7Error, file_bytes
from competition.metrics import ranked_by

if TYPE_CHECKING:
    import pandas

FILE = "leaderboard.jsonl"
LOCK_TIMEOUT_S = 60


@dataclass(frozen=True)
class Row:
    """One submission. maps: convention -> MAP@top_k on the queries of `measured_on`; or metric -> another figure.

    What is unknown is None. public, private: as `local`, on the queries the study saw and on
    those it did not; cross_validated: what the tuning behind it earned out of fold, as a procedure; data:
    gallery, labels and top_k of the figures; unlike: what of it is not that of the ranking asked for ("" for
    ranked rows); moved: places won (positive) or lost from the public to the private ranking of the ranked
    recipes that have both.
    """

    file: str
    sha256: str
    split: str | None = None
    measured_on: str | None = None
    top_k: int | None = None
    maps: Mapping[str, float] = field(default_factory=dict)
    public: float | None = None
    private: float | None = None
    cross_validated: float | None = None
    moved: int | None = None
    official: float | None = None
    recorded: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    unlike: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What the figures are of: "map", or the competition's own."""
        return str(self.data.get("metric", "map"))

    @property
    def local(self) -> float | None:
        """The figure that the leaderboard ranks by: MAP by the first convention, or that of the competition's metric."""
        return self.maps.get(ranked_by(self.metric))


def file_digest(path: Path | str) -> str:
    """SHA-256 (hex) of a submission's bytes."""
    return hashlib.sha256(file_bytes(path, "submission")).hexdigest()


def record_score(work: Path | str, entry: Mapping[str, Any]) -> None:
    """Append what a submission got here, or say that the work folder is read-only.

    entry: file (name), sha256 (`file_digest`), split (whose queries it answers), maps (convention ->
    MAP@top_k; metric -> another figure), and where known top_k, measured_on (split of the labels; default: `split`.
    For a test submission without labels: its recipe's figures on "validation"), data (`labels.measured_by`), public,
    private. Anything else that JSON can hold (recipe, weights) is kept.
    """
    with unless_read_only(f"{work}: nothing is recorded on the leaderboard"):
        _append(work, {**entry, "file": Path(str(entry["file"])).name, "kind": "score"})


def record_official(work: Path | str, file: Path | str, score: float, split: str | None = None) -> bool:
    """Append the judges' score of an uploaded `file`; returns whether it has a local score already."""
    if not 0 <= score <= 1:  # nan is refused, too
        expected = "expected a number from 0 to 1 (0.4086 for 40.86 %)"
        raise ConfigurationError(f"official score of {file}: {score!r} is no score: {expected}")
    digest = file_digest(file)
    record: dict[str, Any] = {"kind": "official", "file": Path(file).name, "sha256": digest}
    _append(work, record | {"official": float(score)} | ({} if split is None else {"split": split}))
    return any(row.sha256 == digest and row.local is not None for row in read_rows(work))


def _append(work: Path | str, record: dict) -> None:
    from filelock import FileLock, Timeout

    path = Path(work) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    record["recorded"] = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False).encode("utf-8")
    try:
        with FileLock(path.with_name(f".{FILE}.lock"), timeout=LOCK_TIMEOUT_S):
            *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
            if _parsed(rest) is not None:  # otherwise a half line of an editor's or an earlier version's
                lines.append(rest)
            write_bytes(path, b"\n".join([*lines, line, b""]))
    except Timeout:
        raise Top7Error(
            f"{path}: another process has held the leaderboard's lock for {LOCK_TIMEOUT_S} s: "
            "end it and try again"
        ) from None


def _parsed(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record and "sha256" in record else None


def read_rows(work: Path | str, like: Mapping[str, object] | None = None) -> list[Row]:
    """The rows, best first by `local` (rows without come last, then by official score and file name).

    like: measured_on, gallery, labels and top_k of the figures to rank; rows with others are marked
    (`unlike`) and follow those. Empty where nothing was recorded. A cut-off last line is passed over; a
    broken line elsewhere is a Top7Error.
    """
    path = Path(work) / FILE
    if not path.exists():
        return []
    found: dict[str, dict[str, dict]] = {"score": {}, "official": {}}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if record is None:
            if line.strip() and number < len(lines):
                raise Top7Error(f"{path}: line {number} is no leaderboard entry: remove the line")
            continue
        found["official" if record["kind"] == "official" else "score"][record["sha256"]] = record
    scores, officials = found.values()
    rows = [_row(scores.get(digest), officials.get(digest), like) for digest in {**scores, **officials}]
    return _with_moves(sorted(rows, key=_place))


COLUMNS = "file sha256 split top_k maps public private cross_validated recorded data".split()
USED = {*COLUMNS, "measured_on", "kind", "official"}


def _place(row: Row) -> tuple:
    local = -1.0 if row.local is None else row.local
    return row.unlike != "", -local, -(row.official or 0.0), row.file, row.sha256


def _row(score: dict | None, official: dict | None, like: Mapping[str, object] | None) -> Row:
    known = score or official or {}
    row = Row(
        measured_on=known.get("measured_on", known.get("split")),
        official=official["official"] if official else None,
        details={key: value for key, value in known.items() if key not in USED},
        **{column: known[column] for column in COLUMNS if column in known},
    )
    return replace(row, unlike=_unlike(row, like))


def _unlike(row: Row, like: Mapping[str, object] | None) -> str:
    if like is None or row.local is None:
        return ""
    if not row.data:
        return "unknown labels"
    found = {"measured_on": row.measured_on, "metric": "map", **row.data}
    differing = next((key for key, value in like.items() if found.get(key) != value), "")
    return {"": "", "measured_on": "other queries"}.get(differing, f"other {differing}")


def _with_moves(rows: list[Row]) -> list[Row]:
    ranked = [row for row in rows if not row.unlike]
    both = {_recipe_of(row): row for row in ranked if row.public is not None and row.private is not None}
    public, private = (
        sorted(both, key=lambda recipe: -getattr(both[recipe], name)) for name in ("public", "private")
    )
    moved = {recipe: public.index(recipe) - private.index(recipe) for recipe in both}
    return [replace(row, moved=None if row.unlike else moved.get(_recipe_of(row))) for row in rows]


def _recipe_of(row: Row) -> tuple[object, ...]:
    """What tells recipes apart: all submissions of one move together. A row without a recipe is one by itself."""
    name = row.details.get("recipe")
    return (row.sha256,) if name is None else (str(name), row.public, row.private)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation of two equally long lists (ties share their mean rank).

    None for fewer than 3 pairs, where it says nothing, and where one list is constant, where it is not
    defined.
    """
    if len(first) < 3 or 1 in (len(set(first)), len(set(second))):
        return None
    from scipy import stats

    return float(stats.spearmanr(first, second).statistic)


def official_correlation(rows: Sequence[Row]) -> tuple[int, float | None]:
    """(number of ranked rows with a local and an official score, the rank correlation of the two or None)."""
    both = [row for row in rows if not row.unlike and None not in (row.local, row.official)]
    local, official = ([getattr(row, name) for row in both] for name in ("local", "official"))
    return len(both), rank_correlation(local, official)


def frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """Return the rows as a table, one a submission; map: the figure it is ranked by."""
    import pandas

    names = [name for name in Row.__dataclass_fields__ if name not in ("maps", "details")]
    found = pandas.DataFrame([asdict(row) for row in rows], columns=names)
    found.insert(names.index("top_k") + 1, "map", pandas.Series([row.local for row in rows], dtype=float))
    return found

"""Gallery images of the same content, or that look alike, in groups: counted, and listed in a CSV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas
from scipy.cluster.hierarchy import DisjointSet

from competition.atomic import write_text
from competition.configuration import Configuration
from features.components import full_name
from features.descriptors import gallery_ids
from features.extraction import exact_duplicates, near_duplicates
from submissions.distinct import look_dump
from submissions.outcome import Outcome

SHOWN_GROUPS, SHOWN_IDS = 10, 7


def duplicates(configuration: Configuration, near: float | None = None) -> Outcome:
    """Group equal files, or (near) of images chained by that cosine or more.

    All groups are in a CSV under work/duplicates: group, id and, of images that look alike, the highest cosine with
    another of the group.
    """
    ids = gallery_ids(configuration)
    if near is None:
        first = exact_duplicates(configuration)
        pairs: Iterable[tuple[int, int, float]] = (
            (int(earlier), row, 1.0) for row, earlier in enumerate(first) if earlier != row
        )
        name, alike = "exact", "files of the same content"
    else:
        component, dump = look_dump(configuration, ids)
        pairs = near_duplicates(dump, near)
        name, alike = f"near-{near:g}", f"images with a cosine of {near:g} or more in {full_name(component)}"
    groups, cosines = grouped(pairs)
    images = sum(map(len, groups))
    values = {
        "groups": len(groups),
        "images": images,
        "largest": [[ids[row] for row in rows] for rows in groups[:SHOWN_GROUPS]],
    }
    if not groups:
        return Outcome(values, f"no two gallery {alike}")
    listed = [
        (number, ids[row], f"{cosines[row]:.6f}")
        for number, rows in enumerate(groups, start=1)
        for row in rows
    ]
    columns = ["group", "id"] + ["cosine"] * (near is not None)
    found = pandas.DataFrame(listed, columns=["group", "id", "cosine"])
    text = found.to_csv(columns=columns, index=False, lineterminator="\n")
    path = Path(configuration.competition.work) / "duplicates" / f"{name}.csv"
    values["csv"] = written = str(write_text(path, text))
    lines = [f"{alike}: {len(groups)} group{'s' * (len(groups) > 1)}, {images} images", written]
    for rows in groups[:SHOWN_GROUPS]:
        more = f" and {len(rows) - SHOWN_IDS} more" if len(rows) > SHOWN_IDS else ""
        lines.append(f"  {len(rows):>5}  {', '.join(ids[row] for row in rows[:SHOWN_IDS])}{more}")
    if len(groups) > SHOWN_GROUPS:
        lines.append(f"  the {SHOWN_GROUPS} largest groups of {len(groups)}")
    return Outcome(values, "\n".join(lines))


def grouped(pairs: Iterable[tuple[int, int, float]]) -> tuple[list[list[int]], dict[int, float]]:
    """Return (groups of rows, largest first, then by first row; the highest cosine of each row) of pairs of rows.

    Memory: what is in a group, not the pairs.
    """
    joined = DisjointSet()
    cosines: dict[int, float] = {}
    for first, second, cosine in pairs:
        for row in (first, second):
            joined.add(row)
            cosines[row] = max(cosine, cosines.get(row, cosine))
        joined.merge(first, second)
    groups = [sorted(rows) for rows in joined.subsets()]
    return sorted(groups, key=lambda rows: (-len(rows), rows[0])), cosines

"""The leaderboard as text: local figures, shake-up, official scores, a block of published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from competition.leaderboard import Row, official_correlation
from competition.metrics import CONVENTIONS, figure_label, ranked_by
from competition.tables import table


class Published(NamedTuple):
    """One published MAP@7. split: the queries it was measured on."""

    year: int
    team: str
    map7: float
    split: str
    note: str = ""


_WMFF = "WMFF paper (Wang et al. 2020)"

# published figures of known competitions; a paper's own are given as printed, contradictions included
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "perfect500k": (
        Published(2018, "VCA", 0.578, "test"),
        Published(2018, "GAN", 0.291, "test"),
        Published(2018, "WISLAB", 0.271, "test", "the WMFF authors"),
        Published(2018, "CISIP", 0.252, "test"),
        Published(2018, "Ivlab2017", 0.229, "test"),
        Published(2019, "USTC_NELSLIP", 0.4086, "test"),
        Published(2019, "007", 0.4072, "test"),
        Published(2020, _WMFF, 0.208, "validation", "FCroW on conv5_3, Fig. 4"),
        Published(2020, _WMFF, 0.267, "validation", "FCroW on conv5_3 again, Table 3 No. 2"),
        Published(2020, _WMFF, 0.419, "validation", "FCroW+WMFF, weights of Table 3 No. 6"),
        Published(2020, _WMFF, 0.388, "validation", "FCroW+WMFF, the same weights, Table 5"),
        Published(2020, _WMFF, 0.439, "validation", "FCroW+WMFF with query expansion, Table 5"),
    )
}


def render(rows: Sequence[Row], *, published: str | None = None) -> str:
    """The leaderboard as a text table, with a line on the correlation of local and official scores.

    published: a key of PUBLISHED, whose figures are then shown in a block of their own; None: no such block.
    """
    empty = "The leaderboard is empty: ./run.sh score FILE puts a submission on it."
    blocks = [_local_table(rows) if rows else empty, *_remarks(rows)]
    if published is not None:
        blocks.append(_published_table(published))
    return "\n\n".join(blocks) + "\n"


def _local_table(rows: Sequence[Row]) -> str:
    sizes = {row.top_k for row in rows if row.top_k is not None}
    metric = rows[0].metric
    label = figure_label(metric, str(sizes.pop()) if len(sizes) == 1 else "k")
    names = CONVENTIONS if metric == "map" else (metric,)
    figures = [f"{label} {name}" if metric == "map" else label for name in names]
    head = ["", "file", "answers", "measured on", *figures]
    head += ["public", "private", "cross-validated", "moved", "official", "recipe", "date"]
    body = [
        [
            "-" if row.unlike else str(place),
            row.file,
            row.split or "-",
            _measured(row),
            *(_figure(row.maps.get(name)) for name in names),
            _figure(row.public),
            _figure(row.private),
            _figure(row.cross_validated),
            "-" if row.moved is None else f"{row.moved:+d}" if row.moved else "0",
            _figure(row.official),
            str(row.details.get("recipe", "-")),
            (row.recorded or "-")[:10],
        ]
        for place, row in enumerate(rows, start=1)
    ]
    left = ["file", "answers", "measured on", "recipe", "date"]
    spare = ["date", *figures[1:], "recipe", "answers", "moved", "cross-validated", "official"]
    return table([head, *body], *([head.index(name) for name in names] for names in (left, spare)))


def _measured(row: Row) -> str:
    marks = [row.unlike, str(row.details.get("figures_of", ""))]
    return ", ".join([row.measured_on or "-", *filter(None, marks)])


def _remarks(rows: Sequence[Row]) -> list[str]:
    remarks = []
    metric = rows[0].metric if rows else "map"
    ranked = f"MAP {CONVENTIONS[0]}" if metric == "map" else figure_label(metric, "k")
    if any(row.unlike for row in rows):
        remarks.append(
            "Rows without a place were measured on other queries, labels, gallery or top_k than this configuration's: their "
            "figures do not compare with those above them."
        )
    if any(row.public is not None or row.private is not None for row in rows):
        remark = f"public, private: {ranked} on the labelled queries the study saw, and did not see"
        moves = {(row.details.get("recipe", row.sha256), row.public): row.moved for row in rows}
        if moved := [abs(places) for places in moves.values() if places is not None]:
            recipes = f"{len(moved)} recipe{'s' * (len(moved) > 1)}"
            remark += "; moved: places from one ranking to the other, "
            remark += f"{sum(moved) / len(moved):.2f} on average over {recipes}"
        remarks.append(f"{remark}.")
    if any(row.official is not None for row in rows):
        pairs, correlation = official_correlation(rows)
        if correlation is not None:
            shown = f"{correlation:+.3f} over {pairs} submissions with both scores"
        elif pairs < 3:
            shown = f"needs 3 submissions with both scores, there are {pairs}"
        else:
            shown = "not defined, since one of the two scores is the same for all submissions"
        remarks.append(
            f"Spearman rank correlation of local ({ranked_by(metric)}) and official (as judged) scores: {shown}."
        )
    return remarks


def _published_table(name: str) -> str:
    head = ["year", "published by", "MAP@7", "queries", "remark"]
    body = [list(map(str, row)) for row in PUBLISHED[name]]
    return (
        f"Published scores, {name} (other queries than those above: not comparable; which convention of "
        "MAP@7 was used is not stated; the paper's figures contradict each other, all are shown)\n"
        + table([head, *body], left=(1, 3, 4))
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

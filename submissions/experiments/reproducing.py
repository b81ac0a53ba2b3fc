"""`reproduce`: experiments of the papers on whichever of their data sets are there, as tables and pictures.

Beside each figure of ours stand the published one, the difference and the interval; then which claims hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas

from competition.atomic import write_text
from competition.configuration import Simulate
from competition.errors import ConfigurationError, Top7Error
from competition.tables import table
from features.extraction import extract
from submissions.experiments.evaluation_sets import EvaluationSet, network
from submissions.experiments.experiment import Experiment, TableRow
from submissions.experiments.figures import Figure, row_figure
from submissions.parts_page import write_parts_page
from submissions.report import environment
from tuning.validation import compare, figure_interval


def reproduce(
    chosen: Sequence[Experiment],
    found: Sequence[EvaluationSet],
    *,
    variants: bool,
    device: str,
    options: Mapping[str, Any],
    cluster: str | None = None,
) -> tuple[str, list[dict[str, object]]]:
    """Run experiments on every target; returns all tables as text, and all rows as plain values.

    cluster: address of the Dask scheduler that describes the images; None: this machine does.
    """
    texts: list[str] = []
    values: list[dict[str, object]] = []
    for experiment in chosen:
        if not found:
            texts.append(not_run(experiment))
        rows = (*experiment.rows, *(experiment.variants if variants else ()))
        for target in found:
            try:
                backbones = (network(experiment, target, rows, options),)
                configuration = replace(
                    target.configuration, backbones=backbones, externals=(), simulate=Simulate(images=0)
                )
                extract(configuration, splits=("gallery", "validation"), device=device, cluster=cluster)
                if experiment.parts_page:
                    page = write_parts_page(configuration, None, device=device)
                    figures = [Figure(row, {}, note=str(page)) for row in rows]
                else:
                    described = replace(target, configuration=configuration)
                    figures = [row_figure(experiment, row, described) for row in rows]
            except ConfigurationError as error:
                if len(chosen) == 1:
                    raise
                texts.append(f"{experiment.paper}, {experiment.title}; on {target.name}: not run: {error}")
                continue
            missing = [name for name in experiment.data if name not in [each.name for each in found]]
            records = records_of(experiment, target, figures)
            text = text_of(experiment, target, figures, records, missing)
            files = target.configuration.competition.work / "reproduce" / experiment.name
            csv = pandas.DataFrame(records, dtype=object).to_csv(index=False, lineterminator="\n")
            paths = [write_text(files.with_name(f"{files.name}.csv"), csv)]
            if experiment.picture:
                picture = bars(f"{experiment.title}; {target.name}", records)
                paths.append(write_text(files.with_name(f"{files.name}.svg"), picture))
            texts.append("\n".join([text, *map(str, paths)]))
            values += records
    if not values and found:
        raise Top7Error("nothing could be run: see above")
    return "\n\n".join(texts), values


def records_of(
    experiment: Experiment, target: EvaluationSet, figures: Sequence[Figure]
) -> list[dict[str, Any]]:
    """Return every level of every figure with its interval, each a row of the CSV; None for what is not known.

    published: the figure of this very data set.
    """
    levels = list(next((figure.values for figure in figures if figure.values), {"all": None}))
    groups, found = target.groups(), []
    for level, figure in product(levels, figures):
        published, values = figure.row.published.get(target.name), figure.values.get(level)
        ours = low = high = None
        if experiment.figure == "seconds" and values is not None:
            ours = figure.seconds
        elif values is not None and np.isfinite(values).any():
            there = np.isfinite(values)
            ours = float(values[there].mean())
            low, high = figure_interval(values[there], groups[there]) or (None, None)
        difference = None if ours is None or published is None else ours - published
        record: dict[str, Any] = {"experiment": experiment.name, "data": target.name}
        record |= {"row": figure.row.label, "level": level, "published": published, "ours": ours}
        found.append({**record, "difference": difference, "low": low, "high": high, "note": figure.note})
    return found


def text_of(
    experiment: Experiment,
    target: EvaluationSet,
    figures: Sequence[Figure],
    records: Sequence[Mapping[str, Any]],
    missing: Sequence[str],
) -> str:
    """Return the table, the note, the claims, and the data sets of the paper that are not here."""
    seconds = experiment.figure == "seconds"
    rows = {figure.row.label: figure.row for figure in figures}
    lines = [["", "published", "ours", "difference", "95 %", ""]]
    for record in records:
        interval = "" if record["low"] is None else "{low:.3f} to {high:.3f}".format(**record)
        difference = "" if record["difference"] is None else f"{record['difference']:+.3f}"
        published = _published(rows[record["row"]], target.name)
        ours = "not run" if record["ours"] is None else f"{record['ours']:.3f}" + " s" * seconds
        lines.append([_label(record), published, ours, difference, interval, record["note"]])
    metric = "seconds" if seconds else target.metric
    head = f"{experiment.paper}, {experiment.title}; on {target.name} ({metric})"
    text = [head, table(lines, left=(0, 5)), *filter(None, [experiment.note])]
    text += claims(experiment, figures, target.groups())
    return "\n".join([*text, *(f"{name}: not run (no images of it here)" for name in missing)])


def _label(record: Mapping[str, Any]) -> str:
    """The row with its level, where there are several."""
    return record["row"] + (f" ({record['level']})" if record["level"] != "all" else "")


def _published(row: TableRow, name: str) -> str:
    if name in row.published:
        return f"{row.published[name]:g}"
    elsewhere = ", ".join(f"{value:g} ({data})" for data, value in row.published.items())
    return elsewhere or row.lacking


def claims(experiment: Experiment, figures: Sequence[Figure], groups: np.ndarray) -> list[str]:
    """Return each of the paper's claims with the paired gain, its interval, and whether it holds here."""
    by_label = {figure.row.label: figure for figure in figures}
    found = []
    for claim in experiment.claims:
        first, second = by_label.get(claim["better"]), by_label.get(claim["worse"])
        if first is None or second is None or not first.values or not second.values:
            found.append(f"claim: {claim['text']}: not run")
            continue
        for level, values in first.values.items():
            there = np.isfinite(values)
            if there.any():
                of = "" if level == "all" else f" ({level})"
                judged = _judged(values[there], second.values[level][there], groups[there], claim.get("same"))
                found.append(f"claim: {claim['text']}{of}: {judged}")
    return found


def _judged(first: np.ndarray, second: np.ndarray, groups: np.ndarray, same: float | None) -> str:
    """Say whether `first` is better than `second`, or with `same` not worse by more than that."""
    found = compare(first, second, groups, two_sided=True)
    low, high = found.interval or (-np.inf, np.inf)
    bar = 0.0 if same is None else -same
    verdict = "holds" if low > bar else "does not hold" if high < bar else "undecided"
    within = "" if same is None else f", within {same:g}"
    interval = f"{low:+.3f} to {high:+.3f}" if found.interval else "one group: no interval"
    return f"{verdict} ({found.gain:+.3f}, 95 % {interval}{within})"


def not_run(experiment: Experiment) -> str:
    """Return the table of an experiment of which no data set is here: the published figures alone."""
    lines = [["", *experiment.data, "ours"]]
    for row in experiment.rows:
        cells = [
            f"{row.published[name]:g}" if name in row.published else row.lacking for name in experiment.data
        ]
        lines.append([row.label, *cells, "not run"])
    text = [f"{experiment.paper}, {experiment.title}", table(lines, left=(0,)), experiment.note]
    where = "give --data DIR, the folder its archives were unpacked into, or --config FILE"
    text.append(f"not run: no images of {', '.join(experiment.data)} here: {where}")
    return "\n".join(filter(None, text))


def bars(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG picture, a bar a row that has a figure, its interval, the published figure as a dot."""
    shown = [{**record, "label": _label(record)} for record in records if record["ours"] is not None]
    most = max([record["high"] or record["ours"] or 0.0 for record in shown] + [0.01])
    return environment().get_template("bars.html").render(title=title, records=shown, most=most) + "\n"

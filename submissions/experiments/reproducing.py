"""`reproduce`: experiments of the papers on whichever of their data sets are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas

from competition.atomic import write_text
from competition.configuration import Simulate
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from features.extraction import extract
from submissions.experiments.evaluation_sets import EvaluationSet
from submissions.experiments.experiment import Experiment
from submissions.experiments.figures import Figure, row_figure
from submissions.experiments.networks import network
from submissions.experiments.tables import Record, bars, not_run, records_of, text_of
from submissions.parts_page import write_parts_page


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
                backbone = network(experiment, target, rows, options)
                configuration = replace(
                    target.configuration, backbones=(backbone,), externals=(), simulate=Simulate(images=0)
                )
                extract(configuration, splits=("gallery", "validation"), device=device, cluster=cluster)
                described = replace(target, configuration=configuration)
                if experiment.parts_page:
                    page = write_parts_page(configuration, None, device=device)
                    figures = [Figure(row, {}, note=str(page)) for row in rows]
                else:
                    figures = []
                    for row in rows:
                        log.info("%s: %s", experiment.name, row.label)
                        figures.append(row_figure(experiment, row, described))
            except ConfigurationError as error:
                if len(chosen) == 1:
                    raise
                texts.append(f"{experiment.paper}, {experiment.title}; on {target.name}: not run: {error}")
                continue
            missing = [name for name in experiment.data if name not in [each.name for each in found]]
            records = records_of(experiment, target, figures)
            text = text_of(experiment, target, figures, records, missing)
            texts.append("\n".join([text, *map(str, _write_results(experiment, target, records))]))
            values += map(asdict, records)
    if not values and found:
        raise Top7Error("nothing could be run: see above")
    return "\n\n".join(texts), values


def _write_results(experiment: Experiment, target: EvaluationSet, records: Sequence[Record]) -> list[Path]:
    """Write the rows as CSV, and for a figure of the paper as a picture; returns the paths."""
    folder = Path(target.configuration.competition.work) / "reproduce"
    rows = pandas.DataFrame(map(asdict, records), dtype=object).to_csv(index=False, lineterminator="\n")
    paths = [write_text(folder / f"{experiment.name}.csv", rows)]
    if experiment.picture:
        picture = bars(f"{experiment.title}; {target.name}", records)
        paths.append(write_text(folder / f"{experiment.name}.svg", picture))
    return paths

"""`reproduce`: an experiment of the papers on whichever of its data sets are there; published, ours, the difference."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from competition.atomic import write_text
from competition.average_precision import trapezoid_precisions
from competition.configuration import (
    Backbone,
    Competition,
    Configuration,
    Parts,
    Simulate,
    Tuning,
    read_backbone,
)
from competition.datasets import FORMATS, Dataset, detect, load_dataset
from competition.errors import ConfigurationError, Top7Error
from competition.images import list_images
from competition.messages import log
from competition.metrics import METRICS, query_figures
from competition.splits import query_groups
from competition.standings import table
from competition.toml_values import Place
from features.components import Component, depth_order, layer_component, parts_component
from features.descriptors import gallery_ids, open_components
from features.ranked_lists import ranked_lists
from features.recipes.recipe import Recipe
from submissions.experiment_files import FOLDER, Experiment, Row
from tuning.certificate import certify
from tuning.combination import make_combination, mean_similarities
from tuning.labelled import labelled_queries
from tuning.region import (
    REGIONS,
    contains,
    layer_sums,
    random_coordinates,
)
from tuning.validation import compare, group_interval

RANDOM_POINTS = 100
OPTIMUM_SECONDS = 120.0
LEARNT_FROM = 2000  # images that parts are learnt from, more only where M asks for more


@dataclass(frozen=True)
class Figure:
    """What a row gave on one data set. values: level -> (Q,), one a query; empty with the reason in `note`."""

    row: Row
    values: Mapping[str, np.ndarray]
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A data set to run on: its name, its configuration without backbones, its ground truth (None: the label file's)."""

    name: str
    configuration: Configuration
    dataset: Dataset | None
    folder: Path | None = None


def targets(
    data: Path | None, configuration: Configuration | None, work: Path | None, distractors: Path | None = None
) -> list[Target]:
    """Return what there is to run on: --config's competition, or each data set below --data.

    --data: a folder with one data set, or with folders named after data sets (oxford5k, paris6k, …).
    """
    if configuration is not None:
        competition = configuration.competition
        dataset = None
        if competition.format is not None:
            dataset = load_dataset(competition.format, competition.gallery, competition.distractors)
        return [Target(competition.format or competition.name, configuration, dataset)]
    if data is None:
        return []
    named = {name: Path(data) / name for name in FORMATS if (Path(data) / name).is_dir()}
    found = []
    for name, folder in (named or {detect(data): Path(data)}).items():
        home = (Path("work/reproduce") if work is None else Path(work)) / name
        if distractors is not None:
            home = home.with_name(f"{name}-with-distractors")
        dataset = load_dataset(name, folder, distractors)
        competition = Competition(
            name,
            folder,
            validation=folder,
            work=home,
            format=name,
            distractors=distractors,
            top_k=min(7, len(dataset.gallery)),
        )
        made = Configuration(folder, competition, (), (), Tuning(), Simulate(images=0))
        found.append(Target(name, made, dataset, folder))
    return found


def network(experiment: Experiment, target: Target, rows: Sequence[Row], options: Mapping) -> Backbone:
    """Return the backbone with every layer, pooling and parts table that the rows need.

    options: "weights" and "image_size" of the command line. The network is that of --config, else the recipe's.
    """
    needed = [row for row in rows if row.ours]
    layers = {layer for row in needed for layer in (*row.layers, *([_layer(row)] if row.parts else []))}
    poolings = list(dict.fromkeys(row.pooling for row in needed if row.layers)) or ["spoc"]
    if target.configuration.backbones:
        base = target.configuration.backbones[0]
    else:
        values = {**experiment.network, "layers": [0]}
        values |= {key: value for key, value in options.items() if value is not None}
        if values.get("weights") == "local":
            raise ConfigurationError(
                f"{experiment.name}: {experiment.note or 'give the network: --weights FILE'}"
            )
        base = read_backbone(values, Place(FOLDER, f"[network] of {experiment.name}"))
        base = replace(base, name=base.name or base.model)
    tables: dict[tuple, dict[str, set]] = {}
    sizes = _learning(experiment, target)
    for row in needed:
        if row.parts is not None and _dim(experiment, row, sizes[1]):
            for seed in range(row.seeds):
                asked = tables.setdefault(
                    _table(row, seed), {"counts": set(), "dims": set(), "exponents": set()}
                )
                asked["counts"].add(row.parts["count"])
                asked["dims"].add(_dim(experiment, row, sizes[1]))
                asked["exponents"].add(float(row.parts.get("exponent", 1.0)))
    most = max((dim for dim in (*experiment.dims, experiment.fallback_dim) if dim < sizes[1] - 1), default=0)
    parts = tuple(
        Parts(
            layer=layer,
            form=form,
            selection=selection,
            variant=variant,
            seed=seed,
            training=sizes[0],
            training_images=LEARNT_FROM if most < LEARNT_FROM else sizes[1],
            counts=tuple(sorted(asked["counts"])),
            dims=tuple(sorted({*asked["dims"], most})),
            exponents=tuple(sorted(asked["exponents"])),
        )
        for (layer, form, selection, variant, seed), asked in tables.items()
    )
    return replace(
        base, layers=depth_order(tuple(sorted(layers, key=str))), pooling=tuple(poolings), parts=parts
    )


def _layer(row: Row) -> str | int:
    return row.parts.get("layer", "pool5")


def _table(row: Row, seed: int) -> tuple:
    parts = row.parts
    return (
        _layer(row),
        parts.get("form", "NxC"),
        parts.get("selection", "variance"),
        parts.get("variant", "default"),
        seed,
    )


def _learning(experiment: Experiment, target: Target) -> tuple[Path | None, int]:
    """Where parts are learnt (None: the gallery itself) and from how many images."""
    other = experiment.learn.get(target.name)
    if other and target.folder is not None and (target.folder.parent / other).is_dir():
        folder = target.folder.parent / other
        return folder, len(list_images(folder))
    gallery = target.dataset.gallery.ids if target.dataset else gallery_ids(target.configuration)
    return None, len(gallery)


def _dim(experiment: Experiment, row: Row, images: int) -> int:
    """M of a parts row: as asked, else the experiment's stand-in, 0 where so many images teach neither."""
    for dim in (int(row.parts["dim"]), experiment.fallback_dim):
        if dim < images - 1:
            return dim
    return 0


def run(
    experiment: Experiment, target: Target, *, variants: bool, device: str, options: Mapping
) -> list[Figure]:
    """Describe the images where that is not done yet, and give every row its figure."""
    from features.extraction import extract

    rows = (*experiment.rows, *(experiment.variants if variants else ()))
    backbone = network(experiment, target, rows, options)
    configuration = replace(
        target.configuration, backbones=(backbone,), externals=(), simulate=Simulate(images=0)
    )
    extract(configuration, splits=("gallery", "validation"), device=device)
    if experiment.parts_page:
        from submissions.parts_page import write_parts_page

        page = write_parts_page(configuration, None, device=device)
        return [Figure(row, {}, note=str(page)) for row in rows]
    figures = []
    for row in rows:
        log.info("%s: %s", experiment.name, row.label)
        figures.append(_figure(experiment, row, target, configuration))
    return figures


def _figure(experiment: Experiment, row: Row, target: Target, configuration: Configuration) -> Figure:
    if not row.ours:
        return Figure(row, {}, note="published alone")
    backbone, learnt = configuration.backbones[0], _learning(experiment, target)
    notes, choices = [], [(layer_component(backbone, layer, row.pooling),) for layer in row.layers]
    if row.layers:
        choices = [tuple(component for one in choices for component in one)]
    else:
        dim = _dim(experiment, row, learnt[1])
        if not dim:
            return Figure(row, {}, note=f"not possible: M = {row.parts['dim']} from {learnt[1]} images")
        if dim != row.parts["dim"]:
            notes.append(f"M = {dim}: {learnt[1]} images")
        if learnt[0] is None:
            notes.append("learnt on the gallery itself")
        choices = [(_parts_component(backbone, row, seed, dim),) for seed in range(row.seeds)]
    weights = np.array(row.weights or (1.0,) * len(choices[0]), dtype=np.float64)
    steps, more = _possible(row.steps, experiment.fallback_dim, learnt[1])
    row, notes = replace(row, steps=steps), notes + more
    begun = time.perf_counter()
    if row.random or row.optimum:
        values, more = _of_region(row, choices[0], target, configuration)
        notes += more
    else:
        every = [
            _values(components, weights / weights.sum(), row, target, configuration) for components in choices
        ]
        values = {level: np.mean([each[level] for each in every], axis=0) for level in every[0]}
        if len(every) > 1:
            spread = np.std([np.nanmean(next(iter(each.values()))) for each in every], ddof=1)
            notes.append(f"± {spread:.3f} over {len(every)} seeds")
    seconds = time.perf_counter() - begun
    if experiment.membership and row.weights:
        notes.append(_membership(weights / weights.sum(), choices[0], configuration))
    return Figure(row, values, seconds, "; ".join(notes))


def _possible(steps: Sequence[dict], fallback: int, images: int) -> tuple[tuple[dict, ...], list[str]]:
    """The steps, with whitening to `fallback` where fewer than two images a dimension would teach it."""
    found, notes = [], []
    for step in steps:
        if step["step"] == "whiten" and fallback and 2 * step["dim"] > images:
            notes.append(f"whitened to {fallback}: {images} images")
            step = {**step, "dim": fallback}
        found.append(step)
    return tuple(found), notes


def _parts_component(backbone: Backbone, row: Row, seed: int, dim: int) -> Component:
    for number, parts in enumerate(backbone.parts):
        key = (parts.layer, parts.form, parts.selection, parts.variant, parts.seed)
        if key == _table(row, seed):
            exponent = float(row.parts.get("exponent", 1.0))
            return parts_component(backbone, number, int(row.parts["count"]), dim, exponent)
    raise AssertionError(f"no parts table for {row}")


def _values(
    components: Sequence[Component],
    weights: np.ndarray,
    row: Row,
    target: Target,
    configuration: Configuration,
) -> dict[str, np.ndarray]:
    """The figure of every query by level, each under its data set's protocol."""
    recipe = Recipe("reproduce", tuple(components), tuple(weights), steps=row.steps)
    ids = gallery_ids(configuration)
    if target.dataset is not None and target.dataset.metric == "mAP":
        lists = ranked_lists(configuration, recipe, "validation", target.dataset.queries.ids, ids, k=len(ids))
        return {
            level: trapezoid_precisions(lists.ranks, truth.positives, truth.junk)
            for level, truth in target.dataset.truths.items()
        }
    labelled = labelled_queries(configuration, ids)
    lists = ranked_lists(configuration, recipe, "validation", labelled.query_ids, ids)
    competition = configuration.competition
    return {"all": query_figures(lists.ranks, labelled.relevant, competition.top_k, competition.metric)}


def _of_region(
    row: Row, components: Sequence[Component], target: Target, configuration: Configuration
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The mean of random points of a region, or its certified optimum on these very queries."""
    if target.dataset is not None and target.dataset.metric == "mAP":
        return {}, ["not run: a whole-list mAP ranks everything in every trial"]
    ids = gallery_ids(configuration)
    labelled = labelled_queries(configuration, ids)
    queries = open_components(configuration, components, "validation", labelled.query_ids)
    gallery = open_components(configuration, components, "gallery", ids)
    every = np.ones(len(labelled.query_ids), dtype=bool)
    region = row.random or row.optimum
    made = make_combination(
        components, queries, gallery, labelled.relevant, every, configuration.competition.top_k, region, None
    )
    if row.random:
        points = random_coordinates(RANDOM_POINTS, len(components), np.random.default_rng(0))
        values = [made.average_precisions(made.weights(point)) for point in points]
        return {"all": np.mean(values, axis=0)}, [f"median {np.median(np.mean(values, axis=1)):.3f}"]
    if made.scene is None:
        return {}, ["not possible: too many candidates to certify"]
    found = certify([made.scene], [made.corners], OPTIMUM_SECONDS)
    weights = made.weights(found.coordinates)
    said = f"weights {', '.join(f'{w:.3f}' for w in weights)}; bound {found.bound:.4f}"
    return {"all": made.average_precisions(weights)}, [said, "chosen on these queries"]


def _membership(weights: np.ndarray, components: Sequence[Component], configuration: Configuration) -> str:
    """Whether weights lie in the region under each reading of S: its similarities, distances, and S of each query."""
    queries = open_components(configuration, components, "validation", None)
    gallery = open_components(configuration, components, "gallery", None)
    chains = [component.chain for component in components]
    mean = mean_similarities(queries, gallery, np.ones(len(queries[0].ids), dtype=bool))
    said = []
    for region in REGIONS[:2]:
        inside = contains(weights, layer_sums(mean, region), chains, tolerance=1e-9)
        said.append(f"{'in' if inside else 'outside'} the region ({region})")
    sums = np.stack(
        [q.descriptors.astype(np.float64) @ g.column_sum(g.unreadable) for q, g in zip(queries, gallery)],
        axis=1,
    )
    own = np.mean([contains(weights, s, chains) for s in sums[(sums > 0).all(axis=1)]])
    return ", ".join(said) + f", with S of each query for {100 * own:.0f} % of them"


def rendered(
    experiment: Experiment, target: Target, figures: Sequence[Figure], missing: Sequence[str]
) -> tuple[str, list[dict]]:
    """Return the table and the claims as text, and the rows as plain values (the CSV's)."""
    groups = _groups(target, figures)
    levels = list(next((figure.values for figure in figures if figure.values), {"all": None}))
    unit = experiment.figure == "seconds"
    records = [_record(experiment, target, figure, level, groups) for level in levels for figure in figures]
    head = ["", "published", "ours", "difference", "95 %", ""]
    lines = [head]
    for record in records:
        level = f" ({record['level']})" if record["level"] != "all" else ""
        interval = "" if record["low"] is None else f"{record['low']:.3f} to {record['high']:.3f}"
        lines.append(
            [
                record["row"] + level,
                record["published_text"],
                _number(record["ours"], unit),
                "" if record["difference"] is None else f"{record['difference']:+.3f}",
                interval,
                record["note"],
            ]
        )
    competition = target.configuration.competition
    metric = (
        "mAP"
        if target.dataset is not None and target.dataset.metric == "mAP"
        else (f"{METRICS[competition.metric]}@{competition.top_k}")
    )
    title = f"{experiment.paper}, {experiment.title}; on {target.name} ({'seconds' if unit else metric})"
    text = [title, table(lines, left=(0, 5))]
    text += [experiment.note] if experiment.note else []
    text += _claims(experiment, figures, groups)
    text += [f"{name}: not run (no images of it here)" for name in missing]
    for record in records:
        record.pop("published_text")
    return "\n".join(text), records


def _groups(target: Target, figures: Sequence[Figure]) -> np.ndarray:
    if target.dataset is None:
        return labelled_queries(target.configuration, gallery_ids(target.configuration)).groups
    truths = target.dataset.truths.values()
    return query_groups([frozenset().union(*each) for each in zip(*(truth.positives for truth in truths))])


def _record(
    experiment: Experiment, target: Target, figure: Figure, level: str, groups: np.ndarray
) -> dict[str, object]:
    published = figure.row.published
    same = published.get(target.name)
    shown = (
        f"{same:g}" if same is not None else ", ".join(f"{v:g} ({k})" for k, v in published.items()) or "?"
    )
    values = figure.values.get(level)
    ours = low = high = None
    if experiment.figure == "seconds" and values is not None:
        ours = figure.seconds
    elif values is not None and np.isfinite(values).any():
        there = np.isfinite(values)
        ours = float(values[there].mean())
        interval = group_interval(values[there], groups[there])
        low, high = interval if interval else (None, None)
    return {
        "experiment": experiment.name,
        "data": target.name,
        "row": figure.row.label,
        "level": level,
        "published": same,
        "published_text": shown,
        "ours": ours,
        "difference": None if ours is None or same is None else ours - same,
        "low": low,
        "high": high,
        "note": figure.note,
    }


def _number(value: float | None, seconds: bool) -> str:
    return "not run" if value is None else f"{value:.3f}" + (" s" if seconds else "")


def _claims(experiment: Experiment, figures: Sequence[Figure], groups: np.ndarray) -> list[str]:
    """Each of the paper's claims with the paired gain, its interval, and whether it holds here."""
    by_label = {figure.row.label: figure for figure in figures}
    said = []
    for claim in experiment.claims:
        first, second = by_label.get(claim["better"]), by_label.get(claim["worse"])
        if first is None or second is None or not first.values or not second.values:
            said.append(f"claim: {claim['text']}: not run")
            continue
        for level in first.values:
            there = np.isfinite(first.values[level])
            if not there.any():
                continue
            found = compare(
                first.values[level][there], second.values[level][there], groups[there], two_sided=True
            )
            low, high = found.interval or (-np.inf, np.inf)
            same = claim.get("same")
            if same is not None:
                verdict = "holds" if -same < low else "does not hold" if high < -same else "undecided"
            else:
                verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
            of = "" if level == "all" else f" ({level})"
            within = f", within {same:g}" if same is not None else ""
            interval = f"{low:+.3f} to {high:+.3f}" if found.interval else "one group: no interval"
            said.append(f"claim: {claim['text']}{of}: {verdict} ({found.gain:+.3f}, 95 % {interval}{within})")
    return said


def write_results(
    folder: Path, experiment: Experiment, target: Target, records: Sequence[dict]
) -> list[Path]:
    """Write the rows as CSV, and for a figure of the paper as a picture; returns the paths."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    paths = [write_text(folder / f"{experiment.name}.csv", stream.getvalue())]
    if experiment.picture:
        paths.append(write_text(folder / f"{experiment.name}.svg", _bars(experiment, target, records)))
    return paths


def _bars(experiment: Experiment, target: Target, records: Sequence[dict]) -> str:
    """A bar a row, with its interval, the published figure as a dot."""
    from html import escape

    shown = [record for record in records if record["ours"] is not None]
    most = max([record["high"] or record["ours"] for record in shown] + [0.01])
    height, left, width = 22, 220, 420
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{height * len(shown) + 50}" '
        'font-family="sans-serif" font-size="12">',
        f'<text x="8" y="20">{escape(f"{experiment.title}; {target.name}")}</text>',
    ]
    for number, record in enumerate(shown):
        y = 34 + height * number
        scaled = {key: width * (record[key] or 0) / most for key in ("ours", "low", "high", "published")}
        lines.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(record["row"])}</text>')
        lines.append(
            f'<rect x="{left}" y="{y}" width="{scaled["ours"]:.1f}" height="{height - 6}" fill="#7a9cc6"/>'
        )
        if record["low"] is not None:
            lines.append(
                f'<path d="M{left + scaled["low"]:.1f} {y + 8}H{left + scaled["high"]:.1f}" stroke="#223"/>'
            )
        if record["published"] is not None:
            lines.append(f'<circle cx="{left + scaled["published"]:.1f}" cy="{y + 8}" r="4" fill="#c33"/>')
        lines.append(f'<text x="{left + width + 8}" y="{y + 13}">{record["ours"]:.3f}</text>')
    return "\n".join([*lines, "</svg>", ""])


def not_run(experiment: Experiment) -> str:
    """The table of an experiment of which no data set is here: the published figures alone."""
    lines = [["", *experiment.data, "ours"]]
    for row in experiment.rows:
        lines.append(
            [
                row.label,
                *(f"{row.published[n]:g}" if n in row.published else "?" for n in experiment.data),
                "not run",
            ]
        )
    text = [f"{experiment.paper}, {experiment.title}", table(lines, left=(0,))]
    text += [experiment.note] if experiment.note else []
    where = "give --data DIR, the folder its archives were unpacked into, or --config FILE"
    return "\n".join([*text, f"not run: no images of {', '.join(experiment.data)} here: {where}"])


def reproduce(
    chosen: Sequence[Experiment], found: Sequence[Target], *, variants: bool, device: str, options: Mapping
) -> tuple[str, list[dict]]:
    """Run experiments on every target; returns all tables as text, and all rows."""
    texts, records = [], []
    for experiment in chosen:
        if not found:
            texts.append(not_run(experiment))
        for target in found:
            try:
                figures = run(experiment, target, variants=variants, device=device, options=options)
            except ConfigurationError as error:
                if len(chosen) == 1:
                    raise
                texts.append(f"{experiment.paper}, {experiment.title}; on {target.name}: not run: {error}")
                continue
            missing = [name for name in experiment.data if name not in [each.name for each in found]]
            text, rows = rendered(experiment, target, figures, missing)
            folder = Path(target.configuration.competition.work) / "reproduce"
            paths = write_results(folder, experiment, target, rows)
            texts.append("\n".join([text, *map(str, paths)]))
            records += rows
    if not records and found:
        raise Top7Error("nothing could be run: see above")
    return "\n\n".join(texts), records

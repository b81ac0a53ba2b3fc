"""Which setting to take with few labels: chosen by labels, by simulated photos, or by both.

    python -m tests.benchmarks.few_labels WORK [--config FILE] [--embedded 0 1 2] [--draws 300]

Sixty settings of learnt and plain whitening over R-MAC and SPoC with a centre prior are scored once for every labelled
query and 1,000 judging photos; then, for many draws of labelled queries, each way chooses one, and the queries not drawn
(no group is split) score it. The embedded competition brings its own dumps; --config names another, extracted with both
poolings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from competition.configuration import Configuration, load_configuration
from competition.metrics import query_figures
from competition.mini import build
from competition.splits import query_groups
from features.components import depth_order, layer_component
from features.descriptors import gallery_ids, open_components
from features.extraction import extract
from features.ranking.photos import judging_dumps, open_judging, photos_for
from tests.benchmarks.recipe_contests import contest
from tuning.labelled import JUDGING_PHOTOS
from tuning.prepared import prepare

POOLINGS = ("rmac", "spoc-centre")
COUNTS = (10, 25, 50, 100, None)  # labelled queries drawn; None: all but a tenth, which scores
HALVES = (25, 50, 100, 200, 400)  # public groups at which real queries count half


def settings() -> list[tuple[tuple[str, ...], dict]]:
    """Sixty: which poolings, and the step before fusion."""
    steps: list[dict] = [
        {"step": "photo_whiten", "dim": dim, "shrinkage": shrinkage, "joint": joint}
        for dim in (64, 128, 256)
        for shrinkage in (0.05, 0.2, 0.5)
        for joint in (False, True)
    ]
    steps += [{}, {"step": "whiten", "dim": 128, "exponent": 0.5}]
    return [(poolings, step) for poolings in (POOLINGS[:1], POOLINGS[1:], POOLINGS) for step in steps]


def precisions(configuration: Configuration, real: dict) -> tuple[np.ndarray, np.ndarray]:
    """AP of every setting on (labelled queries, judging photos): (S, Q) and (S, P).

    real: split -> its `Queries`.
    """
    ids, k = gallery_ids(configuration), configuration.competition.top_k
    judged = open_judging(configuration, ids, JUDGING_PHOTOS)
    backbone = configuration.backbones[0]
    layers = depth_order(backbone.layers)[-3:]
    relevant = [rows for queries in real.values() for rows in queries.relevant] + list(judged.correct)
    found = []
    for poolings, step in settings():
        parts = [layer_component(backbone, layer, pooling) for pooling in poolings for layer in layers]
        gallery = open_components(configuration, parts, "gallery", ids)
        steps = [step] if step else []
        if step and not step.get("joint"):
            least = min(dump.descriptors.shape[1] for dump in gallery)
            steps = [{**step, "dim": min(step["dim"], least)}]
        sides = [open_components(configuration, parts, split, queries.ids) for split, queries in real.items()]
        sides.append(judging_dumps(configuration, parts, judged.ids))
        photos = photos_for(configuration, parts, steps, ids)
        folder = Path(configuration.competition.work) / "ranking"
        scores = []
        for dumps in sides:
            made = prepare(parts, dumps, gallery, steps, k, folder, photos=photos)
            each = zip(made.queries, made.gallery)
            scores.append(sum(np.asarray(q.descriptors) @ np.asarray(g.descriptors).T for q, g in each))
        best = np.argsort(-np.concatenate(scores), axis=1, kind="stable")[:, :k]
        found.append(query_figures(best, relevant, k))
    values, count = np.stack(found), len(relevant) - len(judged.ids)
    return values[:, :count], values[:, count:]


def chosen(
    labels: np.ndarray, photos: np.ndarray, groups: np.ndarray, count: int | None, draws: int
) -> dict[str, float]:
    """Mean held-out MAP of the setting each way chooses, over draws of `count` labelled queries, whole groups.

    labels (S, Q), photos (S, P): average precisions.
    """
    generator, names = np.random.default_rng(0), np.unique(groups)
    by_photos = photos.mean(axis=1)
    ways: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "labels": lambda found, n: found,
        "simulated": lambda found, n: by_photos,
    }
    for half in HALVES:
        ways[f"both {half}"] = lambda found, n, half=half: (n * found + half * by_photos) / (n + half)
    ways["best"] = lambda found, n: None
    found = {way: [] for way in ways}
    for _ in range(draws):
        order = generator.permutation(names)
        sizes = np.cumsum([np.count_nonzero(groups == name) for name in order])
        wanted = count if count is not None else len(groups) * 9 // 10
        drawn = order[: max(1, int(np.searchsorted(sizes, wanted, side="right")))]
        inside = np.isin(groups, drawn)
        if inside.all():
            continue
        outside = labels[:, ~inside].mean(axis=1)
        for way, figure in ways.items():
            figures = figure(labels[:, inside].mean(axis=1), len(drawn))
            found[way].append(outside.max() if figures is None else outside[np.argmax(np.round(figures, 12))])
    return {way: float(np.mean(values)) for way, values in found.items()}


def embedded(work: Path, seed: int):
    """The embedded competition of a generator seed, all of its labels: those of its test queries are the generator's."""
    configuration = load_configuration(build(work / f"seed{seed}", seed=seed), work=work / f"dumps{seed}")
    configuration = replace(
        configuration,
        backbones=(replace(configuration.backbones[0], pooling=POOLINGS, parts=()),),
        simulate=replace(configuration.simulate, images=600, views=8),
    )
    extract(configuration, progress=False)
    held_back = configuration.path.parent / "held_back" / "test.csv"
    return contest(
        f"seed {seed}", configuration, {"validation": configuration.competition.labels, "test": held_back}
    )


def _configured(options: argparse.Namespace):
    configuration = load_configuration(options.config, work=options.work)
    extract(configuration, progress=False)
    return contest(
        configuration.competition.name, configuration, {"validation": configuration.competition.labels}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table a competition."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--embedded", type=int, nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=300)
    options = parser.parse_args(arguments)
    made = [partial(_configured, options)] if options.config is not None else []
    made += (partial(embedded, options.work, seed) for seed in options.embedded)
    for make in made:
        each = make()
        labels, photos = precisions(each.configuration, each.queries)
        np.savez(options.work / f"{each.name}.npz", labels=labels, photos=photos)
        groups = query_groups([rows for queries in each.queries.values() for rows in queries.relevant])
        print(
            f"\n{each.name}: {len(labels)} settings, {labels.shape[1]} labelled queries, {photos.shape[1]} photos"
        )
        for number, count in enumerate(COUNTS):
            row = chosen(labels, photos, groups, count, options.draws)
            if number == 0:
                print("| labelled queries | " + " | ".join(row) + " |\n|" + " --- |" * (len(row) + 1))
            name = "nine tenths" if count is None else count
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()

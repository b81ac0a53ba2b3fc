"""MAP@7 of every named recipe, and of ours with one step less at a time, on the labelled queries of a
configuration.

    python tests/benchmarks/recipes.py --config grocery.toml [--recipe NAME|FILE ...] [--ablation] [--save FILE]

Needs the dumps of `./run.sh extract` with every pooling the recipes name. Public and private are the study's
own split (`[tuning] private`, `seed`); AP@7 is divided by min(m, 7). Intervals: 95 %, paired bootstrap over
groups of queries.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from competition.configuration import load_configuration  # noqa: E402
from competition.images import list_images  # noqa: E402
from competition.labels import read_labels, relevant_rows  # noqa: E402
from competition.metrics import average_precisions  # noqa: E402
from competition.splits import bootstrap_groups, private_mask, query_groups  # noqa: E402
from features.descriptors import open_components  # noqa: E402
from features.ranking.recipes import NamedRecipe, named_recipe, recipe_names, resolve  # noqa: E402
from features.ranking.steps import rank  # noqa: E402


class Bench:
    """A configuration's dumps and labels, opened once."""

    def __init__(self, config: Path):
        self.configuration = load_configuration(config)
        competition = self.configuration.competition
        self.queries = list_images(competition.validation).ids
        self.gallery = list_images(competition.gallery).ids
        labels = read_labels(competition.labels, query_ids=self.queries, gallery_ids=self.gallery)
        self.relevant = relevant_rows(labels, self.gallery)
        self.groups = query_groups(self.relevant)
        self.private = private_mask(
            self.groups, self.configuration.tuning.private, self.configuration.tuning.seed
        )
        self.opened: dict = {}

    def dumps(self, components, split, ids):
        for component in components:
            if (component, split) not in self.opened:
                self.opened[component, split] = open_components(self.configuration, [component], split, ids)[
                    0
                ]
        return [self.opened[component, split] for component in components]

    def precisions(self, recipe: NamedRecipe) -> tuple[np.ndarray, float, tuple[str, ...]]:
        """Return AP@7 (Q,) of a recipe, the seconds its ranking took, and its notes."""
        found = resolve(recipe, self.configuration)
        queries = self.dumps(found.components, "validation", self.queries)
        gallery = self.dumps(found.components, "gallery", self.gallery)
        begin = time.perf_counter()
        ranks, _ = rank(
            [d.descriptors for d in queries],
            [d.descriptors for d in gallery],
            found.weights,
            found.steps,
            7,
            excluded=np.logical_or.reduce([d.unreadable for d in gallery]),
            groups=found.groups,
            query_norms=[d.norms for d in queries],
            gallery_norms=[d.norms for d in gallery],
            unit=True,
        )
        return average_precisions(ranks, self.relevant, 7), time.perf_counter() - begin, found.notes


def without(recipe: NamedRecipe) -> dict[str, NamedRecipe]:
    """Return the recipe with one step, or one component, less at a time, and with neither step."""
    found = {
        f"- {step['step']} (step {number + 1})": replace(
            recipe, steps=recipe.steps[:number] + recipe.steps[number + 1 :]
        )
        for number, step in enumerate(recipe.steps)
    }
    found["- all steps"] = replace(recipe, steps=())
    if len(recipe.components) > 1:
        for number, pattern in enumerate(recipe.components):
            keep = [place for place in range(len(recipe.components)) if place != number]
            steps = tuple(step for step in recipe.steps if step["step"] != "cascade")
            found[f"- {json.dumps(pattern)}"] = replace(
                recipe,
                components=tuple(recipe.components[place] for place in keep),
                weights=tuple(recipe.weights[place] for place in keep),
                steps=steps,
            )
    return found


def row(name: str, values: np.ndarray, bench: Bench, base: np.ndarray | None, seconds: float) -> str:
    public, private = (
        values[~bench.private].mean(),
        values[bench.private].mean() if bench.private.any() else np.nan,
    )
    text = f"| {name} | {public:.3f} | {private:.3f} | {values.mean():.3f} |"
    if base is not None:
        counts = bootstrap_groups(bench.groups, 10_000, 0)
        low, high = np.quantile(counts @ (values - base) / counts.sum(axis=1), [0.025, 0.975])
        text += f" {values.mean() - base.mean():+.3f} [{low:+.3f}, {high:+.3f}] |"
    else:
        text += " |"
    return text + f" {seconds * 1e3:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--recipe", nargs="+", default=None, help="names or files (default: all by name)")
    parser.add_argument("--base", default="top7", help="what differences are taken from")
    parser.add_argument("--ablation", action="store_true", help="also the base with one step less at a time")
    options = parser.parse_args()
    bench = Bench(options.config)
    names = options.recipe or [name for name in recipe_names() if name != options.base]
    base, base_s, notes = bench.precisions(named_recipe(options.base))
    print(
        f"{len(bench.queries)} queries ({int(bench.private.sum())} private), {len(bench.gallery)} gallery images; "
        "MAP@7 divided by min(m, 7)\n"
    )
    print(
        "| recipe | public | private | all | all, difference from ours [95 %] | ranking, ms |\n|---|---|---|---|---|---|"
    )
    print(row(options.base, base, bench, None, base_s))
    for name in names:
        values, seconds, more = bench.precisions(named_recipe(name))
        notes += tuple(f"{name}: {note}" for note in more)
        print(row(name, values, bench, base, seconds), flush=True)
    if options.ablation:
        for name, recipe in without(named_recipe(options.base)).items():
            values, seconds, _ = bench.precisions(recipe)
            print(row(name, values, bench, base, seconds), flush=True)
    for note in notes:
        print(f"\n{note}")


if __name__ == "__main__":
    main()

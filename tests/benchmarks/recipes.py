"""MAP@7 of every named recipe, and of ours with one step or component less at a time.

    python -m tests.benchmarks.recipes --grocery 1 [--work DIR] [--ablation]      ../shared/grocery, 1 or 2 backbones
    python -m tests.benchmarks.recipes --embedded 0 1 2 3 4 [--chosen 0 1 2] …    generator seeds, pooled and each alone
    python -m tests.benchmarks.recipes --config FILE …                            any configuration with its dumps

The first two draw and extract what is missing (under `--work`, kept; default: a temporary folder); the last needs the
dumps of `./run.sh extract` with every pooling the recipes name. AP@7 is divided by min(m, 7). Public and private are the
study's own split (`[tuning] private`, `seed`). The embedded competition is scored on its 100 validation and its 100 test
queries of each seed; `--chosen` names the seeds whose validation queries ours was chosen on ("chosen on"), all other
queries are "held out"; 40 test queries of a seed ask for products of its validation queries, in other photos. Where
labelled queries teach, each is ranked by what others taught, as in `submit`, and the time is that of one ranking.
Intervals: 95 %, paired bootstrap over groups of queries (those that share a correct image, in either split), pooled over
seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from competition.metrics import query_figures
from competition.splits import bootstrap_groups, query_groups
from features.descriptors import open_components
from features.ranking.photos import learns_from_labels, photos_for, teaching_parts
from features.recipes.kept import named_recipe, recipe_names
from features.recipes.recipe import Recipe, resolve
from tests.benchmarks.recipe_contests import Contest, configured, embedded, grocery
from tests.features_tests.ranking_references import rank

TOP_K = 7
SAMPLES = 10_000


class Pool:
    """The labelled queries of several competitions, one after another, and what recipes score on them."""

    def __init__(self, contests: Sequence[Contest]):
        self.contests = contests
        self.opened: dict = {}
        parts = [(contest, split) for contest in contests for split in contest.queries.values()]
        self.seeds = np.concatenate(
            [np.full(len(split.ids), self.contests.index(contest)) for contest, split in parts]
        )
        self.splits = np.concatenate([np.full(len(split.ids), split.split) for _, split in parts])
        self.private = np.concatenate([split.private for _, split in parts])
        self.groups = query_groups(
            [
                [(contest.name, int(row)) for row in rows]
                for contest, split in parts
                for rows in split.relevant
            ]
        )

    def precisions(self, recipe: Recipe) -> tuple[np.ndarray, float, list[str]]:
        """Return AP@7 (Q,) of a recipe on all queries, the seconds its rankings took, and its notes."""
        values, seconds, notes = [], 0.0, []
        for contest in self.contests:
            found = resolve(recipe, contest.configuration)
            notes += found.notes
            gallery = self._dumps(contest, found.components, "gallery", contest.gallery)
            for split in contest.queries.values():
                queries = self._dumps(contest, found.components, split.split, split.ids)

                def ranked(unseen: Sequence[str] = ()) -> np.ndarray:
                    photos = photos_for(
                        contest.configuration, found.components, found.steps, contest.gallery, unseen
                    )
                    return rank(
                        [dump.descriptors for dump in queries],
                        [dump.descriptors for dump in gallery],
                        found.weights,
                        found.steps,
                        TOP_K,
                        excluded=np.logical_or.reduce([dump.unreadable for dump in gallery]),
                        groups=found.groups or None,
                        query_norms=[dump.norms for dump in queries],
                        gallery_norms=[dump.norms for dump in gallery],
                        unit=True,
                        photos=photos,
                    )[0]

                begin = time.perf_counter()
                ranks = ranked()
                seconds += time.perf_counter() - begin
                if split.split == "validation" and any(map(learns_from_labels, found.steps)):
                    for part in teaching_parts(contest.configuration, contest.gallery):
                        rows = np.isin(split.ids, part)
                        ranks[rows] = ranked(part)[rows]
                values.append(query_figures(ranks, split.relevant, TOP_K))
        return np.concatenate(values), seconds, list(dict.fromkeys(notes))

    def difference(self, values: np.ndarray, base: np.ndarray, among: np.ndarray) -> str:
        """Return "mean [low, high]" of values - base (Q,) over the queries among (Q,) bool."""
        counts = bootstrap_groups(self.groups[among], SAMPLES, 0)
        gains = (values - base)[among]
        low, high = np.quantile(counts @ gains / counts.sum(axis=1), [0.025, 0.975])
        return f"{gains.mean():+.3f} [{low:+.3f}, {high:+.3f}]"

    def _dumps(self, contest, components, split, ids):
        for component in components:
            key = contest.name, component, split
            if key not in self.opened:
                self.opened[key] = open_components(contest.configuration, [component], split, ids)[0]
        return [self.opened[contest.name, component, split] for component in components]


def without(recipe: Recipe) -> dict[str, Recipe]:
    """Return the recipe with one step, or one component, less at a time, no step or no views; names say which."""
    found = {
        f"- step {number + 1}, {words(step)}": replace(
            recipe, steps=recipe.steps[:number] + recipe.steps[number + 1 :]
        )
        for number, step in enumerate(recipe.steps)
    }
    if len(recipe.steps) > 1:
        found["- all steps"] = replace(recipe, steps=())
    if any(pattern.get("views") for pattern in recipe.patterns):
        plain = tuple({**pattern, "views": False} for pattern in recipe.patterns)
        found["- views of queries"] = replace(recipe, patterns=plain)
    for number, pattern in enumerate(recipe.patterns if len(recipe.patterns) > 1 else ()):
        keep = [place for place in range(len(recipe.patterns)) if place != number]
        found[f"- component {number + 1}, {words(pattern)}"] = replace(
            recipe,
            patterns=tuple(recipe.patterns[place] for place in keep),
            weights=tuple(recipe.weights[place] for place in keep),
            steps=tuple(step for step in recipe.steps if step["step"] != "cascade"),  # weights of its own
        )
    return found


def instead(recipes: Mapping[str, Recipe], key: str, values: Sequence[str]) -> dict[str, Recipe]:
    """Return each recipe again with every one of `values`, in JSON, of a step's argument that it gives."""
    return {
        f"{name}, {key} {value}": replace(
            recipe,
            steps=tuple({**step, key: json.loads(value)} if key in step else step for step in recipe.steps),
        )
        for name, recipe in recipes.items()
        if any(key in step for step in recipe.steps)
        for value in values
    }


def words(entry: Mapping[str, object]) -> str:
    """Return a step or a component's pattern in a few words; of several poolings the first."""
    values = {
        key: value[0] if key == "pooling" and isinstance(value, list) else value
        for key, value in entry.items()
    }
    return " ".join(
        str(value)
        if key in ("step", "pooling")
        else f"{key} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
        if key not in ("optional", "views")
    )


def columns(pool: Pool, chosen: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the columns of the pooled table, each with the queries (Q,) bool it is the mean over."""
    every, validation, test = (
        np.ones(len(pool.groups), bool),
        pool.splits == "validation",
        pool.splits == "test",
    )
    if test.any():
        seen = validation & np.isin(pool.seeds, chosen)
        found = {
            "chosen on": seen,
            "held out": ~seen,
            "validation": validation,
            "its private": validation & pool.private,
            "test": test,
            "all": every,
        }
    else:
        found = {"public": ~pool.private, "private": pool.private, "all": every}
    return {name: among for name, among in found.items() if among.any()}


def table(pool: Pool, recipes: Mapping[str, Recipe], base: str, chosen: Sequence[int]) -> list[str]:
    """Return the lines of the pooled table, of the rows by seed, and of the notes; the first recipe is `base`."""
    among = columns(pool, chosen)
    compared = [name for name in ("held out", "private", "all") if name in among]
    lines = [
        "| recipe | "
        + " | ".join(among)
        + " | "
        + " | ".join(f"{name}, difference from {base} [95 %]" for name in compared)
        + " | ranking, ms |",
        "|" + "---|" * (2 + len(among) + len(compared)),
    ]
    by_seed, notes, first = [], [], None
    for name, recipe in recipes.items():
        values, seconds, more = pool.precisions(recipe)
        notes += [f"{recipe.name}: {note}" for note in more if not name.startswith("- ")]
        cells = [f"{values[queries].mean():.3f}" for queries in among.values()]
        cells += [
            "" if first is None else pool.difference(values, first, among[column]) for column in compared
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds * 1e3:.0f} |")
        first = values if first is None else first
        by_seed.append(
            f"| {name} | "
            + " | ".join(
                " / ".join(
                    f"{values[(pool.seeds == seed) & (pool.splits == split)].mean():.3f}"
                    for split in contest.queries
                )
                for seed, contest in enumerate(pool.contests)
            )
            + " |"
        )
    if len(pool.contests) > 1:
        lines += [
            "",
            "By seed, validation / test:",
            "",
            "| recipe | " + " | ".join(contest.name for contest in pool.contests) + " |",
            "|" + "---|" * (1 + len(pool.contests)),
            *by_seed,
        ]
    return lines + [line for note in notes for line in ("", note)]


def main() -> None:
    """Parse the arguments, extract what is missing, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="a configuration whose dumps are there")
    what.add_argument("--grocery", type=int, choices=(1, 2), help="that many backbones")
    what.add_argument("--embedded", type=int, nargs="*", metavar="SEED", help="default: 0 1 2 3 4")
    parser.add_argument(
        "--chosen", type=int, nargs="*", default=[0, 1, 2], help="seeds that ours was chosen on"
    )
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--recipe", nargs="+", default=None, help="names or files (default: all by name)")
    parser.add_argument("--base", default="top7", help="what differences are taken from")
    parser.add_argument(
        "--ablation", action="store_true", help="also the base with one step or component less"
    )
    parser.add_argument(
        "--instead",
        nargs="+",
        default=[],
        metavar="ARGUMENT VALUE",
        help="each recipe again with these values",
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        seeds = options.embedded if options.embedded else [0, 1, 2, 3, 4]
        if options.config:
            contests = [configured(options.config)]
        elif options.grocery:
            contests = [grocery(work, options.grocery)]
        else:
            contests = [embedded(work, seed) for seed in seeds]
        pool = Pool(contests)
        recipes = {options.base: named_recipe(options.base)}
        recipes |= {
            Path(name).stem: named_recipe(name)
            for name in options.recipe or recipe_names()
            if name != options.base
        }
        if options.instead:
            recipes |= instead(recipes, options.instead[0], options.instead[1:])
        if options.ablation:
            recipes |= without(recipes[options.base])
        chosen = [place for place, seed in enumerate(seeds) if seed in options.chosen]
        galleries = ", ".join(str(len(contest.gallery)) for contest in contests)
        print(
            f"{', '.join(contest.name for contest in contests)}: {len(pool.groups)} queries in "
            f"{len(set(pool.groups.tolist()))} groups ({int(pool.private.sum())} private), {galleries} gallery images; "
            f"MAP@{TOP_K} divided by min(m, {TOP_K})\n"
        )
        print("\n".join(table(pool, recipes, options.base, chosen)))


if __name__ == "__main__":
    main()

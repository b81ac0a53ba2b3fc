"""What a study without a label makes, and what real queries say of it afterwards.

    python -m tests.benchmarks.no_labels [--grocery] [--embedded 0 1 2 3 4] [--work DIR] [--trials N]

Each competition is given without labels: simulated photos alone judge its study, which starts from R-MAC and centre-weighted
SPoC of every layer and may whiten. Its recipe, and ours by name, are then scored by the labels kept from it: grocery's
validation queries, the embedded test queries. MAP@7 by min(m, 7); 95 %, bootstrap over groups of queries.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from competition.configuration import Configuration, load_configuration
from competition.configured import split_images
from competition.labels import read_labels, relevant_rows
from competition.metrics import query_figures
from competition.mini import build
from competition.splits import bootstrap_groups, query_groups
from features.descriptors import gallery_ids
from features.extraction import extract
from features.ranked_lists import ranked_lists
from features.recipes.kept import find_recipe
from tests.grocery import SHARED, grocery_configuration
from tuning.evaluating import score_named
from tuning.tune import tune

RECIPES = ("best", "untuned", "top7", "top7_expanded")
POOLINGS = ("rmac", "spoc-centre")
STEP = {"step": "photo_whiten", "dim": 256, "shrinkage": 0.1, "unlabelled": 0.1, "optional": True}


def unlabelled(configuration: Configuration, queries: Path, images: int) -> Configuration:
    """Return the configuration without validation, its test queries those in `queries`, and what the study may choose."""
    competition = replace(configuration.competition, validation=None, labels=None, test=queries)
    backbones = tuple(replace(each, pooling=POOLINGS, parts=()) for each in configuration.backbones)
    return replace(
        configuration,
        competition=competition,
        backbones=backbones,
        simulate=replace(configuration.simulate, images=images),
        tuning=replace(configuration.tuning, steps=(STEP,)),
    )


def competitions(
    work: Path, grocery: bool, seeds: Sequence[int]
) -> Iterator[tuple[str, Configuration, Path]]:
    """Yield the name of each competition, its configuration without labels, and the file of its test queries' labels."""
    if grocery:
        work.mkdir(parents=True, exist_ok=True)
        (work / "grocery.toml").write_text(grocery_configuration(SHARED, list(POOLINGS)))
        whole = load_configuration(work / "grocery.toml", work=work / "grocery")
        yield "grocery", unlabelled(whole, SHARED / "grocery" / "val", 2000), SHARED / "grocery" / "val.csv"
    for seed in seeds:
        whole = load_configuration(build(work / f"seed{seed}", seed=seed), work=work / f"dumps{seed}")
        held_back = whole.path.parent / "held_back" / "test.csv"
        yield f"embedded {seed}", unlabelled(whole, Path(whole.competition.test or ""), 600), held_back


def row(name: str, configuration: Configuration, labels: Path, trials: int) -> str:
    """Extract, study without labels, and return the line of the table."""
    extract(configuration, progress=False)
    tune(configuration, trials=trials, folds=0)
    score_named(configuration)
    gallery, queries = gallery_ids(configuration), split_images(configuration, "test").ids
    relevant = relevant_rows(read_labels(labels, query_ids=queries, gallery_ids=gallery), gallery)
    groups = query_groups(relevant)
    counts = bootstrap_groups(groups, 10_000, 0)
    cells = []
    for each in RECIPES:
        recipe = find_recipe(configuration, each)
        ranks = ranked_lists(configuration, recipe, "test", queries, gallery).ranks
        values = query_figures(ranks, relevant, 7)
        low, high = np.quantile(counts @ values / counts.sum(axis=1), [0.025, 0.975])
        photos = recipe.scores.get("simulated")
        cells.append(f"{values.mean():.3f} [{low:.3f}, {high:.3f}]" + (f", {photos:.3f}" if photos else ""))
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Parse the arguments, run, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grocery", action="store_true", help="../shared/grocery among them")
    parser.add_argument("--embedded", type=int, nargs="*", default=[], metavar="SEED")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--trials", type=int, default=60)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(
            "| real queries, 95 % interval; and simulated photos | tuned on photos | untuned | top7 | top7_expanded |"
        )
        print("|---|---|---|---|---|")
        for each in competitions(work, options.grocery, options.embedded):
            print(row(*each, options.trials), flush=True)


if __name__ == "__main__":
    main()

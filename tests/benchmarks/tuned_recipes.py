"""MAP@7 of every named recipe tuned by a study of its own: on the queries it saw, on those it did not, cross-validated.

    python -m tests.benchmarks.tuned_recipes --grocery 1 [--work DIR] [--trials 30] [--folds 3] [--recipe NAME …]
    python -m tests.benchmarks.tuned_recipes --embedded 0 1 2 3 4 …

Competitions and poolings are those of `tests.benchmarks.recipes`, extracted where missing. A study tunes weights and steps
of one recipe (`./run.sh tune --recipe NAME --trials N --folds K --repeats 1`) and sees the public queries alone.
Cross-validated: each public query scored by a study that had not its fold, with Student's t interval over groups. The
embedded competition's test queries, whose labels no study reads, are a column of their own. AP@7 is divided by min(m, 7).
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

import optuna

from features.recipes.kept import find_recipe, recipe_names
from tests.benchmarks.recipe_contests import Contest, embedded, grocery
from tests.benchmarks.recipes import Pool
from tuning.tune import tune


def row(contest: Contest, name: str, trials: int, folds: int) -> str:
    """One line of the table: a recipe untuned, and tuned."""
    pool = Pool([contest])
    recipe = find_recipe(contest.configuration, name)
    tuned = tune(contest.configuration, trials=trials, folds=folds, repeats=1, recipe=recipe)
    untuned_values, after = pool.precisions(recipe)[0], pool.precisions(tuned.recipe)[0]
    seen, test = pool.splits == "validation", pool.splits == "test"
    parts = [seen & ~pool.private, seen & pool.private, seen, *([test] if test.any() else [])]
    cells = [f"{untuned_values[part].mean():.3f} to {after[part].mean():.3f}" for part in parts]
    found = tuned.cross_validated
    low, high = (found.interval or (float("nan"),) * 2) if found else (float("nan"),) * 2
    cells.append(f"{found.mean:.3f} [{low:.3f}, {high:.3f}]" if found else "")
    return f"| {contest.name} | {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Parse the arguments, extract what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--grocery", type=int, choices=(1, 2), help="that many backbones")
    what.add_argument("--embedded", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--recipe", nargs="+", default=None, help="names (default: all)")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        test = "test, untuned to tuned | " if options.embedded else ""
        print(
            "| competition | recipe | public, untuned to tuned | private, untuned to tuned | all, untuned to tuned | "
            f"{test}cross-validated [95 %] |"
        )
        print("|" + "---|" * (7 if test else 6))
        for number in options.embedded or [options.grocery]:
            contest = embedded(work, number) if options.embedded else grocery(work, number)
            for name in options.recipe or recipe_names():
                print(row(contest, name, options.trials, options.folds), flush=True)


if __name__ == "__main__":
    main()

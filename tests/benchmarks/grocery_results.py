"""MAP@7 on the real competition ../shared/grocery: single layers, equal weights, tuned fusion, PWA, and both.

    python -m tests.benchmarks.grocery_results [--work DIR] [--trials 200]

mobilenetv1_100 at 288 px; figures divide by min(m, 7). Measured elsewhere on these queries, for orientation: best
single layer 0.268 (SPoC); PWA with 100 detectors whitened to 128 dimensions, learnt on the gallery, 0.320.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np

from competition.configuration import load_configuration
from features.components import components_of
from features.extraction import extract
from tests.benchmarks.full_ranking import full_precisions
from tests.grocery import SHARED, grocery_configuration
from tuning.landscape import Landscape
from tuning.tune import tune

POOLINGS = ["fcrow", "spoc", "crow"]
PARTS = "{ layer = 4, counts = [25, 50, 100], dims = [128, 256], exponents = [0.5, 1.0] }"


def row(name: str, values: np.ndarray, labelled, note: str = "") -> str:
    """Return one line of the table."""
    private = values[labelled.private].mean()
    return f"| {name} | {values[labelled.public].mean():.3f} | {private:.3f} | {values.mean():.3f} | {note} |"


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=None, help="kept; default: a temporary folder")
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        with_parts, without = work / "with-parts.toml", work / "without.toml"
        with_parts.write_text(grocery_configuration(SHARED, POOLINGS, PARTS))
        without.write_text(grocery_configuration(SHARED, POOLINGS))
        configuration = load_configuration(with_parts, work=work)
        plain = load_configuration(without, work=work)
        with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence):
            extract(configuration)
        print("| descriptors | public | private | all | |\n|---|---|---|---|---|")
        landscape = Landscape(plain)
        labelled, top_k = landscape.labelled, plain.competition.top_k
        for pooling in ("spoc", "crow", "fcrow"):
            choice = {"mobilenetv1_100.pooling": pooling}
            components = components_of(plain, choice)
            queries, gallery = landscape.dumps(choice)
            single = [
                full_precisions([q], [g], np.ones(1), labelled.relevant, top_k)
                for q, g in zip(queries, gallery)
            ]
            best = int(np.argmax([values[labelled.public].mean() for values in single]))
            print(row(f"best single layer, {pooling}", single[best], labelled, components[best].name))
            if pooling == "fcrow":
                equal = full_precisions(queries, gallery, np.full(5, 0.2), labelled.relevant, top_k)
        print(row("equal weights, fcrow", equal, labelled))
        with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence):
            fused = tune(plain, trials=options.trials)
        values = fused.combination.average_precisions(np.array(fused.recipe.weights))
        print(
            row(
                "tuned fusion",
                values,
                labelled,
                f"{fused.recipe.choice}, cross-validated {fused.cross_validated.mean:.3f}",
            )
        )
        both_landscape = Landscape(configuration)
        best_parts = None
        for choice in both_landscape.all_choices():
            if choice["mobilenetv1_100.pooling"] != "fcrow":
                continue
            queries, gallery = both_landscape.dumps(choice)
            values = full_precisions(queries[-1:], gallery[-1:], np.ones(1), labelled.relevant, top_k)
            name = components_of(configuration, choice)[-1].name
            if name.endswith("N100-M128-t1"):
                print(row("PWA alone, N = 100, M = 128", values, labelled, "the anchor's setting"))
            if best_parts is None or values[labelled.public].mean() > best_parts[1][labelled.public].mean():
                best_parts = (name, values)
        print(row("PWA alone, best on public", best_parts[1], labelled, best_parts[0]))
        with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence):
            both = tune(configuration, trials=options.trials)
        values = both.combination.average_precisions(np.array(both.recipe.weights))
        chosen = ", ".join(str(value) for value in both.recipe.choice.values())
        print(
            row(
                "tuned fusion with PWA",
                values,
                labelled,
                f"{chosen}, cross-validated {both.cross_validated.mean:.3f}",
            )
        )


if __name__ == "__main__":
    main()

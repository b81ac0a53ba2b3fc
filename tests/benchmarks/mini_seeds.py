"""The embedded competition over five generator seeds: does tuning beat the best single layer and equal weights?

    python -m tests.benchmarks.mini_seeds [--seeds 0 1 2 3 4] [--work DIR] [--trials N]

The whole road for each seed; figures are MAP@7 (min(m, 7)) on the test queries, whose labels tuning never reads.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

from submissions.demo import demo
from submissions.outcome import mini_configuration


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=None)
    parser.add_argument("--work", type=Path, default=None, help="kept; default: a temporary folder")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(
            "| seed | best single layer | equal weights | tuned fusion | what submit takes | public | private | drawing, s |"
            " the rest, s |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for seed in options.seeds:
            with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence):
                begun = time.perf_counter()
                configuration = mini_configuration(folder / f"seed{seed}", seed)
                drawing_s = time.perf_counter() - begun
                values = demo(configuration, trials=options.trials).values
            figures = values["figures"]
            name, taken = list(figures.items())[-1]
            print(
                f"| {seed} | {figures['best single layer']['test']:.4f} | {figures['equal weights']['test']:.4f} | "
                f"{figures['tuned fusion']['test']:.4f} | {taken['test']:.4f}, {name.partition(', ')[2]} | "
                f"{taken['public']:.4f} | {taken['private']:.4f} | {drawing_s:.0f} | "
                f"{values['seconds']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

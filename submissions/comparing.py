"""Several recipes on the same dumps: one table of MAP@k with paired intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from competition.configuration import Competition, Configuration
from competition.metrics import figure_name
from competition.tables import table
from features.descriptors import gallery_ids
from features.recipes.recipe import Recipe
from tuning.evaluating import keep_named, labelled_precisions
from tuning.labelled import Labelled, labelled_queries
from tuning.validation import Comparison, compare, holm


@dataclass(frozen=True)
class Compared:
    """One recipe on the labelled queries. against_first: its gain over the first recipe, p corrected by Holm for the
    number of recipes; None for the first."""

    name: str
    average_precisions: np.ndarray
    seconds: float
    against_first: Comparison | None


def compare_recipes(
    configuration: Configuration, recipes: Sequence[Recipe]
) -> tuple[list[Compared], Labelled]:
    """Rank the validation queries under every recipe; gains are paired over groups of queries.

    The figures of recipes that ship with top7 are kept, as `tune` keeps them.
    """
    labelled = labelled_queries(configuration, gallery_ids(configuration))
    found: list[Compared] = []
    for recipe in recipes:
        begun = time.perf_counter()
        values = labelled_precisions(configuration, recipe, labelled)
        seconds = time.perf_counter() - begun
        keep_named(configuration, recipe, values, labelled)
        gain = None
        if found:
            gain = compare(values, found[0].average_precisions, labelled.groups, two_sided=True)
        found.append(Compared(recipe.name, values, seconds, gain))
    corrected = holm([row.against_first.p for row in found[1:]])
    for place, p in enumerate(corrected, start=1):
        found[place] = replace(found[place], against_first=replace(found[place].against_first, p=p))
    return found, labelled


def comparison_values(found: Sequence[Compared], labelled: Labelled) -> list[dict]:
    """Return plain values, one dict a recipe."""
    rows = []
    for row in found:
        values = {
            "recipe": row.name,
            "all": float(row.average_precisions.mean()),
            "seconds": round(row.seconds, 3),
            "public": float(row.average_precisions[labelled.public].mean()),
        }
        if labelled.private.any():
            values["private"] = float(row.average_precisions[labelled.private].mean())
        if row.against_first is not None:
            values |= {
                "gain": row.against_first.gain,
                "interval": row.against_first.interval and list(row.against_first.interval),
                "p": row.against_first.p,
                "wins": row.against_first.wins,
                "ties": row.against_first.ties,
                "losses": row.against_first.losses,
            }
        rows.append(values)
    return rows


def comparison_table(rows: Sequence[dict], competition: Competition) -> str:
    """Return the table as text."""
    head = ["recipe", "public", "private", "all", f"gain over {rows[0]['recipe']}", "95 %", "p"]
    lines = [[*head, "better/equal/worse"]]
    for row in rows:
        gain = (
            [
                f"{row['gain']:+.4f}",
                "{:+.4f} to {:+.4f}".format(*row["interval"]) if row["interval"] else "one group: none",
                f"{row['p']:.3f}",
                f"{row['wins']}/{row['ties']}/{row['losses']}",
            ]
            if "gain" in row
            else ["", "", "", ""]
        )
        private = f"{row['private']:.4f}" if "private" in row else "-"
        lines.append([row["recipe"], f"{row['public']:.4f}", private, f"{row['all']:.4f}", *gain])
    return (
        table(lines, left=(0,))
        + f"\n{figure_name(competition.metric, competition.top_k)}; gains over groups of queries. p: how often chance alone makes such a "
        "difference, by flipping signs, corrected for the number of recipes (Holm)"
    )

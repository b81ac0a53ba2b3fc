"""Several recipes on the same dumps: one table of MAP@k with paired intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from competition.configuration import Configuration
from competition.metrics import average_precisions
from competition.standings import table
from features.descriptors import gallery_ids
from features.ranked_lists import ranked_lists
from features.recipe import Recipe
from tuning.labelled import Labelled, labelled_queries
from tuning.validation import Comparison, compare


@dataclass(frozen=True)
class Compared:
    """One recipe on the labelled queries. against_first: its gain over the first recipe; None for the first."""

    name: str
    average_precisions: np.ndarray
    seconds: float
    against_first: Comparison | None


def compare_recipes(
    configuration: Configuration, recipes: Sequence[Recipe]
) -> tuple[list[Compared], Labelled]:
    """Rank the validation queries under every recipe; gains are paired over groups of queries (bootstrap)."""
    ids = gallery_ids(configuration)
    labelled = labelled_queries(configuration, ids)
    top_k = configuration.competition.top_k
    found: list[Compared] = []
    for recipe in recipes:
        begun = time.perf_counter()
        lists = ranked_lists(configuration, recipe, "validation", labelled.query_ids, ids)
        seconds = time.perf_counter() - begun
        values = average_precisions(lists.ranks, labelled.relevant, top_k)
        gain = compare(values, found[0].average_precisions, labelled.groups) if found else None
        found.append(Compared(recipe.name, values, seconds, gain))
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
                "interval": list(row.against_first.interval),
                "probability": row.against_first.probability,
            }
        rows.append(values)
    return rows


def comparison_table(rows: Sequence[dict], top_k: int) -> str:
    """Return the table as text."""
    lines = [["recipe", "public", "private", "all", f"gain over {rows[0]['recipe']}", "95 %", "probability"]]
    for row in rows:
        gain = (
            [
                f"{row['gain']:+.4f}",
                f"{row['interval'][0]:+.4f} to {row['interval'][1]:+.4f}",
                f"{row['probability']:.2f}",
            ]
            if "gain" in row
            else ["", "", ""]
        )
        private = f"{row['private']:.4f}" if "private" in row else "-"
        lines.append([row["recipe"], f"{row['public']:.4f}", private, f"{row['all']:.4f}", *gain])
    return (
        table(lines, left=(0,))
        + f"\nMAP@{top_k}, hits over min(m, k); gains paired over groups of queries (bootstrap)"
    )

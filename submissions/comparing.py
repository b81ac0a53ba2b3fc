"""Several recipes on the same dumps: one table of MAP@k with paired intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence

from competition.configuration import Competition, Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from competition.metrics import figure_name
from competition.tables import table
from features.descriptors import gallery_ids
from features.recipes.kept import find_recipe, recipe_names
from tuning.evaluating import fitting, keep_named, labelled_precisions, mean_figures
from tuning.labelled import labelled_queries
from tuning.validation import compare, holm


def compare_recipes(configuration: Configuration, names: Sequence[str], index: str | None) -> list[dict]:
    """Rank the validation queries under every recipe; returns figures and seconds by recipe, in their order.

    names: none for all that fit, of which one that cannot be ranked here is left out, with a line that says why;
    otherwise that is an error. index: see `find_recipe`.

    All but the first have their gain over it, paired over groups of queries, p corrected for the number of recipes by
    Holm. "simulated": what is on record of simulated photos. The figures of recipes that ship with top7 are kept, as
    `tune` keeps them.
    """
    recipes = [find_recipe(configuration, name, index) for name in names]
    if not names:
        kept = sorted(path.stem for path in (configuration.competition.work / "recipes").glob("*.json"))
        recipes = fitting(configuration, dict.fromkeys([*kept, *recipe_names()]), index)
    labelled = labelled_queries(configuration, gallery_ids(configuration))
    rows, gains, first = [], [], None
    for recipe in recipes:
        begun = time.perf_counter()
        try:
            values = labelled_precisions(configuration, recipe, labelled)
        except Top7Error as error:
            if names:
                raise
            log.warning(f"top7: left out: recipe {recipe.name}: {error}")
            continue
        row = {"recipe": recipe.name, **mean_figures(values, labelled)}
        row["seconds"] = round(time.perf_counter() - begun, 3)
        if "simulated" in recipe.scores:
            row["simulated"] = recipe.scores["simulated"]
        keep_named(configuration, recipe, values, labelled)
        rows.append(row)
        if first is None:
            first = values
        else:
            gains.append(compare(values, first, labelled.groups, two_sided=True))
    if not rows:
        raise ConfigurationError(
            f"{configuration.path}: no recipe fits this configuration: run ./run.sh tune"
        )
    for row, gain, p in zip(rows[1:], gains, holm([gain.p for gain in gains]), strict=True):
        row |= {"gain": gain.gain, "interval": gain.interval and list(gain.interval), "p": p}
        row |= {"wins": gain.wins, "ties": gain.ties, "losses": gain.losses}
    return rows


def comparison_table(rows: Sequence[dict], competition: Competition) -> str:
    """Return the table as text."""
    parts = ("public", "private", "all", "simulated")
    lines = [["recipe", *parts, f"gain over {rows[0]['recipe']}", "95 %", "p", "better/equal/worse"]]
    for row in rows:
        gain = ["", "", "", ""]
        if "gain" in row:
            interval = row["interval"]
            gain = [
                f"{row['gain']:+.4f}",
                "{:+.4f} to {:+.4f}".format(*interval) if interval else "one group: none",
                f"{row['p']:.3f}" if row["p"] >= 0.0005 else "<0.001",
                f"{row['wins']}/{row['ties']}/{row['losses']}",
            ]
        found = [f"{row[part]:.4f}" if part in row else "-" for part in parts]
        lines.append([row["recipe"], *found, *gain])
    return (
        table(lines, left=(0,), spare=(4, 8))
        + f"\n{figure_name(competition.metric, competition.top_k)}; gains over groups of queries. p: how often chance alone "
        "makes such a difference, by flipping signs, corrected for the number of recipes (Holm). simulated: the study's "
        "figure on photos made of gallery images, where it has one"
    )

"""The whole road on the embedded mini competition: extract, tune, submit, check, score, leaderboard, report."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from competition import leaderboard
from competition.configuration import Configuration
from competition.leaderboard_text import render
from competition.messages import log
from competition.tables import table
from features.components import layer_component, layers_under
from features.descriptors import gallery_ids
from features.recipes.kept import find_recipe, ranked_among
from features.recipes.recipe import Recipe, write_recipe
from submissions.outcome import Outcome
from submissions.report import write_report
from submissions.report.data_health import note_extraction
from submissions.scoring import score_and_record
from submissions.submitting import submit


def demo(configuration: Configuration, *, trials: int | None = None) -> Outcome:
    """Walk the road. The test labels are read by the last scoring alone."""
    from features.extraction import extract
    from tuning.evaluating import score_named
    from tuning.report import report
    from tuning.tune import tune

    begun, competition = time.perf_counter(), configuration.competition
    log.info("\n[1/3] extract: every layer and pooling in one pass, into memory-mapped dumps")
    note_extraction(configuration, extract(configuration))
    log.info("\n[2/3] tune: weights inside the region, pooling, part detectors")
    tuned = tune(configuration, trials=trials)
    log.info(report(tuned))
    road = "best single layer, equal weights, tuned, and what submit takes"
    log.info(f"\n[3/3] submit, check and score four recipes: {road}")
    single = _best_single_layer(configuration)
    score_named(configuration)
    taken = find_recipe(configuration, None)
    recipes = {"best single layer": single, "equal weights": tuned.untuned, "tuned fusion": tuned.recipe}
    recipes[f"submit's, {taken.name}"] = taken
    held_back = configuration.path.parent / "held_back" / "test.csv"
    figures = {}
    for name, recipe in recipes.items():
        files = [submit(configuration, recipe, split)["file"] for split in ("validation", "test")]
        validation = score_and_record(configuration, Path(files[0]))
        test = score_and_record(configuration, Path(files[1]), held_back)
        parts = {part: validation[part] for part in ("public", "private")}
        figures[name] = {**parts, "test": test["maps"]["min(m,k)"]}
    page = write_report(configuration, labels=held_back)
    seconds = round(time.perf_counter() - begun, 1)
    values = {
        "figures": figures,
        "report": str(page),
        "submission": files[1],  # of the last, which submit takes
        "work": str(competition.work),
        "seconds": seconds,
    }
    rows = [[name, *(f"{value:.4f}" for value in row.values())] for name, row in figures.items()]
    lines = [
        "",
        render(leaderboard.read_rows(competition.work, ranked_among(configuration))),
        "",
        table([[f"MAP@{competition.top_k}", "public", "private", "test"], *rows], left=[0]),
        "test: of its own labels, which tuning never reads",
        "",
        f"done in {seconds:.0f} s. Look at:",
        f"  {files[1]}",
        f"  {page}",
    ]
    return Outcome(values, "\n".join(lines))


def _best_single_layer(configuration: Configuration) -> Recipe:
    """The recipe of the layer that is best alone on the public queries, over all poolings; it is kept."""
    from tuning.evaluating import labelled_precisions, mean_figures
    from tuning.labelled import labelled_queries

    labelled, found = labelled_queries(configuration, gallery_ids(configuration)), []
    asked = [(backbone, pooling) for backbone in configuration.backbones for pooling in backbone.pooling]
    for backbone, pooling in asked:
        for layer in layers_under(backbone, pooling):
            part = layer_component(backbone, layer, pooling)
            recipe = Recipe("single-layer", (part,), (1.0,), provenance={"component": part.name})
            values = labelled_precisions(configuration, recipe, labelled)
            found.append(replace(recipe, scores=mean_figures(values, labelled)))
    best = max(found, key=lambda recipe: recipe.scores["public"])
    write_recipe(configuration.competition.work / "recipes" / "single-layer.json", best)
    return best

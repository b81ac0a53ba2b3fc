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
from features.recipes.recipe import Recipe, read_recipe, write_recipe
from submissions.checking import expected_of
from submissions.report import write_report
from submissions.report.data_health import note_extraction
from submissions.scoring import score_and_record
from submissions.submitting import submit


def demo(configuration: Configuration, *, trials: int | None = None) -> tuple[dict, str]:
    """Walk the road; returns (values, text). The test labels are read by the last scoring alone."""
    from features.extraction import extract
    from tuning.evaluating import score_named
    from tuning.report import report
    from tuning.tune import tune

    begun = time.perf_counter()
    competition = configuration.competition
    assert competition.labels is not None  # the embedded competition has them
    _say(1, "extract: every layer and pooling in one pass, into memory-mapped dumps")
    note_extraction(configuration, extract(configuration))
    _say(2, "tune: weights inside the region, pooling, part detectors")
    tuned = tune(configuration, trials=trials)
    log.info(report(tuned))
    road = "best single layer, equal weights, tuned, and what submit takes"
    _say(3, f"submit, check and score four recipes: {road}")
    recipes = {
        "best single layer": read_recipe(_best_single_layer(configuration)),
        "equal weights": read_recipe(tuned.paths["untuned"]),
        "tuned fusion": read_recipe(tuned.paths["recipe"]),
    }
    score_named(configuration)
    taken = find_recipe(configuration, None)
    recipes[f"submit's, {taken.name}"] = taken
    held_back = configuration.path.parent / "held_back" / "test.csv"
    expected = expected_of(configuration, gallery_ids(configuration))
    figures, files = {}, {}
    for name, recipe in recipes.items():
        files[name] = {
            split: Path(submit(configuration, recipe, split)["file"]) for split in ("validation", "test")
        }
        validation = score_and_record(configuration, files[name]["validation"], competition.labels, expected)
        test = score_and_record(configuration, files[name]["test"], held_back, expected)
        parts = {part: validation[part] for part in ("public", "private")}
        figures[name] = {**parts, "test": test["maps"]["min(m,k)"]}
    answer = files[next(reversed(recipes))]["test"]
    page = write_report(configuration, labels=held_back)
    seconds = time.perf_counter() - begun
    values = {
        "figures": figures,
        "report": str(page),
        "submission": str(answer),
        "work": str(competition.work),
        "seconds": round(seconds, 1),
    }
    return values, _closing(configuration, figures, values)


def _say(number: int, text: str) -> None:
    log.info(f"\n[{number}/3] {text}")


def _best_single_layer(configuration: Configuration) -> Path:
    """The recipe of the layer that is best alone on the public queries, over all poolings."""
    from tuning.evaluating import labelled_precisions, mean_figures
    from tuning.labelled import labelled_queries

    labelled = labelled_queries(configuration, gallery_ids(configuration))
    best: tuple[float, Recipe] | None = None
    for backbone in configuration.backbones:
        for pooling in backbone.pooling:
            for layer in layers_under(backbone, pooling):
                component = layer_component(backbone, layer, pooling)
                recipe = Recipe(
                    "single-layer", (component,), (1.0,), provenance={"component": component.name}
                )
                values = labelled_precisions(configuration, recipe, labelled)
                scores = mean_figures(values, labelled)
                if best is None or scores["public"] > best[0]:
                    best = scores["public"], replace(recipe, scores=scores)
    assert best is not None
    return write_recipe(Path(configuration.competition.work) / "recipes" / "single-layer.json", best[1])


def _closing(configuration: Configuration, figures: dict, values: dict) -> str:
    work, top_k = configuration.competition.work, configuration.competition.top_k
    rows = [[name, *(f"{value:.4f}" for value in row.values())] for name, row in figures.items()]
    lines = [
        "",
        render(leaderboard.read_rows(work, ranked_among(configuration))),
        "",
        table([[f"MAP@{top_k}", "public", "private", "test"], *rows], left=[0]),
        "test: of its own labels, which tuning never reads",
        "",
        f"done in {values['seconds']:.0f} s. Look at:",
        f"  {values['submission']}",
        f"  {values['report']}",
    ]
    return "\n".join(lines)

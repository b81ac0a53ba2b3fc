"""The commands about recipes: tune, compare, recipes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from submissions.outcome import Outcome, configuration_of


def tune(options: Namespace) -> Outcome:
    """Run the study and report."""
    from features.recipes.kept import choose, is_of_this_data, kept_recipes
    from tuning.evaluating import score_named
    from tuning.report import report, report_values
    from tuning.tune import tune as run_study

    configuration = configuration_of(options)
    recipe = None
    if options.recipe is not None:
        from features.recipes.kept import find_recipe

        recipe = find_recipe(configuration, options.recipe)
    if options.recipes:
        _tune_named(configuration, options)
    tuned = run_study(
        configuration,
        trials=options.trials,
        seed=options.seed,
        folds=options.folds,
        repeats=options.repeats,
        certify_seconds=options.certify,
        certify_all=options.certify_all,
        recipe=recipe,
    )
    named = score_named(configuration)
    kept = [kept for kept in kept_recipes(configuration) if is_of_this_data(configuration, kept)]
    values, text = (
        report_values(tuned),
        report(tuned, configuration.competition.top_k, configuration.competition.metric),
    )
    values["named_recipes"] = named
    if kept:
        chosen, why = choose(kept)
        values["submits"] = chosen.name
        text += f"\nsubmit takes {why}"
    return Outcome(values, text)


def _tune_named(configuration: Configuration, options: Namespace) -> None:
    """Tune each recipe that ships with top7, with as many trials as the study has."""
    from features.recipes.kept import find_recipe, recipe_names
    from tuning.tune import tune as run_study

    for name in recipe_names():
        log.info(f"top7: tuning recipe {name}")
        try:
            recipe = find_recipe(configuration, name)
            run_study(
                configuration,
                trials=options.trials,
                seed=options.seed,
                folds=options.folds,
                repeats=options.repeats,
                recipe=recipe,
            )
        except (ConfigurationError, Top7Error) as error:
            log.warning(f"top7: recipe {name} was not tuned: {error}")


def compare(options: Namespace) -> Outcome:
    """Rank the labelled queries under several recipes."""
    from features.recipes.kept import find_recipe, recipe_names
    from submissions.comparing import compare_recipes, comparison_table, comparison_values

    configuration = configuration_of(options)
    names = options.recipes
    if not names:
        own = sorted((Path(configuration.competition.work) / "recipes").glob("*.json"))
        names = [*(path.stem for path in own), *recipe_names()]
    recipes = []
    for name in names:
        try:
            recipes.append(find_recipe(configuration, name, options.index))
        except ConfigurationError as error:
            if options.recipes:
                raise
            log.warning(f"top7: left out: {error}")
    if not recipes:
        raise ConfigurationError(
            f"{configuration.path}: no recipe fits this configuration: run ./run.sh tune"
        )
    rows = comparison_values(*compare_recipes(configuration, recipes))
    return Outcome({"recipes": rows}, comparison_table(rows, configuration.competition))


def recipes(options: Namespace) -> Outcome:
    """List the recipes by name and those kept under work, or explain one."""
    from submissions.recipe_list import explained, listed

    configuration = configuration_of(options)
    return Outcome(*(explained(configuration, options.name) if options.name else listed(configuration)))

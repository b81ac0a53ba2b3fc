"""Which recipe to take: by name or file, or the best of those kept under work, whose figures say of which data they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from competition.configuration import Configuration
from competition.configured import labelled_validation
from competition.errors import ConfigurationError, Top7Error, nearest
from competition.labels import measured_by
from competition.messages import log
from competition.metrics import figure_label
from features.components import Component
from features.ranking.steps import with_index
from features.recipes.recipe import NAMED, Recipe, read_recipe, resolve, write_recipe

FOLDER = Path(__file__).resolve().parent  # of the recipes that come with the program
UNJUDGED = "top7"  # what is taken where no real query judges
OF_QUERIES = ("gallery", "labels", "top_k", "metric")  # figures compare where these agree


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with the program."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def named_recipe(name: str, kept: Sequence[str] = ()) -> Recipe:
    """Return the recipe `name` that comes with the program, or the one in the file of that name, as it is written.

    ConfigurationError, which names those that come with the program and the `kept`, where there is neither.
    """
    path = FOLDER / f"{name}.json" if name in recipe_names() else Path(name)
    if not path.is_file():
        raise ConfigurationError(f"no recipe and no file {name!r}: {nearest(name, [*recipe_names(), *kept])}")
    return read_recipe(path)


def find_recipe(configuration: Configuration, named: str | None, index: str | None = None) -> Recipe:
    """Return a recipe by name or file: a study's own (work/recipes), one that ships with top7, or any file of either.

    None: the best by validated figure of those evaluated on this data, and a message says which. Another message says
    what the configuration has not quite as the recipe asks. index: a kind of approximate index, see `indexed`.
    """
    recipe, why = _best(configuration) if named is None else (_found(configuration, named), None)
    recipe = recipe if index is None else indexed(recipe, index)
    if why is not None:
        log.info(f"top7: {why}")
    return recipe


def indexed(recipe: Recipe, kind: str) -> Recipe:
    """Return the recipe with an index of `kind` in place of its exact search, under a name that says so.

    Its figures are marked as those of the exact search. ConfigurationError: an unknown kind, no search to replace.
    """
    steps = with_index(recipe.steps, kind, recipe.name)
    if steps == recipe.steps:
        return recipe
    provenance = {**recipe.provenance, "figures of": "the exact search"}
    return replace(recipe, name=f"{recipe.name}-{kind}", steps=steps, provenance=provenance)


def _found(configuration: Configuration, named: str) -> Recipe:
    folder = Path(configuration.competition.work) / "recipes"
    own, shipped = folder / f"{named}.json", named in recipe_names()
    kept = read_recipe(own) if Path(named).name == named and own.is_file() else None
    if kept is not None and (not shipped or kept.provenance.get("source") != NAMED):
        return kept
    written = named_recipe(named, sorted(path.stem for path in folder.glob("*.json")))
    if not written.patterns:
        return written
    provenance = {"source": NAMED if shipped else Path(named).name}
    recipe = replace(resolve(written, configuration), name=Path(named).stem, provenance=provenance)
    for note in recipe.notes:
        log.info(f"top7: recipe {named}: {note}")
    if kept is None or not _same_recipe(recipe, kept) or recipe.groups != kept.groups:
        return recipe
    if not is_of_this_data(configuration, kept):
        return recipe
    return replace(recipe, scores=kept.scores, provenance=kept.provenance)


def _best(configuration: Configuration) -> tuple[Recipe, str]:
    """The best on this data, or, where gallery or labels are others since, on the last study's; and why."""
    kept = [recipe for recipe in kept_recipes(configuration) if "validated" in recipe.scores]
    of_this = [recipe for recipe in kept if is_of_this_data(configuration, recipe)]
    if of_this:
        return choose(of_this)
    path = Path(configuration.competition.work) / "recipes" / "best.json"
    last = read_recipe(path)
    recipe, why = last, "recipe best, the last study's"
    if earlier := [recipe for recipe in kept if _same_queries(recipe, last)]:
        recipe, why = choose(earlier, "the last study's")
    return recipe, f"{why}: no figure under {path.parent} is of this data, ./run.sh tune makes them"


def data_identity(configuration: Configuration, components: Sequence[Component]) -> dict[str, object]:
    """Say what a recipe's figures depend on besides itself: gallery, labels, top_k and the names of its dumps.

    Without labels: the settings of the simulated photos. ConfigurationError, Top7Error: a component is not of this
    configuration.
    """
    from features.descriptors import gallery_ids
    from features.dumps.layout import component_path

    ids = gallery_ids(configuration)
    labels: Mapping[str, tuple[str, ...]] = {"simulated": (repr(configuration.simulate),)}
    if configuration.competition.labelled:
        _, labels, _ = labelled_validation(configuration, ids)
    return {
        **measured_by(labels, ids, configuration.competition.top_k, configuration.competition.metric),
        "dumps": sorted({component_path(configuration, part, "gallery").name for part in components}),
    }


def ranked_among(configuration: Configuration) -> dict[str, object] | None:
    """Say what the leaderboard ranks: figures on this configuration's validation labels.

    None, with a line on stderr, where there are none, or the images cannot be listed.
    """
    try:
        if not configuration.competition.labelled:
            raise ConfigurationError(f"{configuration.path}: [competition] has no labels")
        data = data_identity(configuration, ())
    except Top7Error as error:
        log.warning(f"top7: whether the figures compare is not known: {error}")
        return None
    return {"measured_on": "validation", **{key: data[key] for key in OF_QUERIES}}


def kept_recipes(configuration: Configuration) -> list[Recipe]:
    """Return every recipe under work/recipes, by name; what cannot be read is named on stderr and left out."""
    found = []
    for path in sorted((Path(configuration.competition.work) / "recipes").glob("*.json")):
        try:
            found.append(replace(read_recipe(path), name=path.stem))
        except ConfigurationError as error:
            log.warning(f"top7: left out: {error}")
    return found


def is_of_this_data(configuration: Configuration, recipe: Recipe) -> bool:
    """Say whether a recipe has a validated figure that was earned on the data as they are now."""
    if "validated" not in recipe.scores:
        return False
    try:
        return recipe.provenance.get("data") == data_identity(configuration, recipe.components)
    except Top7Error:
        return False


def choose(recipes: Sequence[Recipe], of: str = "this") -> tuple[Recipe, str]:
    """Return the recipe with the best validated figure, and why; all are of the same data, `of` says which.

    A tuned recipe within noise of its untuned one is passed over where another is there. Of equals: the better on
    public queries, then the last study's. Where photos made by code alone judged, UNJUDGED is taken if it is there:
    what a study tunes on them was behind it wherever real queries told (BENCHMARKS.md, Few labels).
    """
    clear = [recipe for recipe in recipes if "within noise of" not in recipe.provenance] or list(recipes)
    best = max(clear, key=lambda recipe: (*_worth(recipe), recipe.name == "best", recipe.name))
    data = best.provenance.get("data", {})
    figure = figure_label(data.get("metric", "map"), data.get("top_k", 7))
    if unjudged := [recipe for recipe in recipes if recipe.name == UNJUDGED and _by_photos(recipe)]:
        return unjudged[0], (
            f"recipe {UNJUDGED}: no label says how real photos do, and what was tuned on simulated ones was behind it "
            f"wherever labels told later; {figure} {unjudged[0].scores['validated']:.4f} on simulated photos"
        )
    judged = "all labelled queries"
    if _by_photos(best):
        judged = "simulated photos, which cannot tell how real ones do"
    why = f"recipe {best.name}: {figure} {best.scores['validated']:.4f} on {judged}"
    why += f" ({best.provenance.get('validated by', 'not tuned')}), the best of {len(recipes)} evaluated on {of} data"
    noisy = [recipe for recipe in recipes if recipe not in clear and _worth(recipe) > _worth(best)]
    if noisy:
        names = ", ".join(f"{recipe.name} {recipe.scores['validated']:.4f}" for recipe in noisy)
        why += f" but for tuned ones within noise of the untuned ({names})"
    return best, why


def _by_photos(recipe: Recipe) -> bool:
    """Whether no real query has judged a recipe."""
    return "simulated" in recipe.scores and "all" not in recipe.scores


def keep_recipe(path: Path, recipe: Recipe, earlier: Recipe | None) -> Path:
    """Write `recipe`; `earlier`, what was there before, is kept under another name where it is better, and named."""
    if earlier is not None and _same_queries(earlier, recipe) and not _same_recipe(earlier, recipe):
        told = json.dumps([earlier.weights, earlier.steps, [part.name for part in earlier.components]])
        aside = path.with_name(f"{path.stem}-{hashlib.sha256(told.encode()).hexdigest()[:8]}.json")
        if _worth(earlier) > _worth(recipe) and not aside.exists():
            twin = _twin(path, earlier)
            if twin is None:
                write_recipe(aside, replace(earlier, name=aside.stem))
            log.info(
                f"{path} now scores {_figures(recipe)}, the one before {_figures(earlier)} on the same data: "
                f"that is kept as {twin or aside}"
            )
    return write_recipe(path, recipe)


def _twin(path: Path, recipe: Recipe) -> Path | None:
    """Another file of the folder that holds the same recipe with figures of the same data."""
    for other in sorted(path.parent.glob("*.json")):
        found = readable(other) if other != path else None
        if found is not None and _same_recipe(found, recipe) and _same_queries(found, recipe):
            return other
    return None


def readable(path: Path) -> Recipe | None:
    """Return the recipe in a file, or None where there is none that can be read."""
    try:
        return read_recipe(path)
    except ConfigurationError:
        return None


def _worth(recipe: Recipe) -> tuple[float, float]:
    return recipe.scores.get("validated", 0.0), recipe.scores.get("public", 0.0)


def _figures(recipe: Recipe) -> str:
    return "{:.4f} validated and {:.4f} public".format(*_worth(recipe))


def _same_queries(first: Recipe, second: Recipe) -> bool:
    data = [recipe.provenance.get("data", {}) for recipe in (first, second)]
    return all(data) and all(data[0].get(key) == data[1].get(key) for key in OF_QUERIES)


def _same_recipe(one: Recipe, other: Recipe) -> bool:
    return (one.components, one.weights, one.steps) == (other.components, other.weights, other.steps)

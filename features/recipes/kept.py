"""The recipes kept under work: the data their figures come from, and which of them is the best."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.images import split_images
from competition.labels import measured_by, validation_labels
from competition.messages import log
from features.components import Component
from features.recipes.recipe import Recipe, read_recipe, write_recipe

OF_QUERIES = ("gallery", "labels", "top_k", "metric")  # figures compare where these agree


def data_identity(configuration: Configuration, components: Sequence[Component]) -> dict[str, object]:
    """Say what a recipe's figures depend on besides itself: gallery, labels, top_k and the names of its dumps.

    Without labels: the settings of the simulated photos. ConfigurationError, Top7Error: a component is not of this
    configuration.
    """
    from features.descriptors import component_path, gallery_ids

    ids, labels = gallery_ids(configuration), {"simulated": (repr(configuration.simulate),)}
    if _has_labels(configuration):
        queries = split_images(configuration, "validation").ids
        labels = validation_labels(configuration, query_ids=queries, gallery_ids=ids)
    return {
        **measured_by(labels, ids, configuration.competition.top_k, configuration.competition.metric),
        "dumps": sorted({component_path(configuration, part, "gallery").name for part in components}),
    }


def _has_labels(configuration: Configuration) -> bool:
    return configuration.competition.labelled


def ranked_among(configuration: Configuration) -> dict[str, object] | None:
    """Say what the leaderboard ranks: figures on this configuration's validation labels.

    None, and said on stderr, where there are none, or the images cannot be listed.
    """
    try:
        if not _has_labels(configuration):
            raise ConfigurationError(f"{configuration.path}: [competition] has no labels")
        data = data_identity(configuration, ())
    except (ConfigurationError, Top7Error) as error:
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
    except (ConfigurationError, Top7Error):
        return False


def choose(recipes: Sequence[Recipe]) -> tuple[Recipe, str]:
    """Return the recipe with the best validated figure, and why; all are of the same data.

    A tuned recipe within noise of its untuned one is passed over where another is there. Of equals: the better on
    public queries, then the last study's.
    """
    clear = [recipe for recipe in recipes if "within noise of" not in recipe.provenance] or list(recipes)
    best = max(clear, key=lambda recipe: (*_worth(recipe), recipe.name == "best", recipe.name))
    judged = (
        "simulated photos, which cannot tell how real ones do" if _by_photos(best) else "all labelled queries"
    )
    why = f"recipe {best.name}: MAP {best.scores['validated']:.4f} on {judged}"
    why += f" ({best.provenance.get('validated by', 'not tuned')}), the best of {len(recipes)} evaluated on this data"
    noisy = [recipe for recipe in recipes if recipe not in clear and _worth(recipe) > _worth(best)]
    if noisy:
        names = ", ".join(f"{recipe.name} {recipe.scores['validated']:.4f}" for recipe in noisy)
        why += f" but for tuned ones within noise of the untuned ({names})"
    return best, why


def keep_recipe(path: Path, recipe: Recipe, earlier: Recipe | None) -> Path:
    """Write `recipe`; `earlier`, what stood there before, is kept under another name where it is better, and named."""
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


def _by_photos(recipe: Recipe) -> bool:
    return "simulated" in recipe.scores and "all" not in recipe.scores


def _worth(recipe: Recipe) -> tuple[float, float]:
    return recipe.scores.get("validated", 0.0), recipe.scores.get("public", 0.0)


def _figures(recipe: Recipe) -> str:
    return "{:.4f} validated and {:.4f} public".format(*_worth(recipe))


def _same_queries(first: Recipe, second: Recipe) -> bool:
    data = [recipe.provenance.get("data", {}) for recipe in (first, second)]
    return all(data) and all(data[0].get(key) == data[1].get(key) for key in OF_QUERIES)


def _same_recipe(first: Recipe, second: Recipe) -> bool:
    told = [(recipe.components, recipe.weights, tuple(recipe.steps)) for recipe in (first, second)]
    return told[0] == told[1]

"""A recipe: everything that turns dumps into ranked lists, as one small JSON file a person can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from competition.atomic import write_json
from competition.configuration import Configuration
from competition.errors import ConfigurationError, nearest
from competition.messages import log
from features.components import Component, component_from

FORMAT = 1
NAMED = "named recipe"


@dataclass(frozen=True)
class Recipe:
    """Components in their fixed order and a weight for each (>= 0, of sum 1), with where they come from.

    `choice`: the study's discrete choices; `scores`: figures by name (public, private, ...);
    `provenance`: region, sums S_l, study, trial, query split; `steps`: what happens to descriptors and lists after
    fusion (features/ranking/steps.py; none: exact search); `groups`: for cascades, the entry each component stems from.
    """

    name: str
    components: tuple[Component, ...]
    weights: tuple[float, ...]
    choice: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    steps: tuple[dict, ...] = ()
    groups: tuple[int, ...] = ()

    @property
    def weight_array(self) -> np.ndarray:
        """The weights as float64, (n_components,)."""
        return np.array(self.weights, dtype=np.float64)


def check_weights(weights: np.ndarray, n_components: int, where: str) -> None:
    """Raise ConfigurationError unless `weights` are `n_components` finite numbers >= 0 of sum 1."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_components,):
        raise ConfigurationError(
            f"{where}: {weights.size} weights for {n_components} components: give one each"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
        raise ConfigurationError(f"{where}: weights {weights.tolist()} must be numbers >= 0 of sum 1")


def write_recipe(path: Path, recipe: Recipe) -> Path:
    """Write `recipe` to `path`, atomically; weights keep every bit (repr round-trips)."""
    check_weights(recipe.weight_array, len(recipe.components), str(path))
    components = [
        {key: value for key, value in asdict(part).items() if value is not None} for part in recipe.components
    ]
    return write_json(
        path,
        {
            "format": FORMAT,
            "name": recipe.name,
            "components": components,
            "weights": list(recipe.weights),
            "choice": recipe.choice,
            "scores": recipe.scores,
            "provenance": recipe.provenance,
            "steps": list(recipe.steps),
            "groups": list(recipe.groups),
        },
    )


def find_recipe(configuration: Configuration, named: str | None, index: str | None = None) -> Recipe:
    """Return a recipe by name or file: a study's own (work/recipes), one that ships with top7, or any file of either.

    None: the best by validated figure of those evaluated on this data, and which is said. Notes on what the
    configuration has not quite as the recipe asks are said on stderr.
    index: a kind of approximate index to search with, see `indexed`.
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
    from features.ranking.steps import with_index

    steps = with_index(recipe.steps, kind, recipe.name)
    if steps == recipe.steps:
        return recipe
    provenance = {**recipe.provenance, "figures of": "the exact search"}
    return replace(recipe, name=f"{recipe.name}-{kind}", steps=steps, provenance=provenance)


def _found(configuration: Configuration, named: str) -> Recipe:
    from features.recipes.patterns import named_recipe, recipe_names, resolve

    folder = Path(configuration.competition.work) / "recipes"
    own = folder / f"{named}.json"
    kept = read_recipe(own) if Path(named).name == named and own.is_file() else None
    if kept is not None and (named not in recipe_names() or kept.provenance.get("source") != NAMED):
        return kept
    if named not in recipe_names():
        if not Path(named).is_file():
            known = [*recipe_names(), *sorted(path.stem for path in folder.glob("*.json"))]
            raise ConfigurationError(f"no recipe and no file {named!r}: {nearest(named, known)}")
        if _is_own_format(Path(named)):
            return read_recipe(Path(named))
    found = resolve(named_recipe(named), configuration)
    for note in found.notes:
        log.info(f"top7: recipe {named}: {note}")
    recipe = Recipe(
        Path(named).stem,
        found.components,
        found.weights,
        {},
        {},
        {"source": NAMED if named in recipe_names() else Path(named).name},
        tuple(map(dict, found.steps)),
        found.groups,
    )
    return recipe if kept is None else _with_figures(configuration, recipe, kept)


def _best(configuration: Configuration) -> tuple[Recipe, str]:
    from features.recipes.kept import choose, is_of_this_data, kept_recipes

    last = Path(configuration.competition.work) / "recipes" / "best.json"
    kept = [recipe for recipe in kept_recipes(configuration) if is_of_this_data(configuration, recipe)]
    if kept:
        return choose(kept)
    return read_recipe(last), f"recipe best, the last study's: no figure under {last.parent} is of this data"


def _with_figures(configuration: Configuration, recipe: Recipe, kept: Recipe) -> Recipe:
    """Give a named recipe the figures it was kept with, where it resolves to the same and the data are the same."""
    from features.recipes.kept import is_of_this_data

    same = [(each.components, each.weights, each.steps, each.groups) for each in (recipe, kept)]
    if same[0] != same[1] or not is_of_this_data(configuration, kept):
        return recipe
    return replace(recipe, scores=kept.scores, provenance=kept.provenance)


def _is_own_format(path: Path) -> bool:
    try:
        return "format" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False  # the reader of named recipes says what is wrong


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file; ConfigurationError in one line where it is absent or not one."""
    from features.ranking.steps import check_steps

    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: no such recipe: run ./run.sh tune first, or give --recipe FILE"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not a recipe (JSON expected): {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ConfigurationError(f"{path}: not a recipe of format {FORMAT}: write it anew with ./run.sh tune")
    for key, (fits, words) in VALUES.items():
        if not fits(values.get(key, [] if key in ("steps", "groups") else {})):
            raise ConfigurationError(
                f"{path}: not a recipe: {key} = {values.get(key)!r:.60}: expected {words}"
            )
    try:
        components = tuple(component_from(part) for part in values["components"])
        check_weights(np.array(values["weights"], dtype=np.float64), len(components), str(path))
        check_steps(values.get("steps", []))
    except (ConfigurationError, OverflowError) as error:
        raise ConfigurationError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return Recipe(
        values["name"],
        components,
        tuple(map(float, values["weights"])),
        dict(values.get("choice", {})),
        dict(values.get("scores", {})),
        dict(values.get("provenance", {})),
        tuple(values.get("steps", ())),
        tuple(values.get("groups", ())),
    )


def _is_name(value: Any) -> bool:
    """Whether it can stand in the name of a file: a recipe's submissions are named after it."""
    if not isinstance(value, str) or not value.isprintable() or {"/", "\\"} & set(value):
        return False
    return 0 < len(value) <= 100 and not value.startswith(".")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_scores(scores: Any) -> bool:
    figures = ("all", "public", "private", "cross-validated")
    return isinstance(scores, dict) and all(_is_number(scores.get(name, 0.0)) for name in figures)


def _are(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(map(fits, values))


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_name, "a name without / or \\ and without a leading dot"),
    "components": (
        lambda parts: _are(lambda part: isinstance(part, dict))(parts) and parts,
        "a list of objects",
    ),
    "weights": (_are(_is_number), "a list of numbers"),
    "choice": (lambda choice: isinstance(choice, dict), "an object"),
    "scores": (_are_scores, "an object of numbers by name"),
    "provenance": (lambda provenance: isinstance(provenance, dict), "an object"),
    "groups": (_are(lambda group: type(group) is int and 0 <= group < 10_000), "a list of whole numbers"),
}

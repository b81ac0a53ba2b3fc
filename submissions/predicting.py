"""The container's entry point: a folder of unseen query images in, the submission out; no network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from competition.configuration import Configuration
from competition.errors import ConfigurationError
from competition.images import list_images
from competition.messages import log
from features.components import backbone_of, depth_order
from features.descriptors import open_components
from features.ranked_lists import ranked_lists
from features.ranking.photos import learns_from_photos, photos_for
from features.ranking.state import Photos
from features.ranking.steps import used_components
from features.recipes.recipe import Recipe
from submissions.writing import write_lists


def predict(
    configuration: Configuration,
    recipe: Recipe,
    input_dir: Path,
    output_csv: Path,
    *,
    device: str = "auto",
) -> dict:
    """Describe the images of `input_dir` as extract does, rank the gallery under the recipe, write `output_csv`.

    Only the networks the recipe weighs are run; the gallery is read from its dumps alone. The images' own descriptors
    are kept in the system's temporary folder meanwhile: nothing is written to the work folder or the bundle.
    """
    from features.extraction import describe

    configuration, recipe, photos = needed(configuration, recipe)
    images = list_images(input_dir, ids=configuration.competition.ids)
    for other in images.others:
        log.warning(f"top7: {other} is no image by its extension: passed over")
    with TemporaryDirectory(prefix="top7-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        describe(configuration, images, folder, device=device)
        lists = ranked_lists(configuration, recipe, "test", images.ids, None, folder=folder, photos=photos)
    write_lists(output_csv, lists, configuration.competition)
    written = {"file": str(output_csv), "queries": len(lists.query_ids), "recipe": recipe.name}
    return {**written, "unreadable": list(lists.unreadable)}


def needed(configuration: Configuration, recipe: Recipe) -> tuple[Configuration, Recipe, Photos | None]:
    """Reduce a configuration to what `recipe` gives weight: its backbones, layers, poolings, parts and counts.

    Returns it with the recipe of the weighed components, whose parts tables are numbered as in it, and what
    its steps learn from.
    """
    numbers = used_components(recipe.weights, recipe.groups, recipe.steps)
    used, tables = [recipe.components[number] for number in numbers], {}
    if outside := [component.name for component in used if component.external is not None]:
        raise ConfigurationError(
            f"the recipe weighs {outside[0]}: descriptors made elsewhere cannot describe new images; "
            "tune a recipe without [[external]] components for predict"
        )
    photos, backbones = None, []
    if any(map(learns_from_photos, recipe.steps)):
        ids = open_components(configuration, used[:1], "gallery", None)[0].ids
        photos = photos_for(configuration, used, recipe.steps, ids)
    for name in dict.fromkeys(component.backbone for component in used):
        own = [component for component in used if component.backbone == name]
        backbone = backbone_of(configuration, own[0])
        counts: dict[int, set[int]] = {}
        for setting in (component.setting for component in own if component.setting is not None):
            counts.setdefault(setting.table, set()).add(setting.count)
        tables[name] = sorted(counts)
        layers = {component.layer for component in own}
        kept = tuple(layer for layer in backbone.layers if layer in layers)
        parts = [
            replace(backbone.parts[table], counts=tuple(sorted(counts[table]))) for table in sorted(counts)
        ]
        pooling = tuple(dict.fromkeys(part.pooled[1] for part in own if part.parts is None))
        kept = kept or depth_order(backbone.layers)[-1:]
        views = any(part.views for part in own)
        backbones.append(
            replace(backbone, layers=kept, pooling=pooling, parts=tuple(parts), query_views=views)
        )
    components = tuple(
        part if part.parts is None else replace(part, parts=tables[part.backbone].index(part.parts))
        for part in used
    )
    weights = tuple(recipe.weights[number] for number in numbers)
    groups = tuple((recipe.groups or range(len(recipe.weights)))[number] for number in numbers)
    reduced = replace(recipe, components=components, weights=weights, groups=groups)
    return replace(configuration, backbones=tuple(backbones), externals=()), reduced, photos

"""What a bundle holds: the files a recipe needs, the tensors of its networks, and its configuration as a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from competition.configuration import Backbone, Configuration
from competition.errors import ConfigurationError
from competition.messages import log
from features.dumps import Dump, beside, file_label
from features.ranking.photos import learns_from_photos
from features.ranking.state import Photos
from features.ranking.steps import StepEntry
from features.recipes.recipe import Recipe
from submissions.bundle.opening import WEIGHTS


def files_of_recipe(
    configuration: Configuration, recipe: Recipe, photos: Photos | None
) -> tuple[list[Path], int]:
    """Return the files under the work folder that ranking by a reduced recipe needs, sorted, and the gallery's rows."""
    from features.descriptors import open_components
    from features.dumps.layout import sample_record, sampled_ids

    gallery = open_components(configuration, recipe.components, "gallery", None)
    found = [
        beside(dump.path, suffix)
        for dump in gallery
        for suffix in (".npy", ".norms.npy", ".sums.npy", ".json")
    ]
    for backbone in configuration.backbones:
        found += _backbone_files(configuration, backbone)
    found += _derived_files(configuration, recipe, gallery, photos)
    if sampled_ids(configuration) is not None:
        found.append(sample_record(configuration))
    return sorted(set(found)), len(gallery[0].ids)


def _backbone_files(configuration: Configuration, backbone: Backbone) -> Iterable[Path]:
    """Settings of the run, and what was learnt for the parts tables."""
    from features.dumps.layout import backbone_recipe, by_views, has_views
    from features.dumps.part_tables import part_table
    from features.dumps.seals import sum_path
    from features.extraction.settings import settings_path
    from features.parts.blocks import block_files
    from features.parts.part_model import open_parts

    base = backbone_recipe(configuration, backbone)
    yield settings_path(configuration.competition.work, backbone, base)
    if has_views(configuration, backbone):
        yield settings_path(
            configuration.competition.work, backbone, backbone_recipe(configuration, by_views(backbone))
        )
    for parts in backbone.parts:
        table = part_table(configuration.competition.work, backbone.name, base, parts)
        yield table.record
        home = open_parts(table).folder
        found = [home / "order.json", home / "scales.npy"]
        found += [path for first, _, path in block_files(home) if first < max(parts.counts)]
        for count in parts.counts:
            found += home.glob(f"components-N{count}-*.safetensors")
        yield from (path for file in found for path in (file, sum_path(file)) if path.exists())


def _derived_files(
    configuration: Configuration, recipe: Recipe, gallery: Sequence[Dump], photos: Photos | None
) -> list[Path]:
    """Compute, or find, what the recipe's steps keep of the gallery: one gallery image asks as a query."""
    from features.dumps.derived import noting_files
    from features.ranked_lists import rank_dumps

    steps: list[StepEntry] = []
    for step in recipe.steps:
        if step.get("transductive"):
            log.info(
                f"top7: {step['step']} is transductive: it learns from the queries too, so this step and what follows is "
                "computed by every predict"
            )
            if any(map(learns_from_photos, recipe.steps[len(steps) :])):
                raise ConfigurationError(
                    "a bundle cannot hold what photo_whiten learns beside a transductive step: leave one of them out"
                )
            break
        steps.append(step)
    if not steps:
        return []
    unreadable = np.logical_or.reduce([dump.unreadable for dump in gallery])
    row = int(np.argmin(unreadable))
    query = [
        replace(dump, descriptors=dump.descriptors[row : row + 1], norms=dump.norms[row : row + 1])
        for dump in gallery
    ]
    with noting_files() as used:
        rank_dumps(
            query,
            gallery,
            recipe.weight_array,
            steps,
            configuration.competition.top_k,
            groups=recipe.groups or None,
            folder=Path(configuration.competition.work) / "ranking",
            progress=True,
            photos=photos,
        )
    return used


def needed_state(backbone: Backbone) -> dict[str, np.ndarray]:
    """Return the tensors that the layers of `backbone` need, wherever its weights come from, by the model's names."""
    from features.networks.backbones import create_network, source_state
    from features.networks.weights import plain_name

    wanted = set()
    for key in create_network(backbone).module.state_dict():
        wanted |= {plain_name(key), plain_name(key.removeprefix("model."))}
    state = source_state(backbone)[0]
    return {
        key: tensor.detach().cpu().contiguous().numpy()
        for key, tensor in state.items()
        if plain_name(key) in wanted
    }


def weights_name(backbone: Backbone) -> str:
    return f"{WEIGHTS}/{file_label(backbone.name)}.safetensors"


def selection_name(backbone: Backbone, number: int) -> str:
    return f"{WEIGHTS}/{file_label(backbone.name, 'selection', number)}.json"


def configuration_text(configuration: Configuration) -> str:
    """Return the bundle's config.toml: what predict needs, paths relative to it, no gallery."""
    competition = configuration.competition
    own = {key: getattr(competition, key) for key in ("top_k", "ids", "submission")}
    tables = [
        ("[competition]", {"name": competition.name, "gallery": "not in the bundle", **own}),
        ("[simulate]", vars(configuration.simulate)),
    ]
    for backbone in configuration.backbones:
        values = {key: value for key, value in vars(backbone).items() if value is not None and value != ()}
        values |= {
            "weights": weights_name(backbone),
            "pooling": backbone.pooling or ("spoc",),
        }  # one must be there
        if backbone.parts:
            values["parts"] = [_parts_values(backbone, number) for number in range(len(backbone.parts))]
        tables.append(("[[backbone]]", values))
    texts = ([head, *(f"{key} = {_toml(value)}" for key, value in table.items())] for head, table in tables)
    return "\n\n".join(map("\n".join, texts)) + "\n"


def _parts_values(backbone: Backbone, number: int) -> dict:
    values = {key: value for key, value in vars(backbone.parts[number]).items() if key != "training"}
    if isinstance(values["selection"], Path):
        values["selection"] = selection_name(backbone, number)
    return values


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)  # what TOML, too, writes for these

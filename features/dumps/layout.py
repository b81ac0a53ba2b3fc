"""Where dumps lie: a target for each layer and pooling and each part-detector count, named by its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from competition.configuration import SIMULATED, USERS, Backbone, Configuration, External, Parts
from competition.configured import split_images
from competition.errors import ConfigurationError, Top7Error
from competition.images import ids_digest
from features.components import EMBEDDINGS, Component, backbone_of, external_named
from features.dumps import file_label, recipe_digest
from features.dumps.part_tables import PartTable, part_table
from features.images.decoding import DECODER
from features.images.simulated_photos import VERSION
from features.networks.weights_digest import stamped_digest, weights_digest

POOLED = {"grmac": 2, "amac": 2}  # raise (from 1) when a pooling's results change
QUERY_CROPS = (1.0, 0.8)


@dataclass(frozen=True)
class Target:
    """One dump that a pass over the images fills; either `pooling` or `parts` with `count` is set."""

    path: Path
    recipe: Mapping
    layer: int | str
    pooling: str | None = None
    parts: Parts | None = None
    count: int | None = None

    @property
    def dtype(self) -> str:
        """What the rows are stored as: half precision for part detectors, if asked."""
        return "float16" if self.parts is not None and self.parts.half else "float32"


def dumps_folder(configuration: Configuration, split: str) -> Path:
    """Where the dumps of a split that commands use lie; of the gallery, the sample's while only that is there."""
    ids = sampled_ids(configuration) if split in ("gallery", SIMULATED) else None
    return whole_folder(configuration, split) if ids is None else sample_folder(configuration, ids, split)


def whole_folder(configuration: Configuration, split: str) -> Path:
    """Where the dumps of all images of a split lie.

    Photos of another seed, and images cut to other boxes or turned otherwise, have the same names and folders of
    their own.
    """
    folder = Path(configuration.competition.work) / "dumps" / split
    if split == SIMULATED:
        return folder / f"seed{configuration.simulate.seed}-v{VERSION}"
    if configuration.competition.format is None or split == "test":
        return folder
    images = split_images(configuration, split)
    cut = [[images.ids[row], region.box, region.turns] for row, region in enumerate(images.regions) if region]
    return folder / f"cut-{recipe_digest({'cut': cut})}" if cut else folder


def views_folder(folder: Path) -> Path:
    """Where the dumps by views lie, of queries whose other dumps are in `folder`."""
    return folder / "views"


def has_views(configuration: Configuration, backbone: Backbone) -> bool:
    """Whether queries are described by views of this backbone too."""
    wanted = backbone.query_views
    return configuration.competition.format is None if wanted is None else wanted


def by_views(backbone: Backbone) -> Backbone:
    """Return the backbone that describes a query by the mean of its views: image and middle, and their mirror images."""
    return replace(backbone, flip=True, crops=QUERY_CROPS, parts=())


def sample_folder(configuration: Configuration, ids: Sequence[str], split: str = "gallery") -> Path:
    """Where the dumps of a sample of the gallery (`extract --limit`), or of the photos of it, lie."""
    folder = whole_folder(configuration, split)
    return folder.with_name(f"{folder.name}-limit-{len(ids)}-{ids_digest(ids)[:8]}")


def sample_record(configuration: Configuration) -> Path:
    """The file that names the sample's ids: there from `extract --limit` until the whole gallery is extracted."""
    return Path(configuration.competition.work) / "dumps" / "sample.json"


def sampled_ids(configuration: Configuration) -> list[str] | None:
    """The ids of the sample whose dumps the commands use; None: they use the whole gallery's."""
    path = sample_record(configuration)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["ids"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise Top7Error(f"{path}: damaged: remove it and run ./run.sh extract --limit again") from None


def backbone_recipe(configuration: Configuration, backbone: Backbone) -> dict:
    """What decides the maps of an image: model, weights, preprocessing, test-time views."""
    recipe = {
        "model": backbone.model,
        "weights": weights_digest(backbone, configuration.competition.work),
        "options": dict(backbone.options),
        "mean": list(backbone.mean) if backbone.mean else None,
        "std": list(backbone.std) if backbone.std else None,
        "image_size": backbone.image_size,
        "resize": backbone.resize,
        "decoder": DECODER,
    }
    if backbone.resize == "keep" and not backbone.image_size:
        recipe["max_size"] = backbone.max_size
    for option, default in (("clamp", False), ("flip", False), ("scales", (1.0,)), ("crops", (1.0,))):
        value = getattr(backbone, option)
        if value != default:
            recipe[option] = list(value) if isinstance(value, tuple) else value
    return recipe


def pooling_recipe(base: Mapping, layer: int | str, pooling: str) -> dict:
    return {**base, "layer": layer, "pooling": pooling, "pooled": POOLED.get(pooling, 1)}


def table_of(configuration: Configuration, backbone: Backbone, parts: Parts) -> PartTable:
    """A parts table of a backbone with its recorded sample. Top7Error: a damaged record."""
    base = backbone_recipe(configuration, backbone)
    return part_table(configuration.competition.work, backbone.name, base, parts)


def targets_of(backbone: Backbone, base: Mapping, tables: Sequence[PartTable], folder: Path) -> list[Target]:
    """Every target of one backbone in `folder`, layers in their order, part detectors last; base: its recipe."""
    found = []
    for layer in (*backbone.layers, *EMBEDDINGS):
        for pooling in backbone.pooling:
            if (layer in EMBEDDINGS or pooling in EMBEDDINGS) <= (layer == pooling):
                recipe = pooling_recipe(base, layer, pooling)
                path = dump_path(folder, backbone.name, layer, pooling, recipe)
                found.append(Target(path, recipe, layer, pooling))
    for table in tables:
        for count in table.parts.counts:
            path = projection_path(table, count, folder)
            recipe = table.projection(count)
            found.append(Target(path, recipe, table.parts.layer, parts=table.parts, count=count))
    return list({target.path: target for target in found}.values())


def configured_targets(configuration: Configuration, backbone: Backbone, folder: Path) -> list[Target]:
    """Every target of one backbone in `folder`, its part detectors as they were learnt, if they were."""
    tables = [table_of(configuration, backbone, parts) for parts in backbone.parts]
    return targets_of(backbone, backbone_recipe(configuration, backbone), tables, folder)


def extracted_dumps(configuration: Configuration, split: str, folder: Path) -> list[Path]:
    """Every dump that extraction fills for a split in `folder`, there or not."""
    described = [(backbone, folder) for backbone in configuration.backbones]
    if split in USERS:
        viewed = [backbone for backbone in configuration.backbones if has_views(configuration, backbone)]
        described += [(by_views(backbone), views_folder(folder)) for backbone in viewed]
    targets = [configured_targets(configuration, backbone, at) for backbone, at in described]
    externals = [each for each in configuration.externals if getattr(each, split, None) is not None]
    paths = [external_path(folder, each, split) for each in externals]
    return [target.path for found in targets for target in found] + paths


def dump_path(folder: Path, name: str, layer: int | str, middle: str, recipe: Mapping) -> Path:
    return folder / f"{file_label(name, layer, middle)}-{recipe_digest(recipe)}.npy"


def projection_path(table: PartTable, count: int, folder: Path) -> Path:
    """Where the unwhitened projection of one detector count lies in `folder`, there or not."""
    name = f"parts-N{count}"
    return dump_path(folder, table.backbone, table.parts.layer, name, table.projection(count))


@dataclass(frozen=True)
class Place:
    """Where a component's dump lies, there or not; of a whitened one with the table and the projection it is made from."""

    path: Path
    table: PartTable | None = None
    projection: Path | None = None


def component_place(
    configuration: Configuration, component: Component, split: str, folder: Path | None = None
) -> Place:
    """The place of a component's dump; folder: instead of the split's (images given to predict)."""
    if (name := component.external) is not None and (folder is not None or split == SIMULATED):
        raise ConfigurationError(
            f"{component.name}: descriptors made elsewhere cannot describe new images or simulated photos: "
            "take a recipe without [[external]] components"
        )
    folder = folder or dumps_folder(configuration, split)
    if name is not None:
        return Place(external_path(folder, external_named(configuration, name), split))
    backbone = backbone_of(configuration, component)
    if component.views and split in USERS:
        folder, backbone = views_folder(folder), by_views(backbone)
    if (setting := component.setting) is None:
        recipe = pooling_recipe(backbone_recipe(configuration, backbone), *component.pooled)
        return Place(dump_path(folder, backbone.name, *component.pooled, recipe))
    number, count, dim, exponent = astuple(setting)
    table = table_of(configuration, backbone, backbone.parts[number])
    recipe = table.projection(count) | {"dim": dim, "exponent": exponent}
    name = f"parts-N{count}-M{dim}-t{exponent:g}"
    path = dump_path(folder, backbone.name, table.parts.layer, name, recipe)
    return Place(path, table, projection_path(table, count, folder))


def component_path(
    configuration: Configuration, component: Component, split: str, folder: Path | None = None
) -> Path:
    """The path of a component's dump, there or not."""
    return component_place(configuration, component, split, folder).path


def external_recipe(external: External, split: str) -> dict:
    """The recipe of descriptors made elsewhere: the digests of their file and of the ids beside it."""
    source = getattr(external, split)
    if source is None:
        raise ConfigurationError(
            f'[[external]] {external.name} has no descriptors of the {split} images: add {split} = "FILE.npy" to it, '
            "or use a recipe without it"
        )
    if not ids_path(source).is_file():
        raise Top7Error(f"{ids_path(source)}: no such file: expected the ids of {source}, one a line")
    files = {"file": stamped_digest(source), "ids": stamped_digest(ids_path(source))}
    return {"external": external.name, **files}


def ids_path(source: Path) -> Path:
    """The file of the ids of an [[external]] matrix."""
    return Path(source).with_suffix(".ids")


def external_path(folder: Path, external: External, split: str) -> Path:
    """Where the dump made from an [[external]] matrix lies in `folder`, there or not."""
    recipe = external_recipe(external, split)
    return folder / f"{file_label('external', external.name)}-{recipe_digest(recipe)}.npy"

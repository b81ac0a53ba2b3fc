"""The container's entry point: a folder of unseen query images in, the submission out; no network.

It answers from a work folder, or from a bundle alone, of which bundle.json (written last) names every other file with its
size and SHA-256; config.toml and recipe.json say what is ranked; weights/ holds the networks, work/ the dumps, part
detectors and what the recipe's steps computed from the gallery.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from competition.configuration import Configuration, load_configuration
from competition.errors import ConfigurationError, Top7Error
from competition.images import list_images
from competition.messages import log
from competition.progress import Progress
from features.components import backbone_of, depth_order
from features.descriptors import open_components
from features.dumps.seals import unsealed
from features.networks.weights_digest import stamped_digest
from features.ranked_lists import ranked_lists
from features.ranking.photos import learns_from_photos, photos_for
from features.ranking.state import Photos
from features.ranking.steps import used_components
from features.recipes.recipe import Recipe, read_recipe
from submissions.submitting import write_lists

FORMAT = 1
MANIFEST, CONFIGURATION, RECIPE = "bundle.json", "config.toml", "recipe.json"
WORK, WEIGHTS = "work", "weights"


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


def open_bundle(folder: Path, *, check_content: bool = False) -> tuple[Configuration, Recipe]:
    """Return configuration and recipe of the bundle in `folder`, after comparing it with its manifest.

    Always: the manifest's own checksum, and that every file is there with its size. check_content: every file's bytes
    as well (reads all of it). Top7Error, one line: no bundle, a damaged or incomplete one.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    for name, entry in Progress(manifest["files"].items(), unit="file", desc="checking", shown=check_content):
        path = _inside(folder, name)
        size = path.stat().st_size if path.is_file() else None
        fault = ""
        if size != entry["bytes"]:
            fault = "missing" if size is None else f"{size} bytes, expected {entry['bytes']}"
        elif check_content and stamped_digest(path) != entry["sha256"]:
            fault = "its content is not what the manifest says"
        if fault:
            raise Top7Error(
                f"{path}: {fault}: the bundle is damaged: copy it again, or make it again with ./run.sh bundle"
            )
    configuration, backbones = load_configuration(folder / CONFIGURATION, work=folder / WORK), []
    for backbone in configuration.backbones:
        for named in (backbone.weights, *(parts.selection for parts in backbone.parts)):
            if isinstance(named, Path):
                _inside(folder, os.path.relpath(named, folder))
        # the folder that parts were learnt from, as it was written: part of their dumps' names, never read
        learnt = [name and Path(name) for name in manifest["training"][backbone.name]]
        parts = tuple(replace(table, training=name) for table, name in zip(backbone.parts, learnt))
        backbones.append(replace(backbone, parts=parts))
    return replace(configuration, backbones=tuple(backbones)), read_recipe(folder / RECIPE)


def _inside(folder: Path, name: str) -> Path:
    """The path of a file of the bundle. Top7Error: it leads out of the bundle, by its name or by a link."""
    path = folder / name
    if os.path.isabs(name) or os.path.realpath(path) != os.path.join(os.path.realpath(folder), name):
        raise Top7Error(
            f"{folder}: {name!r} leads out of the bundle or through a link: do not use this bundle"
        )
    return path


def _manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    try:
        manifest = unsealed(path.read_bytes())
        if manifest["bundle"] == FORMAT:
            return manifest
        raise Top7Error(f"{path}: a bundle of format {manifest['bundle']}, expected {FORMAT}: make it again")
    except FileNotFoundError:
        raise Top7Error(
            f"{path}: no such file: {folder} is no bundle, or an unfinished one: ./run.sh bundle makes one"
        ) from None
    except (OSError, ValueError, KeyError):
        raise Top7Error(
            f"{path}: damaged: copy the bundle again, or make it again with ./run.sh bundle"
        ) from None

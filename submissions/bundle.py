"""Make a bundle: what `predict` needs of a work folder and no more, in one checksummed folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.numpy import save_file

from competition.atomic import sync_folder, write_json, write_text
from competition.configuration import Backbone, Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from competition.progress import Progress
from features.descriptors import open_components
from features.dumps import Dump, beside, file_label
from features.dumps.derived import noting_files
from features.dumps.layout import backbone_recipe, by_views, has_views, sample_record, sampled_ids
from features.dumps.part_tables import part_table
from features.dumps.seals import sealed_text, sum_path
from features.extraction.settings import settings_path
from features.networks.backbones import create_network, source_state
from features.networks.weights import plain_name
from features.networks.weights_digest import digest_note, stamped_digest, weights_digest
from features.parts.blocks import block_files
from features.parts.part_model import open_parts
from features.ranked_lists import rank_dumps
from features.ranking.photos import learns_from_photos
from features.ranking.state import Photos
from features.ranking.steps import StepEntry
from features.recipes.recipe import Recipe, write_recipe
from submissions import predicting
from submissions.outcome import Outcome
from submissions.predicting import needed, open_bundle, predict


def make_bundle(configuration: Configuration, recipe: Recipe, out: Path) -> Outcome:
    """Copy what `recipe` needs to answer new images into the folder `out`, replacing only an earlier bundle.

    The size is printed first and the disk checked; before it gets its name the bundle answers a made-up picture. What the
    recipe's steps compute from the gallery alone is computed now, if it is not there, and copied. Top7Error: dumps or
    weights that are missing, a full disk; ConfigurationError: `out` is something else than a bundle.
    """
    out = Path(os.path.abspath(out))
    configuration, recipe, photos = needed(configuration, recipe)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / predicting.MANIFEST).is_file()):
        raise ConfigurationError(f"{out}: is there and is no bundle: give another --out, or remove it")
    files, gallery = _files_of_recipe(configuration, recipe, photos)
    if photos is not None:  # the steps name what they learnt from photos, which do not come along
        learnt = {"learnt": photos.identity}
        steps = [{**step, **learnt} if learns_from_photos(step) else step for step in recipe.steps]
        recipe = replace(recipe, steps=tuple(steps))
    states = {backbone.name: _needed_state(backbone) for backbone in configuration.backbones}
    copied = sum(path.stat().st_size for path in files)
    tensors = sum(tensor.nbytes for state in states.values() for tensor in state.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    log.info(
        f"top7: bundle of recipe {recipe.name}: {len(files)} files of {configuration.competition.work} {_size(copied)}, "
        f"weights {_size(tensors)}: {_size(copied + tensors)} in {out}, {_size(free)} free there"
    )
    if (copied + tensors) * 1.01 + (16 << 20) > free:
        raise Top7Error(
            f"{out}: the bundle needs {_size(copied + tensors)}, {_size(free)} are free: make room, or give --out"
        )
    folder, old = (out.with_name(f".{out.name}.{ending}") for ending in ("partial", "old"))
    if old.exists() and not out.exists():  # killed between two renames
        os.rename(old, out)
    for left in (folder, old):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        noted = _write(folder, configuration, recipe, files, states)
        _answer_once(folder)
        sync_folder(folder)
        if out.exists():
            os.rename(out, old)
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(out.parent)
    size_bytes = sum(entry["bytes"] for entry in noted.values())
    values = {"bundle": str(out), "files": len(noted), "bytes": size_bytes, "gallery": gallery}
    size = f"{len(noted)} files, {size_bytes / 1e6:.1f} MB"
    return Outcome(values, f"{out}: {size}, {gallery} gallery images")


def _write(
    folder: Path,
    configuration: Configuration,
    recipe: Recipe,
    files: Sequence[Path],
    states: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict]:
    """Fill `folder`, the manifest last; returns {name: {"bytes", "sha256"}} of everything but the manifest.

    Bytes are copied (no links): the bundle may lie on another disk, and must not change with its source.
    """
    work = configuration.competition.work
    for path in Progress(files, unit="file", desc="bundle"):
        _copy(path, folder / predicting.WORK / path.relative_to(work))
    for backbone in configuration.backbones:
        path = folder / _weights_name(backbone)
        path.parent.mkdir(exist_ok=True)
        save_file(dict(states[backbone.name]), path)
        write_json(
            digest_note(path), {"bytes": path.stat().st_size, "digest": weights_digest(backbone, work)}
        )
        for number, parts in enumerate(backbone.parts):
            if isinstance(parts.selection, Path):
                _copy(parts.selection, folder / _selection_name(backbone, number))
    write_text(folder / predicting.CONFIGURATION, _configuration_text(configuration))
    write_recipe(folder / predicting.RECIPE, recipe)
    noted = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": stamped_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "bundle": predicting.FORMAT,
        "name": configuration.competition.name,
        "recipe": recipe.name,
        "files": noted,
        "training": {
            backbone.name: [str(parts.training) if parts.training else None for parts in backbone.parts]
            for backbone in configuration.backbones
        },
        "made_with": {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__},
    }
    write_text(folder / predicting.MANIFEST, sealed_text(manifest))
    return noted


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with open(target, "rb") as stream:
        os.fsync(stream.fileno())


def _answer_once(folder: Path) -> None:
    """Prove that nothing is missing: a grey picture, answered from the bundle alone."""
    with TemporaryDirectory(prefix="top7-") as scratch:
        images = Path(scratch, "images")
        images.mkdir()
        Image.linear_gradient("L").convert("RGB").save(images / "made-up.png")
        predict(*open_bundle(folder), images, Path(scratch, "answer.csv"), device="cpu")


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2f} MB"


def _files_of_recipe(
    configuration: Configuration, recipe: Recipe, photos: Photos | None
) -> tuple[list[Path], int]:
    """Return the files under the work folder that ranking by a reduced recipe needs, sorted, and the gallery's rows."""
    gallery = open_components(configuration, recipe.components, "gallery", None)
    kinds = (".npy", ".norms.npy", ".sums.npy", ".json")
    found = [beside(dump.path, suffix) for dump in gallery for suffix in kinds]
    for backbone in configuration.backbones:
        found += _backbone_files(configuration, backbone)
    found += _derived_files(configuration, recipe, gallery, photos)
    if sampled_ids(configuration) is not None:
        found.append(sample_record(configuration))
    return sorted(set(found)), len(gallery[0].ids)


def _backbone_files(configuration: Configuration, backbone: Backbone) -> Iterable[Path]:
    """Settings of the run, and what was learnt for the parts tables."""
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
            folder=configuration.competition.work / "ranking",
            progress=True,
            photos=photos,
        )
    return used


def _needed_state(backbone: Backbone) -> dict[str, np.ndarray]:
    """Return the tensors that the layers of `backbone` need, wherever its weights come from, by the model's names."""
    wanted = set()
    for key in create_network(backbone).module.state_dict():
        wanted |= {plain_name(key), plain_name(key.removeprefix("model."))}
    state = source_state(backbone)[0]
    return {
        key: tensor.detach().cpu().contiguous().numpy()
        for key, tensor in state.items()
        if plain_name(key) in wanted
    }


def _weights_name(backbone: Backbone) -> str:
    return f"{predicting.WEIGHTS}/{file_label(backbone.name)}.safetensors"


def _selection_name(backbone: Backbone, number: int) -> str:
    return f"{predicting.WEIGHTS}/{file_label(backbone.name, 'selection', number)}.json"


def _configuration_text(configuration: Configuration) -> str:
    """Return the bundle's config.toml: what predict needs, paths relative to it, no gallery."""
    competition = configuration.competition
    own = {key: getattr(competition, key) for key in ("top_k", "ids", "submission")}
    tables = [
        ("[competition]", {"name": competition.name, "gallery": "not in the bundle", **own}),
        ("[simulate]", vars(configuration.simulate)),
    ]
    for backbone in configuration.backbones:
        values = {key: value for key, value in vars(backbone).items() if value is not None and value != ()}
        pooling = backbone.pooling or ("spoc",)  # one must be there
        values |= {"weights": _weights_name(backbone), "pooling": pooling}
        if backbone.parts:
            values["parts"] = [_parts_values(backbone, number) for number in range(len(backbone.parts))]
        tables.append(("[[backbone]]", values))
    texts = ([head, *(f"{key} = {_toml(value)}" for key, value in table.items())] for head, table in tables)
    return "\n\n".join(map("\n".join, texts)) + "\n"


def _parts_values(backbone: Backbone, number: int) -> dict:
    values = {key: value for key, value in vars(backbone.parts[number]).items() if key != "training"}
    if isinstance(values["selection"], Path):
        values["selection"] = _selection_name(backbone, number)
    return values


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)  # what TOML, too, writes for these

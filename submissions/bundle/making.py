"""Make a bundle: what `predict` needs of a work folder and no more, in one checksummed folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from competition.atomic import sync_folder, write_json, write_text
from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from competition.progress import Progress
from features.dumps.seals import sealed_text
from features.ranking.photos import learns_from_photos
from features.recipes.recipe import Recipe, write_recipe
from submissions.bundle import contents, opening
from submissions.outcome import Outcome
from submissions.predicting import needed, predict


def make_bundle(configuration: Configuration, recipe: Recipe, out: Path) -> Outcome:
    """Copy what `recipe` needs to answer new images into the folder `out`, replacing only an earlier bundle.

    The size is printed first and the disk checked; before it gets its name the bundle answers a made-up picture. What the
    recipe's steps compute from the gallery alone is computed now, if it is not there, and copied. Top7Error: dumps or
    weights that are missing, a full disk; ConfigurationError: `out` is something else than a bundle.
    """
    out = Path(os.path.abspath(out))
    configuration, recipe, photos = needed(configuration, recipe)
    if out.exists() and not (out.is_dir() and (opening.is_bundle(out) or not any(out.iterdir()))):
        raise ConfigurationError(f"{out}: is there and is no bundle: give another --out, or remove it")
    files, gallery = contents.files_of_recipe(configuration, recipe, photos)
    if photos is not None:  # the steps name what they learnt from photos, which do not come along
        learnt = {"learnt": photos.identity}
        steps = [{**step, **learnt} if learns_from_photos(step) else step for step in recipe.steps]
        recipe = replace(recipe, steps=tuple(steps))
    states = {backbone.name: contents.needed_state(backbone) for backbone in configuration.backbones}
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
    import timm
    import torch
    from safetensors.numpy import save_file

    from features.networks.weights_digest import digest_note, weights_digest

    work = configuration.competition.work
    for path in Progress(files, unit="file", desc="bundle"):
        _copy(path, folder / opening.WORK / path.relative_to(work))
    for backbone in configuration.backbones:
        path = folder / contents.weights_name(backbone)
        path.parent.mkdir(exist_ok=True)
        save_file(dict(states[backbone.name]), path)
        write_json(
            digest_note(path), {"bytes": path.stat().st_size, "digest": weights_digest(backbone, work)}
        )
        for number, parts in enumerate(backbone.parts):
            if isinstance(parts.selection, Path):
                _copy(parts.selection, folder / contents.selection_name(backbone, number))
    write_text(folder / opening.CONFIGURATION, contents.configuration_text(configuration))
    write_recipe(folder / opening.RECIPE, recipe)
    noted = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": opening.content_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "bundle": opening.FORMAT,
        "name": configuration.competition.name,
        "recipe": recipe.name,
        "files": noted,
        "training": {
            backbone.name: [str(parts.training) if parts.training else None for parts in backbone.parts]
            for backbone in configuration.backbones
        },
        "made_with": {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__},
    }
    write_text(folder / opening.MANIFEST, sealed_text(manifest))
    return noted


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with open(target, "rb") as stream:
        os.fsync(stream.fileno())


def _answer_once(folder: Path) -> None:
    """Prove that nothing is missing: a grey picture, answered from the bundle alone."""
    from PIL import Image

    with TemporaryDirectory(prefix="top7-") as scratch:
        images = Path(scratch, "images")
        images.mkdir()
        Image.linear_gradient("L").convert("RGB").save(images / "made-up.png")
        predict(*opening.open_bundle(folder), images, Path(scratch, "answer.csv"), device="cpu")


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2f} MB"

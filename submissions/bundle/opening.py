"""Open a bundle: its configuration and recipe, after comparing its files with its manifest.

bundle.json (written last) names every other file with its size and SHA-256; config.toml and recipe.json say what is
ranked; weights/ holds the networks, work/ the dumps, part detectors and what the recipe's steps computed from the
gallery.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from competition.configuration import Configuration, load_configuration
from competition.errors import Top7Error
from competition.progress import Progress
from features.dumps.seals import unsealed
from features.recipes.recipe import Recipe, read_recipe

FORMAT = 1
MANIFEST, CONFIGURATION, RECIPE = "bundle.json", "config.toml", "recipe.json"
WORK, WEIGHTS = "work", "weights"


def is_bundle(folder: Path) -> bool:
    """Whether `folder` is a bundle by its manifest, whole or not."""
    try:
        return "bundle" in json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


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
        elif check_content and content_digest(path) != entry["sha256"]:
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


def content_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""The images that a table of part detectors is learnt from, recorded under <work>/parts, and the recipes they decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from competition.configuration import Parts
from competition.errors import ConfigurationError, Top7Error
from competition.images import ids_digest
from features.dumps import file_label, recipe_digest

PARTS = 1  # raise when the results of part detectors change
SELECTIONS = ("variance", "variance-mean", "random")  # or the path of an order file


@dataclass(frozen=True)
class PartTable:
    """A parts table of a backbone, with the images it is learnt from.

    recipe: what decides the model but for the images; record: the file that names them, beside the model; sample: their
    digest, ids those of the images: none before they are drawn.
    """

    backbone: str
    parts: Parts
    recipe: Mapping
    record: Path
    sample: str | None
    ids: tuple[str, ...]

    @property
    def model(self) -> dict[str, Any]:
        """Folder, name and provenance of the model."""
        name, provenance = file_label(self.backbone, self.parts.layer), {**self.recipe, "learnt": self.sample}
        return {"folder": self.record.parent, "name": name, "provenance": provenance}

    def projection(self, count: int) -> dict:
        """The recipe of one detector count's unwhitened projection."""
        return {**self.recipe, "count": count, "largest_dim": max(self.parts.dims), "learnt": self.sample}


def part_table(work: Path | str, backbone: str, base: Mapping, parts: Parts) -> PartTable:
    """A parts table with its recorded sample; base: the `backbone_recipe`. Top7Error: a damaged record."""
    recipe, record = learning_recipe(base, parts), learnt_path(work, backbone, base, parts)
    learnt = read_learnt(record) or {"sample": None, "ids": []}
    return PartTable(backbone, parts, recipe, record, learnt["sample"], tuple(learnt["ids"]))


def learnt_path(work: Path | str, backbone: str, base: Mapping, parts: Parts) -> Path:
    """The record of the images that a parts table was learnt from."""
    name = f"{file_label(backbone, parts.layer)}-{recipe_digest(learning_recipe(base, parts))}.json"
    return Path(work) / "parts" / name


def learning_recipe(base: Mapping, parts: Parts) -> dict:
    """What decides the detectors and the projections learnt, but for the images learnt from."""
    return {
        **base,
        "layer": parts.layer,
        "pooling": "parts",
        "parts": PARTS,
        "alpha": parts.alpha,
        "beta": parts.beta,
        "form": parts.form,
        "selection": selection_key(parts),
        "training_images": parts.training_images,
        "training": str(parts.training) if parts.training else None,
        "seed": parts.seed,
        "variant": parts.variant,
        "half": parts.half,
    }


def read_learnt(record: Path) -> dict | None:
    """The record of a sample: {"sample": digest, "ids": [...]}, None if nothing was learnt yet."""
    try:
        found = json.loads(record.read_bytes())
        if found["sample"] != ids_digest(found["ids"])[:16]:
            raise ValueError
        return found
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Top7Error(f"{record}: damaged: run ./run.sh extract, which records the sample again") from None


def selection_key(parts: Parts) -> str | list[int]:
    """Return what identifies the selection: its name, or the channels that the given file lists."""
    if parts.selection in SELECTIONS:
        return parts.selection
    if not Path(parts.selection).is_file():
        raise ConfigurationError(
            f"parts of layer {parts.layer!r}: selection {str(parts.selection)!r} is no file with an order of detectors,"
            f" nor one of {', '.join(SELECTIONS)}"
        )
    return read_order(Path(parts.selection))


def read_order(path: Path) -> list[int]:
    """Read the channels of an order file; Top7Error where it is missing or none."""
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
        order = entry["order"] if isinstance(entry, dict) else entry
        if not all(isinstance(channel, int) and not isinstance(channel, bool) for channel in order):
            raise TypeError
        return list(order)
    except FileNotFoundError:
        raise Top7Error(f"{path}: no such file; expected the order of part detectors (JSON)") from None
    except (ValueError, KeyError, TypeError):
        raise Top7Error(
            f'{path}: not an order of part detectors: expected JSON with "order": [channel, …]'
        ) from None

"""Part detectors as they were learnt (features/parts/learning.py): opened, and applied to new maps.

Under <folder>/<name>-<digest>/: order.json (the detectors, best first), blocks-*.npy (the sample), and for each
count one .safetensors file with its components; a file counts only while it is whole by the `.sum` beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from competition.configuration import Parts
from competition.errors import Top7Error
from features.dumps import file_label
from features.dumps.part_tables import PartTable, selection_key
from features.dumps.seals import file_is_whole
from features.parts import blocks as sample_blocks
from features.parts.aggregation import aggregate, check_maps, part_weights
from features.parts.projection import Chunks, project
from features.parts.selection import VARIANTS, beyond_rank
from features.whitening import column_scales, ledoit_wolf


def model_folder(parts: Parts, folder: Path, name: str, provenance: dict) -> Path:
    """Return where the model lies: its digest covers what order and sample depend on, not counts or dimensions."""
    key = {
        "provenance": provenance,
        "selection": selection_key(parts),
        "seed": parts.seed if parts.selection == "random" else None,
        "alpha": parts.alpha,
        "beta": parts.beta,
        "root": VARIANTS[parts.variant].root,
        "format": 1,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return Path(folder) / f"{file_label(name)}-{digest}"


@dataclass(frozen=True)
class PartModel:
    """What was learnt; see `learn_parts`. eigenvalues: {count: (M,) float64} as whitening divides by their roots."""

    parts: Parts
    name: str
    folder: Path
    order: np.ndarray
    n: int
    components: dict[int, dict[str, np.ndarray]]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(sorted(self.components))

    @property
    def eigenvalues(self) -> dict[int, np.ndarray]:
        return {count: entry["eigenvalues"] for count, entry in self.components.items()}

    def scales(self, count: int, dim: int, exponent: float) -> np.ndarray:
        """Return what the first `dim` columns of the projection for `count` are multiplied by, (dim,) float64."""
        power = VARIANTS[self.parts.variant].power
        return column_scales(self.eigenvalues[count], dim, exponent * power)

    def aggregate(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) float32 -> psi (B, N, C) float32 of the largest count; any batch, the same bits.

        NaN and infinity reach the image's own row as NaN. Raises Top7Error for negative values.
        """
        check_maps(maps, finite=False)
        return psi_of(maps, self.parts, torch.from_numpy(self.order[: max(self.counts)].copy()))

    def only(self, counts: Iterable[int]) -> PartModel:
        """Return the model of these counts alone: the others cost nothing, and no bit changes."""
        components = {count: self.components[count] for count in sorted(set(counts))}
        return PartModel(self.parts, self.name, self.folder, self.order, self.n, components)

    def project_psi(self, psi: Tensor) -> dict[int, Tensor]:
        """psi (B, N, C) -> {count: (B, M) float32} projections of the L2-normalised, centred psi, not whitened."""
        components = {
            count: (entry["coefficients"], entry["offset"]) for count, entry in self.components.items()
        }
        return project(psi, components, self.parts.form, torch.from_numpy(self.order), self._chunks)

    def project(self, maps: Tensor) -> dict[int, Tensor]:
        """maps (B, C, H, W) float32 -> {count: (B, M) float32}: `aggregate`, then `project_psi`."""
        return self.project_psi(self.aggregate(maps))

    @cached_property
    def _chunks(self) -> Chunks:
        return partial(sample_blocks.chunks, sample_blocks.open_blocks(self.folder))


def psi_of(maps: Tensor, parts: Parts, detectors: Tensor) -> Tensor:
    """maps (B, C, H, W) float32 -> psi (B, N, C) float32 of N detectors, channel numbers."""
    root = VARIANTS[parts.variant].root
    weights = part_weights(maps, detectors.to(maps.device), alpha=parts.alpha, beta=parts.beta, root=root)
    return aggregate(maps, weights)


def open_parts(table: PartTable) -> PartModel:
    """Open what `extract` learnt for a table. Top7Error: nothing yet, or a part of it is missing or damaged.

    ConfigurationError: dimensions beyond the sample's rank.
    """
    parts, about = table.parts, table.model
    home = model_folder(parts, **about)
    model, learnt = None, learnt_order(home)
    if learnt is not None and held_detectors(home) >= max(parts.counts):
        order, _, n = learnt
        model = with_components(parts, about["name"], home, order, n)
    if model is None:
        raise Top7Error(
            f"the part detectors of {table.backbone}, layer {parts.layer!r}, have not been learnt yet: run "
            "./run.sh extract"
        )
    return model


def with_components(parts: Parts, name: str, home: Path, order: np.ndarray, n: int) -> PartModel | None:
    """Return the model of an order learnt from n images with the components of every count; None: one is not there."""
    components, dims = {}, max(parts.dims)
    for count in sorted(set(parts.counts)):
        if (entry := learnt_components(parts, home, count)) is None:
            return None
        spectrum = entry["spectrum"]
        if dims > len(spectrum):
            what = f"{count} detectors and a sample of {n} images"
            raise beyond_rank(f"parts of {name}", dims, len(spectrum), what)
        if VARIANTS[parts.variant].shrunk:
            spectrum = ledoit_wolf(spectrum, float(entry["fourth_moment"][0]), n)
        components[count] = {
            "eigenvalues": spectrum[:dims],
            "coefficients": np.ascontiguousarray(entry["coefficients"][:, :dims]),
            "offset": np.ascontiguousarray(entry["offset"][:dims]),
        }
    return PartModel(parts, name, home, order, n, components)


def learnt_order(home: Path) -> tuple[np.ndarray, int | None, int] | None:
    """Return all channels, best first; how many were given, or None; and the images of the sample. None: not learnt."""
    path = home / "order.json"
    if not file_is_whole(path):
        return None
    about = json.loads(path.read_bytes())
    return np.array(about["order"], dtype=np.int64), about["given"], int(about["images"])


def held_detectors(home: Path) -> int:
    """Return for how many detectors, from the first on, the sample lies in blocks."""
    return max((end for _, end, _ in sample_blocks.block_files(home)), default=0)


def learnt_components(parts: Parts, home: Path, count: int) -> dict[str, np.ndarray] | None:
    """Return what was learnt for a count; None where that is missing, or holds fewer dimensions than asked for."""
    if not file_is_whole(path := components_path(home, count, parts)):
        return None
    entry = load_file(path)
    held, rank = len(entry["offset"]), len(entry["spectrum"])
    return entry if max(parts.dims) <= held or held == rank else None


def components_path(home: Path, count: int, parts: Parts) -> Path:
    """Return where the components of a count lie, learnt or not."""
    centred = "" if VARIANTS[parts.variant].centred else "-uncentred"
    return home / f"components-N{count}-{parts.form}{centred}.safetensors"

"""Part detectors learnt from a training sample, kept on disk piece by piece, and applied to new maps.

Under <folder>/<name>-<digest>/: order.json (the detectors, best first), blocks-*.npy (the sample), and for each
count one .safetensors file with its components. Each is computed only if it is missing, or damaged by the `.sum`
beside it, so that a count asked for later costs what only that count needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import Tensor

from competition.atomic import write_bytes
from competition.configuration import Parts
from competition.errors import Top7Error
from competition.messages import log
from competition.progress import Progress
from features.dumps import file_label
from features.dumps.seals import file_is_whole, seal, sum_path
from features.parts import blocks as sample_blocks
from features.parts import selection
from features.parts.aggregation import aggregate, check_maps, part_weights
from features.parts.projection import Projector, cumulative_grams
from features.parts.selection import VARIANTS, beyond_rank, check_parts, selection_key
from features.whitening import column_scales, dual_components, ledoit_wolf


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
        return _psi(maps, self.parts, torch.from_numpy(self.order[: max(self.counts)].copy()))

    def only(self, counts: Iterable[int]) -> PartModel:
        """Return the model of these counts alone: the others cost nothing, and no bit changes."""
        components = {count: self.components[count] for count in sorted(set(counts))}
        return PartModel(self.parts, self.name, self.folder, self.order, self.n, components)

    def project_psi(self, psi: Tensor) -> dict[int, Tensor]:
        """psi (B, N, C) -> {count: (B, M) float32} projections of the L2-normalised, centred psi, not whitened."""
        return self._projector.project(psi)

    def project(self, maps: Tensor) -> dict[int, Tensor]:
        """maps (B, C, H, W) float32 -> {count: (B, M) float32}: `aggregate`, then `project_psi`."""
        return self.project_psi(self.aggregate(maps))

    @cached_property
    def _projector(self) -> Projector:
        opened = sample_blocks.open_blocks(self.folder)
        components = {
            count: (entry["coefficients"], entry["offset"]) for count, entry in self.components.items()
        }
        order = torch.from_numpy(self.order)
        return Projector(components, self.parts.form, order, partial(sample_blocks.chunks, opened), self.n)


def _psi(maps: Tensor, parts: Parts, detectors: Tensor) -> Tensor:
    root = VARIANTS[parts.variant].root
    weights = part_weights(maps, detectors.to(maps.device), alpha=parts.alpha, beta=parts.beta, root=root)
    return aggregate(maps, weights)


def learn_parts(
    parts: Parts,
    maps: Callable[[], Iterable[Tensor]],
    folder: Path,
    *,
    name: str,
    provenance: dict,
    images: int | None = None,
) -> PartModel:
    """Learn what `parts` asks for from the training sample, or open it where it is there already.

    maps: called for each pass over the sample (two at first, one for detectors asked for later, none if all is
    there); yields (B, C, H, W) float32 in one order, unreadable images left out; images: how many to show as the total.
    provenance: JSON values that identify the maps and the sample. Raises ConfigurationError for a count above the
    channels and for dimensions beyond the sample's rank, Top7Error for a map with NaN.
    """
    where = f"parts of {name}"
    check_parts(parts, where)
    home = model_folder(parts, folder, name, provenance)
    counts, most_dims = tuple(sorted(set(parts.counts))), max(parts.dims)
    order, given, n = _order(parts, maps, home, where, provenance, images)
    selection.check_counts(counts, len(order) if given is None else given, where)
    if most_dims > n:
        raise beyond_rank(where, most_dims, n - VARIANTS[parts.variant].centred, f"a sample of {n} images")
    channels = len(order)
    held = sum(end - first for first, end, _ in sample_blocks.block_files(home))
    if held < counts[-1]:
        if held:
            log.info(
                f"{where}: a count of {counts[-1]} needs {counts[-1] - held} more detectors than the {held} there are:"
                f" one pass over the sample of {n} images, {(counts[-1] - held) * n * channels * 2 / 1e9:.2f} GB"
            )
        detectors = torch.from_numpy(order[held : counts[-1]].copy())

        def psi() -> Iterable[Tensor]:
            return (_psi(batch, parts, detectors) for batch in _checked(maps(), n, f"{where}: aggregating"))

        sample_blocks.write_blocks(home, held, counts[-1], n, channels, psi, what=where)
    components = _components(parts, home, counts, most_dims, order, n, where)
    return PartModel(parts, name, home, order, n, components)


def _checked(batches: Iterable[Tensor], images: int | None, description: str) -> Iterable[Tensor]:
    row = 0
    with Progress(total=images, desc=description, unit="image", leave=False) as bar:
        for batch in batches:
            check_maps(batch, row)
            row += len(batch)
            bar.update(len(batch))
            yield batch


def _order(
    parts: Parts,
    maps: Callable[[], Iterable[Tensor]],
    home: Path,
    where: str,
    provenance: dict,
    images: int | None,
) -> tuple[np.ndarray, int | None, int]:
    """Return all channels, best first; how many were given, or None; and the images of the sample."""
    path = home / "order.json"
    if file_is_whole(path):
        about = json.loads(path.read_bytes())
        return np.array(about["order"], dtype=np.int64), about["given"], int(about["images"])
    statistics = selection.SumVariance(means=parts.selection == "variance-mean")
    for batch in _checked(maps(), images, f"{where}: channel variance"):
        if not statistics.count:  # before the whole sample has been run
            selection.check_counts(parts.counts, batch.shape[1], where)
        statistics.add(batch)
    if not statistics.count:
        raise Top7Error(f"{where}: the training sample holds no readable image")
    variance = statistics.variance()
    given = None
    if parts.selection in ("variance", "variance-mean"):
        order = selection.by_variance(variance)
    elif parts.selection == "random":
        order = selection.at_random(len(variance), parts.seed)
    else:
        chosen = selection.read_order(Path(parts.selection))
        order, given = selection.given(chosen, len(variance), str(parts.selection))
    about = {
        "name": where,
        "selection": str(parts.selection),
        "seed": parts.seed,
        "images": statistics.count,
        "given": given,
        "provenance": provenance,
    }
    sum_path(path).unlink(missing_ok=True)  # a sum of earlier content would condemn the new
    selection.write_order(path, order, variance, about)
    seal(sum_path(path), [path])
    source = f"the images of {parts.training}"
    if parts.training is None:
        source = "the gallery itself (the paper learns on another set; training = a folder of images does so)"
    log.info(f"{where}: learnt from {statistics.count} images of {source}")
    return order, given, statistics.count


def _components(
    parts: Parts, home: Path, counts: tuple[int, ...], dims: int, order: np.ndarray, n: int, where: str
) -> dict[int, dict[str, np.ndarray]]:
    centred = VARIANTS[parts.variant].centred
    found: dict[int, dict[str, np.ndarray]] = {}
    for count in counts:
        if file_is_whole(path := components_path(home, count, parts.form, centred)):
            entry = load_file(path)
            if dims <= len(entry["offset"]) or len(entry["offset"]) == len(entry["spectrum"]):
                found[count] = entry
    missing = tuple(count for count in counts if count not in found)
    if missing:
        if found:
            log.info(
                f"{where}: components for {', '.join(map(str, missing))} detectors, from the sample on disk"
            )
        opened = sample_blocks.open_blocks(home)
        grams = cumulative_grams(
            missing, parts.form, torch.from_numpy(order), partial(sample_blocks.chunks, opened), n
        )
        for count, products in Progress(
            grams, total=len(missing), desc=f"{where}: PCA", unit="count", leave=False
        ):
            learnt = dual_components(products, centred=centred)
            entry = {
                "spectrum": learnt.eigenvalues,
                "coefficients": np.ascontiguousarray(learnt.coefficients[:, :dims]),
                "offset": np.ascontiguousarray(learnt.offset[:dims]),
                "fourth_moment": np.array([learnt.fourth_moment]),
            }
            path = components_path(home, count, parts.form, centred)
            sum_path(path).unlink(missing_ok=True)
            write_bytes(path, save(entry))
            seal(sum_path(path), [path])
            found[count] = entry
    return {count: _trimmed(found[count], parts, count, dims, n, where) for count in counts}


def _trimmed(
    entry: dict[str, np.ndarray], parts: Parts, count: int, dims: int, n: int, where: str
) -> dict[str, np.ndarray]:
    rank = len(entry["spectrum"])
    if dims > rank:
        raise beyond_rank(where, dims, rank, f"{count} detectors and a sample of {n} images")
    spectrum = entry["spectrum"]
    if VARIANTS[parts.variant].shrunk:
        spectrum = ledoit_wolf(spectrum, float(entry["fourth_moment"][0]), n)
    return {
        "eigenvalues": spectrum[:dims],
        "coefficients": np.ascontiguousarray(entry["coefficients"][:, :dims]),
        "offset": np.ascontiguousarray(entry["offset"][:dims]),
    }


def components_path(home: Path, count: int, form: str, centred: bool) -> Path:
    return home / f"components-N{count}-{form}{'' if centred else '-uncentred'}.safetensors"


@dataclass(frozen=True)
class Remaining:
    """What is still to be learnt.

    passes: over the sample's images; aggregated: detectors whose blocks are lacking; counts: those without components.
    """

    passes: int
    aggregated: int
    counts: int


def remaining(parts: Parts, folder: Path, *, name: str, provenance: dict) -> Remaining:
    """Return what `learn_parts` with the same arguments would still do, by the files that are there."""
    home = model_folder(parts, folder, name, provenance)
    held = max((end for _, end, _ in sample_blocks.block_files(home)), default=0)
    centred = VARIANTS[parts.variant].centred
    lacking = [
        count
        for count in set(parts.counts)
        if not file_is_whole(components_path(home, count, parts.form, centred))
    ]
    aggregated = max(0, max(parts.counts) - held)
    passes = (not file_is_whole(home / "order.json")) + (aggregated > 0)
    return Remaining(passes, aggregated, len(lacking))

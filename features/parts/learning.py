"""Part detectors learnt from a training sample, piece by piece.

Each piece (features/parts/part_model.py says which there are) is computed only if it is missing or damaged, so that a
count asked for later costs what only that count needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from competition.atomic import write_bytes
from competition.configuration import Parts
from competition.errors import Top7Error
from competition.messages import log
from competition.progress import Progress
from features.dumps.part_tables import read_order
from features.dumps.seals import file_is_whole, seal, sum_path
from features.parts import blocks as sample_blocks
from features.parts import selection
from features.parts.aggregation import check_maps
from features.parts.part_model import (
    PartModel,
    components_path,
    held_detectors,
    learnt_components,
    learnt_order,
    model_folder,
    psi_of,
    with_components,
)
from features.parts.projection import cumulative_grams
from features.parts.selection import VARIANTS, beyond_rank, check_parts
from features.whitening import dual_components


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
    order, given, n = learnt_order(home) or _learn_order(parts, maps, home, where, provenance, images)
    selection.check_counts(counts, len(order) if given is None else given, where)
    if most_dims > n:
        raise beyond_rank(where, most_dims, n - VARIANTS[parts.variant].centred, f"a sample of {n} images")
    channels = len(order)
    held = held_detectors(home)
    if held < counts[-1]:
        if held:
            log.info(
                f"{where}: a count of {counts[-1]} needs {counts[-1] - held} more detectors than the {held} there are:"
                f" one pass over the sample of {n} images, {(counts[-1] - held) * n * channels * 2 / 1e9:.2f} GB"
            )
        detectors = torch.from_numpy(order[held : counts[-1]].copy())

        def psi() -> Iterable[Tensor]:
            return (psi_of(batch, parts, detectors) for batch in _checked(maps(), n, f"{where}: aggregating"))

        sample_blocks.write_blocks(home, held, counts[-1], n, channels, psi, what=where)
    if (model := with_components(parts, name, home, order, n)) is None:
        _learn_components(parts, home, counts, order, n, where)
        model = with_components(parts, name, home, order, n)
    if model is None:
        raise Top7Error(f"{home}: just written and damaged already: check the disk")
    return model


def _checked(batches: Iterable[Tensor], images: int | None, description: str) -> Iterable[Tensor]:
    row = 0
    with Progress(total=images, desc=description, unit="image", leave=False) as bar:
        for batch in batches:
            check_maps(batch, row)
            row += len(batch)
            bar.update(len(batch))
            yield batch


def _learn_order(
    parts: Parts,
    maps: Callable[[], Iterable[Tensor]],
    home: Path,
    where: str,
    provenance: dict,
    images: int | None,
) -> tuple[np.ndarray, int | None, int]:
    """Rank the channels by one pass over the sample; return what `learnt_order` does."""
    path = home / "order.json"
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
        chosen = read_order(Path(parts.selection))
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


def _learn_components(
    parts: Parts, home: Path, counts: tuple[int, ...], order: np.ndarray, n: int, where: str
) -> None:
    """Learn the components of every count that lacks them, from the sample's blocks."""
    missing = tuple(count for count in counts if learnt_components(parts, home, count) is None)
    if missing != counts:
        log.info(f"{where}: components for {', '.join(map(str, missing))} detectors, from the sample on disk")
    opened, dims = sample_blocks.open_blocks(home), max(parts.dims)
    chunks = partial(sample_blocks.chunks, opened)
    grams = cumulative_grams(missing, parts.form, torch.from_numpy(order), chunks, n)
    label = f"{where}: PCA"
    for count, products in Progress(grams, total=len(missing), desc=label, unit="count", leave=False):
        learnt = dual_components(products, centred=VARIANTS[parts.variant].centred)
        entry = {
            "spectrum": learnt.eigenvalues,
            "coefficients": np.ascontiguousarray(learnt.coefficients[:, :dims]),
            "offset": np.ascontiguousarray(learnt.offset[:dims]),
            "fourth_moment": np.array([learnt.fourth_moment]),
        }
        path = components_path(home, count, parts)
        sum_path(path).unlink(missing_ok=True)
        write_bytes(path, save(entry))
        seal(sum_path(path), [path])


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
    lacking = [count for count in set(parts.counts) if not file_is_whole(components_path(home, count, parts))]
    aggregated = max(0, max(parts.counts) - held_detectors(home))
    passes = (not file_is_whole(home / "order.json")) + (aggregated > 0)
    return Remaining(passes, aggregated, len(lacking))

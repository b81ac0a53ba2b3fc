"""top7 from Python: what is public, composed of what the commands run. `./run.sh COMMAND` does the same from a shell.

Messages go through the logger "top7": `logging.basicConfig(level="INFO")` shows them all, without it only warnings appear.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from competition import leaderboard
from competition.configuration import Configuration, Parts, load_configuration
from competition.errors import ConfigurationError, Top7Error
from features.components import Component
from features.dumps import Dump
from features.parts import PartModel, learn_parts
from features.pooling import pool_maps, unit_descriptors
from features.search.similarity import UNIT_NORM, check_components
from features.whitening import unit_rows
from tuning.certificate import certify as branch_and_bound
from tuning.combination import Combination, make_combination

if TYPE_CHECKING:
    import pandas

    from features.extraction import ExtractionReport
    from tuning.tuned import Tuned

__all__ = [
    "Certified",
    "ConfigurationError",
    "PartDetectors",
    "Run",
    "Top7Error",
    "candidates",
    "certify",
    "load",
    "pool",
]


def pool(maps: Tensor | np.ndarray, name: str = "fcrow") -> Tensor:
    """Return the descriptors (B, C) float32, L2-normalised, of maps (B, C, H, W) under one pooling, as dumps hold them.

    >>> maps = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]], [[4.0, 4.0], [0.0, 0.0]]]])
    >>> pool(maps, "mac")
    tensor([[0.4472, 0.8944]])
    """
    return unit_descriptors(pool_maps(_maps(maps), (name,))[name])[0]


class PartDetectors:
    """Part-based weighting aggregation (PWA): `count` detectors learnt from maps, whitened to `dim` dimensions.

    Learning takes more than `dim` images. exponent: of the whitening, 0 none, 1 full; options: other keys of a
    `parts` table, such as selection = "random" or variant = "ledoit-wolf". What is learnt lies in a temporary folder.

    >>> maps = torch.rand(20, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> PartDetectors(count=4, dim=5).fit(maps)(maps[:2]).shape
    torch.Size([2, 5])
    """

    def __init__(self, count: int = 50, dim: int = 256, exponent: float = 1.0, **options) -> None:
        self.count, self.dim, self.exponent, self.options = count, dim, exponent, options
        self.model: PartModel | None = None

    def fit(self, maps: Tensor | np.ndarray) -> PartDetectors:
        """Learn detectors and whitening from maps (B, C, H, W) without negative values; returns itself."""
        sample = _maps(maps)
        parts = Parts(
            "maps",
            (self.count,),
            (self.dim,),
            (self.exponent,),
            training_images=len(sample),
            training=Path("the maps given"),
            **self.options,
        )
        self._folder = tempfile.TemporaryDirectory(prefix="top7-parts-")
        self.model = learn_parts(
            parts, lambda: sample.split(64), Path(self._folder.name), name="PartDetectors", provenance={}
        )
        return self

    def __call__(self, maps: Tensor | np.ndarray) -> Tensor:
        """Return the descriptors (B, dim) float32, L2-normalised, of maps (B, C, H, W)."""
        if self.model is None:
            raise Top7Error("these part detectors have learnt nothing yet: call fit(maps) first")
        projected, _ = unit_descriptors(self.model.project(_maps(maps))[self.count])
        scales = self.model.scales(self.count, self.dim, self.exponent)
        return torch.from_numpy(unit_rows(projected[:, : self.dim].cpu().numpy() * scales)[0])


def candidates(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    relevant: Sequence[Sequence[int]],
    k: int = 7,
    region: str = "simplex",
) -> Combination:
    """Return the few gallery rows that can reach a top k under any weights of the region, ready for exact evaluation.

    queries, gallery: one array of L2-normalised rows a component; relevant: the correct gallery rows of each query;
    region: "simplex" allows all weights of sum 1, "similarity" and "distance" order the components, shallow to deep (eq. 3
    of Wang et al.). What comes back takes weights: `.average_precisions(weights)` is AP@k of every query.

    >>> gallery = [np.eye(8), np.eye(8)[::-1].copy()]
    >>> found = candidates([gallery[0][:2], gallery[1][:2]], gallery, [[0], [6]], k=1)
    >>> found.average_precisions(np.array([1.0, 0.0]))
    array([1., 0.])
    """
    queries, gallery = [np.asarray(rows) for rows in queries], [np.asarray(rows) for rows in gallery]
    check_components(queries, gallery)
    names = [f"component {number}" for number in range(len(queries))]
    wanted = [np.unique(np.asarray(rows, dtype=np.int64)) for rows in relevant]
    total = len(gallery[0])
    if len(wanted) != len(queries[0]) or any(
        len(rows) and not 0 <= rows[0] <= rows[-1] < total for rows in wanted
    ):
        raise Top7Error(
            f"relevant names the correct rows of {len(wanted)} queries: expected {len(queries[0])} lists of rows from 0 to "
            f"{total - 1}"
        )
    return make_combination(
        [Component(name, "all") for name in names],
        [_dump(name, rows) for name, rows in zip(names, queries, strict=True)],
        [_dump(name, rows) for name, rows in zip(names, gallery, strict=True)],
        wanted,
        np.ones(len(wanted), dtype=bool),
        k,
        region,
        None,
    )


class Certified(NamedTuple):
    """The best weights found, their MAP@k, and the bound that no weights of the region exceed."""

    weights: np.ndarray
    map: float
    bound: float


def certify(found: Combination, seconds: float = 10) -> Certified:
    """Search the region for the best weights by branch and bound; where bound equals map they are proven best."""
    if found.padded is None:
        raise Top7Error(
            "the region keeps too many candidates for a certificate: give fewer components, or region='similarity'"
        )
    best = branch_and_bound([found.padded], [found.corners], seconds)
    return Certified(found.weights(best.coordinates), best.best, best.bound)


@dataclass(frozen=True)
class Run:
    """A configuration and what its commands do; results lie in its work folder, as those of the command line."""

    configuration: Configuration

    def extract(self, **options) -> ExtractionReport:
        """Fill the dumps that are missing; options: those of `features.extraction.extract`, such as limit or jobs."""
        from features.extraction import extract

        return extract(self.configuration, **options)

    def tune(self, trials: int | None = None, **options) -> Tuned:
        """Run the study until it holds `trials`, and score the named recipes; options: those of `tuning.tune.tune`."""
        from tuning.evaluating import score_named
        from tuning.tune import tune

        tuned = tune(self.configuration, trials=trials, **options)
        score_named(self.configuration)
        return tuned

    def submit(self, split: str = "test", recipe: str | Path | None = None, out: Path | None = None) -> Path:
        """Write the submission of a recipe, by default the one with the best validated figure; returns its file."""
        from features.recipes.kept import find_recipe
        from submissions.submitting import submit

        named = None if recipe is None else str(recipe)
        written = submit(self.configuration, find_recipe(self.configuration, named), split, out)
        return Path(written["file"])

    def leaderboard(self) -> pandas.DataFrame:
        """Return every submission with its local and official figures, one a row."""
        return leaderboard.frame(leaderboard.read_rows(self.configuration.competition.work))


def load(path: str | Path | None = None, work: str | Path | None = None) -> Run:
    """Return the run of a configuration file, without one that of the embedded competition; work: where results go."""
    if path is not None:
        return Run(load_configuration(path, work=work))
    from submissions.outcome import MINI_WORK, mini_configuration

    return Run(mini_configuration(Path(work or MINI_WORK)))


def _maps(maps: Tensor | np.ndarray) -> Tensor:
    found = torch.as_tensor(maps).detach().float()
    if found.ndim != 4:
        raise Top7Error(f"maps of shape {tuple(found.shape)}: expected (images, channels, height, width)")
    return found


def _dump(name: str, rows: np.ndarray) -> Dump:
    """Unit rows in memory as what a study reads; zero rows are images that could not be read."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    off = (norms != 0) & ~(np.abs(norms - 1) < UNIT_NORM - 1)
    if off.any():
        row = int(off.argmax())
        raise Top7Error(f"{name}: row {row} has the norm {norms[row]:.4g}: expected L2-normalised rows")
    return Dump(Path(name), tuple(map(str, range(len(rows)))), rows, norms, norms == 0, {}, {})

"""One combination of discrete choices: its S, its region's vertices and its lossless candidates.

It is made by one pass over the gallery's dumps and kept under work/candidates, by a digest of the dumps, the
queries, the region and the cut-off. A trial afterwards touches neither dumps nor gallery.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from competition import atomic
from competition.configuration import Configuration
from competition.messages import log
from competition.metrics import query_figures
from features.components import Component
from features.descriptors import gallery_ids, open_components
from features.dumps import Dump, budget, column_sum, seals
from features.dumps.derived import digest_of
from features.ranked_lists import rank_dumps
from features.ranking.state import dump_identity
from tuning.candidates import Candidates, candidate_limit, excluded_rows, pass_over_gallery
from tuning.labelled import Labelled
from tuning.objective import PaddedCandidates, pad_candidates
from tuning.objective import average_precisions as padded_precisions
from tuning.region import layer_sums, region_chains, vertices

FORMAT = 1
Ranking = Callable[[np.ndarray], np.ndarray]  # weights (L,) -> AP@k of every query, of the whole gallery


@dataclass(frozen=True)
class Combination:
    """What a study needs of one combination of choices.

    mean_similarity: (L,) mean cosine over public queries and gallery; sums: S_l as the region reads it;
    corners: (J, L) vertices, (J, 1) where steps joined the components; padded: candidates of all labelled
    queries. It is None where there are none, and `ranking` ranks the whole gallery at each trial; made_s: what making
    it took.
    """

    components: tuple[Component, ...]
    mean_similarity: np.ndarray
    sums: np.ndarray
    chains: tuple[str, ...]
    corners: np.ndarray
    padded: PaddedCandidates | None = None
    ranking: Ranking | None = None
    mean_candidates: float = 0.0
    made_s: float = 0.0

    def weights(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the weights of barycentric coordinates (J,): one for each component, exactly 1 for a single one."""
        return np.ones(1) if len(self.components) == 1 else coordinates @ self.corners

    def average_precisions(self, weights: np.ndarray) -> np.ndarray:
        """Return AP@k of every labelled query under `weights`, (Q,) float64; exact."""
        if self.padded is not None:
            return padded_precisions(self.padded, weights)
        assert self.ranking is not None
        return self.ranking(weights)


def in_region(components: Sequence[Component], mean_similarity: np.ndarray, region: str) -> Combination:
    """Return the combination of components with their mean similarities (L,) in a region, without its candidates."""
    chains = region_chains([component.chain for component in components], region)
    sums = layer_sums(mean_similarity, region)
    corners = vertices(sums, chains, [component.name for component in components])
    return Combination(tuple(components), mean_similarity, sums, chains, corners)


def mean_similarities(queries: Sequence[Dump], gallery: Sequence[Dump], public: np.ndarray) -> np.ndarray:
    """Return the mean cosine of each component over the public queries and the gallery: S_l / (Q n), (L,) float64."""
    no_query, no_row = excluded_rows(queries), excluded_rows(gallery)
    used = public & ~no_query
    n_pairs = max(1, int(used.sum())) * max(1, int((~no_row).sum()))
    sums = [column_sum(q.descriptors, ~used) @ g.column_sum(no_row) for q, g in zip(queries, gallery)]
    return np.array(sums, dtype=np.float64) / n_pairs


def make_combination(
    components: Sequence[Component],
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    relevant: Sequence[np.ndarray],
    public: np.ndarray,
    k: int,
    region: str,
    folder: Path | None,
    metric: str = "map",
) -> Combination:
    """Return the combination of `components`, read from `folder` where it is kept, else made and kept there.

    queries, gallery: one dump a component; relevant: gallery rows per query; public: (Q,) bool, the queries
    whose similarities make S (no label enters). A message tells where the region prunes badly.
    """
    path = kept = None
    if folder is not None:
        described = {
            "format": FORMAT,
            "k": k,
            "region": region,
            "limit": candidate_limit(len(gallery[0].ids)),
            "public": np.flatnonzero(public).tolist(),
            "components": [[component.name, component.chain] for component in components],
            "dumps": [dump_identity(dump) for dump in [*queries, *gallery]],
            "relevant": [np.asarray(rows).tolist() for rows in relevant],
        }
        path = Path(folder) / f"{digest_of(described)}.npz"
        kept = _load(path)
    mean_similarity = mean_similarities(queries, gallery, public) if kept is None else kept[0]
    made = in_region(components, mean_similarity, region)
    if kept is not None:
        candidates = kept[1]
    else:
        candidates = pass_over_gallery(queries, gallery, made.corners, made.chains, k, relevant)
        if path is not None:
            _save(path, mean_similarity, candidates)
    if candidates is not None:
        count = float(np.mean([len(rows) for rows in candidates.rows])) if candidates.rows else 0.0
        return replace(made, padded=pad_candidates(candidates, relevant, k, metric), mean_candidates=count)
    log.info(
        f"the region prunes badly here ({len(components)} components, {region}): each trial ranks the whole gallery"
    )

    def ranking(weights: np.ndarray) -> np.ndarray:
        return query_figures(rank_dumps(queries, gallery, weights, (), k)[0], relevant, k, metric)

    return replace(made, ranking=ranking, mean_candidates=float(len(gallery[0].ids)))


def open_combination(
    configuration: Configuration,
    components: Sequence[Component],
    labelled: Labelled,
    region: str,
    folder: Path | None = None,
) -> Combination:
    """Return the combination of components over labelled validation queries, from their dumps (see `make_combination`)."""
    queries = open_components(configuration, components, "validation", labelled.query_ids)
    gallery = open_components(configuration, components, "gallery", gallery_ids(configuration))
    asked, competition = (labelled.relevant, labelled.public), configuration.competition
    k, metric = competition.top_k, competition.metric
    return make_combination(components, queries, gallery, *asked, k, region, folder, metric)


def _save(path: Path, mean_similarity: np.ndarray, candidates: Candidates | None) -> None:
    arrays: dict[str, Any] = {"mean_similarity": mean_similarity}
    if candidates is not None:
        arrays["counts"] = np.array([len(rows) for rows in candidates.rows], dtype=np.int64)
        arrays["rows"] = np.concatenate(candidates.rows)
        arrays["similarities"] = np.concatenate(candidates.similarities)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    budget.make_room(stream.tell())
    path.with_suffix(".json").unlink(missing_ok=True)
    atomic.write_bytes(path, stream.getvalue())
    seals.seal(path.with_suffix(".json"), [path], format=FORMAT)


def _load(path: Path) -> tuple[np.ndarray, Candidates | None] | None:
    if seals.intact(path.with_suffix(".json")) is None:
        return None
    seals.touch(path.with_suffix(".json"))
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = dict(opened)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # removed meanwhile, or too large to be compared with its sum; it can be made again
    if "counts" not in arrays:
        return arrays["mean_similarity"], None
    ends = np.cumsum(arrays["counts"])[:-1]
    split = [tuple(np.split(arrays[name], ends)) for name in ("rows", "similarities")]
    return arrays["mean_similarity"], Candidates(*split)

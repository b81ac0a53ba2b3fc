"""The step approximate: the last search through an index, whose recall is measured every time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar

import numpy as np

from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from features.ranking.arguments import Seed, one_of, whole
from features.ranking.state import State
from features.ranking.steps.step import Step
from features.search.exact_search import rescored
from features.search.faiss_builders import without_notes
from features.search.faiss_indexes import PARAMETERS, Index, build_index, check_parameters
from features.search.row_views import concatenated

SAMPLED_QUERIES = 100  # compared with the exact list, to measure recall
Count = Annotated[int, whole(1)]


class Approximate(Step, frozen=True):
    """The last search through a faiss index (hnsw, ivfpq or ivf_ondisk) of the present descriptors.

    The index, built once under the state's folder, proposes `candidates` images a query, which are scored and ordered
    as by the exact search; at most `checked` queries are searched exactly as well, and the recall is printed. Earlier
    searches (an expansion's) stay exact. links to threads: see `features.search.faiss_indexes.default_parameters`.
    """

    makes_lists: ClassVar[bool] = True
    index: Annotated[str, one_of("kind of index", PARAMETERS)]
    candidates: Count = 100
    checked: Count = SAMPLED_QUERIES
    seed: Seed = 0
    links: Annotated[int, whole(2)] | None = None
    construction: Count | None = None
    breadth: Count | None = None
    lists: Count | None = None
    probes: Count | None = None
    training: Count | None = None
    code_bytes: Count | None = None
    threads: Count | None = None

    @property
    def parameters(self) -> dict[str, int]:
        """What of the index is written."""
        named = {name: getattr(self, name) for kind in PARAMETERS.values() for name in kind}
        return {name: value for name, value in named.items() if value is not None}

    def fault(self) -> str | None:
        try:
            check_parameters(self.index, self.parameters)
        except ConfigurationError as error:
            return f"cannot be: {error}"
        return None

    def __call__(self, state: State) -> State:
        used = state.of(np.flatnonzero(state.weights).tolist(), state.weights[state.weights != 0])
        with nullcontext(state.folder) if state.folder else TemporaryDirectory(prefix="top7-") as folder:
            built = build_index(
                used.gallery,
                used.weights,
                self.index,
                Path(folder),
                excluded=used.excluded,
                identity=used.identity,
                seed=self.seed,
                progress=used.progress,
                **self.parameters,
            )
            ranks, scores, _ = approximate_search(built, used, self.candidates, self.checked, self.seed)
        return replace(state, ranks=ranks, scores=scores)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of the exact lists (Q, k) that the found ones (Q, k) hold; -1 counts nowhere."""
    hits = (found[:, :, None] == exact[:, None, :]).any(axis=1) & (exact >= 0)
    return float(hits.sum() / max(1, np.sum(exact >= 0)))


def approximate_search(
    index: Index, state: State, candidates: int = 100, sample: int = SAMPLED_QUERIES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return ranks (Q, k), canonical scores (Q, k) and the recall of the lists against the exact ones.

    The index proposes `candidates` images a query, which are rescored by the canonical score, ties to the lower row;
    `sample` queries, drawn with `seed`, are searched exactly as well, and the recall@k is printed on stderr. A query
    that is zero gets the first rows, and one for which the index finds fewer than k images is searched exactly (and
    a message says so). A query's list does not depend on the other queries.
    """
    queries, weights, k = state.queries, state.weights, state.k
    found = _proposed(index, queries, weights, min(max(candidates, k), len(index.rows)))
    proposed = np.where(found >= 0, index.rows[np.maximum(found, 0)], -1)
    ranks, scores = rescored(queries, state.gallery, weights, proposed, k)

    def exact(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        some = replace(state, queries=tuple(part[chosen] for part in queries), progress=False)
        return some.searched(weights, k)

    zero = np.all([~q.any(axis=1) for q in queries], axis=0)
    short = ~zero & (np.sum(ranks >= 0, axis=1) < min(k, len(index.rows)))
    if (zero | short).any():
        ranks[zero | short], scores[zero | short] = exact(zero | short)
    checked = np.sort(np.random.default_rng(seed).permutation(len(ranks))[:sample])
    share = recall(ranks[checked], exact(checked)[0])
    said = f"recall@{k} {share:.4f} against the exact lists of {len(checked)} of {len(ranks)} queries"
    if short.any():
        said += f"; it found fewer than {k} images for {short.sum()} queries, which were searched exactly"
    log.info(f"top7: approximate search ({index.kind}): {said}")
    return ranks, scores, share


def _proposed(index: Index, queries: Sequence[np.ndarray], weights: np.ndarray, count: int) -> np.ndarray:
    """Return the entries (Q, count) of the index nearest to each query, -1 for missing."""
    import faiss

    flags = faiss.IO_FLAG_MMAP_IFC  # a graph's vectors stay on the disk
    if index.kind != "hnsw":  # the folder may have moved, and may be read-only
        flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
    try:
        with without_notes():
            loaded: Any = faiss.read_index(str(index.path), flags)
    except RuntimeError as error:
        raise Top7Error(
            f"{index.path}: not a readable index ({str(error).splitlines()[0][:120]}): remove it with its "
            ".json beside it and build it again"
        ) from None
    if index.kind == "hnsw":
        loaded.hnsw.efSearch = max(index.parameters["breadth"], count)
    else:
        loaded.nprobe = index.parameters["probes"]
    fused = np.ascontiguousarray(np.asarray(concatenated(queries, weights)), dtype=np.float32)
    kept = faiss.cvar.distance_compute_blas_threshold
    # a product of many queries has other bits than of one
    faiss.cvar.distance_compute_blas_threshold = 2**31 - 1
    try:
        return loaded.search(fused, count)[1]
    finally:
        faiss.cvar.distance_compute_blas_threshold = kept

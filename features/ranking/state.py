"""What a recipe's steps pass on: descriptors, weights and lists, never changed in place."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from competition.errors import Top7Error
from features.dumps import Dump, beside
from features.dumps.derived import content_digest, derived, digest_of
from features.search.exact_search import search
from features.search.neighbour_graph import neighbour_graph
from features.search.row_views import RowView

Rows = Sequence[np.ndarray]


@dataclass(frozen=True)
class Photos:
    """Photos of gallery images: steps learn from them what a photo changes.

    rows: L arrays (V, D_l), a zero row is an unreadable photo; pairs (P, 2) int64: a photo and the gallery row of what
    it shows; real (P,) bool: the photo is a labelled query, otherwise it was simulated; users: L arrays (U, D_l), the
    user photos there are, labelled or not; identity: a text that changes with any of them, for the files of what is
    learnt.
    """

    rows: tuple[np.ndarray, ...]
    pairs: np.ndarray
    real: np.ndarray
    identity: str
    users: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class State:
    """What a step gets and returns. L components of Q queries and n gallery images.

    groups (L,): which entry of the recipe's components each stems from; identity (L,): texts that say which rows the
    gallery's are, for the files of what is computed from them; excluded (n,): rows never ranked; k: the length of the
    lists; unit: rows are L2-normalised for certain, as dumps are; norms: those before L2 (None: not known); folder:
    where graphs and changed galleries are kept (None: in memory); photos: to learn from, described as the queries are
    (None: none); many: many settings of the steps are tried, so that what they share is kept; held: the galleries that
    steps make stay in memory; simulated: so many of the last queries are no photos of users; ranks, scores (Q, any):
    present lists.
    """

    queries: tuple[np.ndarray, ...]
    gallery: tuple[np.ndarray, ...]
    weights: np.ndarray
    groups: tuple[int, ...]
    identity: tuple[str, ...]
    excluded: np.ndarray
    k: int
    unit: bool = False
    query_norms: tuple[np.ndarray, ...] | None = None
    gallery_norms: tuple[np.ndarray, ...] | None = None
    folder: Path | None = None
    progress: bool = False
    photos: Photos | None = None
    many: bool = False
    held: bool = False
    simulated: int = 0
    ranks: np.ndarray | None = None
    scores: np.ndarray | None = None

    @property
    def rows_folder(self) -> Path | None:
        """Where the galleries that steps make are kept."""
        return None if self.held else self.folder

    def lists(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best rows of each query by the present descriptors, or the present lists if long enough."""
        if self.ranks is not None and self.scores is not None and self.ranks.shape[1] >= k:
            return self.ranks[:, :k], self.scores[:, :k]
        return self.searched(self.weights, k)

    def searched(self, weights: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best rows of each query by the present descriptors under `weights` (L,)."""
        return search(
            self.queries,
            self.gallery,
            weights,
            k,
            excluded=self.excluded,
            unit=self.unit,
            progress=self.progress,
        )

    def graph(self, neighbours: int, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the gallery's neighbour graph by the present descriptors, see `neighbour_graph`.

        Components of weight 0 take no part, not even in the name of its file.
        """
        weights = self.weights if weights is None else weights
        used = self.of(np.flatnonzero(weights).tolist(), weights[weights != 0])
        return neighbour_graph(
            used.gallery,
            used.weights,
            neighbours,
            excluded=used.excluded,
            folder=used.folder,
            identity=used.identity,
            unit=used.unit,
            progress=used.progress,
        )

    def of(self, used: Sequence[int], weights: np.ndarray) -> State:
        """Return the state of the components `used` alone, with weights (len(used),)."""

        def taken(parts: Any) -> Any:
            return tuple(parts[number] for number in used) if parts else parts

        parts = ("queries", "gallery", "groups", "identity", "query_norms", "gallery_norms")
        photos = self.photos and replace(
            self.photos, rows=taken(self.photos.rows), users=taken(self.photos.users)
        )
        more = {name: taken(getattr(self, name)) for name in parts}
        return replace(self, weights=np.asarray(weights, dtype=np.float64), photos=photos, **more)

    def changed(self, **values: Any) -> State:
        """Return this state with other descriptors: lists and norms before L2 are no longer theirs."""
        gone = dict.fromkeys(("ranks", "scores", "query_norms", "gallery_norms"))
        return replace(self, **{**gone, **values})

    def asked(
        self, function: Callable[[Rows], Rows], simulated: Callable[[Rows], Rows] | None = None
    ) -> dict[str, Any]:
        """Return queries and photos after a function of L arrays of rows, as arguments of `changed`.

        simulated: the function of simulated photos, where it is another than that of user photos.
        """
        queries = function(self.queries)
        if simulated is not None and self.simulated:
            real = len(self.queries[0]) - self.simulated
            users = function([part[:real] for part in self.queries])
            made = simulated([part[real:] for part in self.queries])
            queries = [np.concatenate(both) for both in zip(users, made)]
        photos = self.photos and replace(
            self.photos,
            rows=tuple((simulated or function)(self.photos.rows)),
            users=tuple(function(self.photos.users)) if self.photos.users else (),
        )
        return {"queries": tuple(map(np.asarray, queries)), "photos": photos}

    def identity_after(self, step: str, **arguments: Any) -> tuple[str, ...]:
        """Return the components' texts after a step with these arguments."""
        excluded = np.flatnonzero(self.excluded).tolist()
        return tuple(f"{step}-{digest_of([step, arguments, own, excluded])}" for own in self.identity)

    def kept_rows(
        self,
        label: str,
        name: str,
        part: np.ndarray,
        width: int,
        compute: Callable[[int, int], np.ndarray],
        dtype: str = "float32",
    ) -> np.ndarray:
        """Return a gallery (n, width) made of that of `part` block by block, kept under `name`, or in memory."""
        return derived(
            self.rows_folder,
            label,
            {"of": name},
            len(part),
            {"rows": (width, dtype)},
            lambda *rows: [compute(*rows)],
            progress=self.progress,
        )["rows"]

    def written_out(self) -> State:
        """Return the state with galleries that are computed as they are read (RowView) kept as files, same values."""
        gallery = [
            self.kept_rows(
                "rows", name, part, part.shape[1], lambda a, b, part=part: part[a:b], part.dtype.name
            )
            if isinstance(part, RowView)
            else part
            for name, part in zip(self.identity, self.gallery)
        ]
        return replace(self, gallery=tuple(gallery))


def dump_identity(dump: Dump) -> str:
    """Return a text that changes with a dump's recipe and with any of its rows: its name and a digest of the row sums."""
    sums = beside(dump.path, ".sums.npy")
    if sums.exists():
        return f"{dump.path.stem}-{hashlib.sha256(sums.read_bytes()).hexdigest()[:12]}"
    return f"{dump.path.stem}-{content_digest(dump.descriptors)}"


def start(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    groups: Sequence[int] | None = None,
    folder: Path | None = None,
    left_out: np.ndarray | None = None,
    **more: Any,
) -> State:
    """Return what a recipe's first step gets, of a dump for each component, in order.

    weights (L,); k: length of the lists; groups (L,): for steps with weights of their own, the entry of the recipe each
    component stems from (default: each its own); folder: where neighbour graphs and changed galleries are kept
    (`<work>/ranking`); left_out (n,) bool: gallery rows never listed, beside unreadable ones; more: see `State`.
    """
    excluded = np.logical_or.reduce([dump.unreadable for dump in gallery])
    return State(
        tuple(dump.descriptors for dump in queries),
        tuple(dump.descriptors for dump in gallery),
        np.asarray(weights, dtype=np.float64),
        tuple(range(len(gallery)) if groups is None else groups),
        tuple(dump_identity(dump) if folder else "" for dump in gallery),
        excluded if left_out is None else excluded | left_out,
        k,
        query_norms=tuple(dump.norms for dump in queries),
        gallery_norms=tuple(dump.norms for dump in gallery),
        unit=True,
        folder=folder,
        **more,
    )


def spread(weights: Sequence[float], groups: Sequence[int]) -> np.ndarray:
    """Return a weight for each component: its group's, shared equally within the group, of sum 1 over all."""
    numbers = np.asarray(groups)
    if len(numbers) and numbers.max() >= len(weights):
        raise Top7Error(
            f"{len(weights)} weights for {numbers.max() + 1} entries of components: give one each"
        )
    if len(numbers) == 1:
        return np.ones(1)  # all joined in one
    sizes = np.bincount(numbers, minlength=len(weights))
    shares = np.asarray(weights, dtype=np.float64)[numbers] / sizes[numbers]
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise Top7Error(
            f"weights {list(weights)}: expected numbers >= 0, one of them above 0 with a component there is"
        )
    return shares / math.fsum(shares)  # exact: a component of weight 0 more or less changes no bit

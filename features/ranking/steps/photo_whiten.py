"""The step photo_whiten: what photos change is learnt from photos of gallery images, and made little of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from threadpoolctl import threadpool_limits

from competition.errors import ConfigurationError, Top7Error
from features.dumps.derived import digest_of
from features.ranking.arguments import Flag, Seed, number, whole
from features.ranking.principal_axes import (
    STATISTICS_ROWS,
    PrincipalAxes,
    Projection,
    kept_axes,
    principal_axes,
    project_components,
)
from features.ranking.state import Photos, State
from features.ranking.steps.concatenate import joined
from features.ranking.steps.step import Step
from features.search.row_views import RowView, float64_rows
from features.whitening import inverse_root, within_scatter

PRIOR_PHOTOS = 10  # user photos: as many count half
PRIOR_QUERIES = 25  # labelled queries: as many count half


class PhotoWhiten(Step, frozen=True):
    """Whitening that makes little of what a photo changes, then PCA to at most `dim` dimensions, then L2.

    x -> L2((x - mean) S^(-1/2) V), S the scatter of photo minus gallery image, shrunk by `shrinkage` towards its mean
    eigenvalue, V the principal axes of the gallery there: learned whitening, Mikolajczyk and Matas (ICCV 2007);
    Radenović et al. (TPAMI 2018), section 3.3. Photos are the simulated ones of the teaching half, with all_photos of
    both wherever no simulated photo is ranked; `pairs`: the share
    in S of the real pairs, labelled public queries and their correct images, less where there are few, see
    PRIOR_QUERIES (1: these alone, as cirtorch's `whitenlearn`, but centred by the gallery's mean; then at least as
    many pairs as dimensions). unlabelled: above 0, the user photos there are (validation and test queries; no label
    enters) teach too: queries are centred by their mean in place of the gallery's, and so much of S is theirs about
    that mean; both less where they are few, see PRIOR_PHOTOS. joint: one projection of all components concatenated,
    of equal weights whatever the recipe's, to one component; otherwise one for each. learnt: in a bundle, the
    identity of the photos, which stay behind.
    """

    tunable: ClassVar = {
        "dim": (128, 256, 512),
        "shrinkage": (0.05, 0.1, 0.2, 0.3),
        "exponent": (0.0, 0.5),
        "joint": (False, True),
    }
    centres: ClassVar[bool] = True
    keeps_files: ClassVar[bool] = True
    needs_photos: ClassVar[bool] = True
    dim: Annotated[int, whole(1)]
    shrinkage: Annotated[float, number(0, 1)] = 0.2
    exponent: Annotated[float, number(0, 4)] = 0.0
    joint: Flag = False
    pairs: Annotated[float, number(0, 1)] = 0.0
    unlabelled: Annotated[float, number(0, 1)] = 0.0
    all_photos: Flag = False
    samples: Annotated[int, whole(2)] = 20_000
    seed: Seed = 0
    learnt: Annotated[str | None, Meta(description="a text")] = None

    @property
    def independent(self) -> bool:
        return True

    @property
    def joins(self) -> bool:
        return self.joint

    def __call__(self, state: State) -> State:
        if self.joint and len(state.gallery) > 1:
            equal = np.full(len(state.gallery), 1.0 / len(state.gallery))
            state = joined(state, equal, f"joined-{digest_of(state.identity)}")
        learnt = self.learnt if self.learnt is not None else self._photos(state).identity
        taught: dict[str, Any] = dict(pairs=self.pairs, unlabelled=self.unlabelled, photos=learnt)
        if 0 < self.pairs < 1:
            taught["prior"] = PRIOR_QUERIES
        sample: dict[str, Any] = dict(samples=self.samples, seed=self.seed)
        of_axes: dict[str, Any] = dict(shrinkage=self.shrinkage, **sample, **taught)
        names = state.identity_after("photo_whiten", dim=self.dim, exponent=self.exponent, **of_axes)
        shared = state.identity_after("photo_axes", **of_axes)
        readable = int(np.sum(~state.excluded))

        def learn(place: int) -> Projection:
            rows, count = state.gallery[place], min(self.samples, readable)

            def axes() -> tuple[dict[str, np.ndarray], PrincipalAxes]:
                """What all settings of dimension and exponent share."""
                scatter, of = self._scatter(state, place), dict(excluded=state.excluded, **sample)
                inverse, found = photo_axes(rows, scatter, self.shrinkage, **of)
                return {"inverse": inverse}, found

            more, own = kept_axes(state, shared[place], rows, axes, count=count, more=("inverse",))
            found = through(np.asarray(more["inverse"]), own, self.dim, self.exponent)
            users = self._users(state, place)
            if not len(users):
                return found
            # the mean of user photos, drawn to the gallery's as by PRIOR_PHOTOS photos of that mean
            centre = (users.sum(axis=0) + PRIOR_PHOTOS * found.mean) / (len(users) + PRIOR_PHOTOS)
            return replace(found, query_mean=centre)

        return project_components(state, names, self.dim, [readable] * len(names), learn)

    def _photos(self, state: State) -> Photos:
        """The photos; ConfigurationError unless there are those that `pairs` asks for, and enough of them."""
        if state.photos is None or self.pairs < 1 and state.photos.real.all():
            raise ConfigurationError(
                "photo_whiten learns from simulated photos, and there are none: add [simulate] to the configuration and "
                "run ./run.sh extract"
            )
        found = int(state.photos.real.sum())
        needed = max(part.shape[1] for part in state.gallery)
        if self.pairs == 1 and found < needed:
            raise ConfigurationError(
                f"photo_whiten with pairs = {self.pairs:g} needs at least {needed} pairs of a labelled public query and "
                f"a correct image, there are {found}: take a smaller share with simulated photos beside them, or none "
                "(pairs = 0)"
            )
        return state.photos

    def _scatter(self, state: State, place: int) -> np.ndarray:
        """The scatter (D, D) of what photos change in one component.

        Real pairs make up `pairs` n / (n + PRIOR_QUERIES) of it, n the labelled queries; 1 stays 1.
        """
        photos = self._photos(state)
        scatter: Any = 0.0
        n_queries = len(np.unique(photos.pairs[photos.real, 0]))
        taught = self.pairs if self.pairs == 1 else self.pairs * n_queries / (n_queries + PRIOR_QUERIES)
        for real, share in ((False, 1.0 - taught), (True, taught)):
            if share:
                scatter = scatter + share * _photo_scatter(state, photos, place, real)
        if not np.trace(scatter) > 0:
            raise Top7Error(
                "photo_whiten: the photos to learn from do not differ from their images, or none is readable"
            )
        return with_users(scatter, self._users(state, place), self.unlabelled)

    def _users(self, state: State, place: int) -> np.ndarray:
        """The readable user photos (U, D) of one component that teach, float64."""
        if not self.unlabelled or not self._photos(state).users:
            return np.zeros((0, state.gallery[place].shape[1]))
        rows = float64_rows(self._photos(state).users[place])
        return rows[rows.any(axis=1)]


def photo_axes(
    rows: np.ndarray, scatter: np.ndarray, shrinkage: float, **sample: Any
) -> tuple[np.ndarray, PrincipalAxes]:
    """Return S^(-1/2) (D, D) of the shrunk scatter S, and the principal axes of rows @ S^(-1/2), with the rows' own mean."""
    with threadpool_limits(1):
        inverse, root = inverse_root(scatter, shrinkage)
        there: Any = RowView([rows], lambda blocks: float64_rows(blocks[0]) @ inverse, rows.shape[1])
        found = principal_axes(there, **sample)
        return inverse, replace(found, mean=found.mean @ root)


def through(inverse: np.ndarray, axes: PrincipalAxes, dim: int, exponent: float) -> Projection:
    """Return the projection by `inverse` (D, D), then to at most `dim` principal axes."""
    found = axes.whitening(dim, exponent)
    with threadpool_limits(1):
        return Projection(found.mean, inverse @ found.matrix)


def with_users(scatter: np.ndarray, users: np.ndarray, share: float) -> np.ndarray:
    """Return (1 - s) scatter + s times that of user photos (U, D) about their mean, of the same trace.

    s = share U / (U + PRIOR_PHOTOS). What all photos of users vary in, whatever they show, is made little of.
    """
    about = users - users.mean(axis=0) if len(users) else users
    with threadpool_limits(1):
        own = about.T @ about
    if not np.trace(own) > 0:
        return scatter
    share *= len(users) / (len(users) + PRIOR_PHOTOS)
    return (1 - share) * scatter + share * np.trace(scatter) / np.trace(own) * own


def _photo_scatter(state: State, photos: Photos, place: int, real: bool) -> np.ndarray:
    """Return the mean of d d^T over the photos that are real, or those that are not, (D, D) float64."""
    rows, gallery = photos.rows[place], state.gallery[place]
    pairs = photos.pairs[(photos.real == real) & ~state.excluded[photos.pairs[:, 1]]]

    def differences() -> Iterator[np.ndarray]:
        for start in range(0, len(pairs), STATISTICS_ROWS):
            block = pairs[start : start + STATISTICS_ROWS]
            views = float64_rows(rows[block[:, 0]])
            readable = views.any(axis=1)
            yield (views - float64_rows(gallery[block[:, 1]]))[readable]

    with threadpool_limits(1):  # the bits of a product may depend on the threads
        return within_scatter(differences(), gallery.shape[1])[0]

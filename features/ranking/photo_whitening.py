"""The step photo_whiten: what photos change is learnt from photos of gallery images, and made little of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from competition.errors import ConfigurationError, Top7Error
from features.dumps.derived import derived, digest_of
from features.ranking.descriptor_steps import kept_axes, projected_by
from features.ranking.measures import concatenated
from features.ranking.projection import (
    STATISTICS_ROWS,
    PrincipalAxes,
    Projection,
    learn_photo_whitening,
    photo_axes,
    through,
)
from features.ranking.state import State
from features.ranking.views import float64_rows
from features.whitening import within_scatter

PRIOR_PHOTOS = 10  # user photos: as many count half


def photo_whiten(
    state: State,
    *,
    dim: int,
    shrinkage: float = 0.2,
    exponent: float = 0.0,
    joint: bool = False,
    pairs: float = 0.0,
    unlabelled: float = 0.0,
    samples: int = 20_000,
    seed: int = 0,
    learnt: str | None = None,
) -> State:
    """Whitening that makes little of what a photo changes, then PCA to at most `dim` dimensions, then L2.

    The scatter of photo minus gallery image, shrunk by `shrinkage` towards its mean eigenvalue, is learnt from the
    simulated photos of the teaching half; `pairs`: the share in it of the real pairs, labelled public queries and their
    correct images (1: these alone, as cirtorch's `whitenlearn`, but centred by the gallery's mean; then at least as many
    pairs as dimensions). unlabelled: above 0, the user photos there are (validation and test queries; no label enters)
    teach too: queries are centred by their mean in place of the gallery's, and so much of the scatter is theirs about
    that mean; both less where they are few, see PRIOR_PHOTOS. joint: one projection of all components concatenated, of
    equal weights whatever the recipe's, to one component; otherwise one for each. learnt: in a bundle, the identity of the photos, which stay behind.
    """
    if joint and len(state.gallery) > 1:
        state = _joined(state)
    if learnt is None:
        _check_photos(state, pairs)
        learnt = state.photos.identity
    taught = dict(pairs=pairs, unlabelled=unlabelled, photos=learnt)  # by which the scatter is told apart
    axes_of = dict(shrinkage=shrinkage, samples=samples, seed=seed, **taught)
    names = state.identity_after("photo_whiten", dim=dim, exponent=exponent, **axes_of)
    sample = dict(excluded=state.excluded, samples=samples, seed=seed)
    one = state.identity_after("scatter", **taught)
    shared = state.identity_after("photo_axes", **axes_of)

    def scatter_of(number: int) -> np.ndarray:
        scatter = 0.0
        for real, share in ((False, 1.0 - pairs), (True, pairs)):
            if share:
                scatter = scatter + share * _photo_scatter(state, number, real)
        if not np.trace(scatter) > 0:
            raise Top7Error(
                "photo_whiten: the photos to learn from do not differ from their images, or none is readable"
            )
        return with_users(scatter, users_of(number), unlabelled)

    def users_of(number: int) -> np.ndarray:
        if unlabelled:
            return _user_photos(state, number)
        return np.zeros((0, state.gallery[number].shape[1]))

    def axes(number: int) -> tuple[dict[str, np.ndarray], PrincipalAxes]:
        rows = state.gallery[number]
        size = rows.shape[1]
        scatter = derived(
            state.folder,
            "scatter",
            {"of": one[number]},
            size,
            {"rows": (size, "float64")},
            lambda start, stop: [scatter_of(number)],
            block_rows=size,
        )["rows"]
        inverse, found = photo_axes(rows, np.array(scatter), shrinkage, **sample)
        return {"inverse": inverse}, found

    def learn(number: int) -> Projection:
        _check_photos(state, pairs)
        rows = state.gallery[number]
        if state.many:
            kept, own = kept_axes(
                state, shared[number], rows, lambda: axes(number), more=("inverse",), **sample
            )
            found = through(np.asarray(kept["inverse"]), own, dim, exponent)
        else:
            more = dict(shrinkage=shrinkage, exponent=exponent, **sample)
            found = learn_photo_whitening(rows, scatter_of(number), dim, **more)
        users = users_of(number)
        return replace(found, query_mean=centre_of(users, found.mean) if len(users) else None)

    return projected_by(state, names, dim, [int(np.sum(~state.excluded))] * len(names), learn)


def _user_photos(state: State, number: int) -> np.ndarray:
    """The readable user photos (U, D) of one component, float64."""
    if not state.photos.users:
        return np.zeros((0, state.gallery[number].shape[1]))
    rows = float64_rows(state.photos.users[number])
    return rows[rows.any(axis=1)]


def centre_of(users: np.ndarray, gallery_mean: np.ndarray) -> np.ndarray:
    """Return the mean of U user photos (U, D), drawn to the gallery's (D,) as by PRIOR_PHOTOS photos of that mean."""
    return (users.sum(axis=0) + PRIOR_PHOTOS * gallery_mean) / (len(users) + PRIOR_PHOTOS)


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


def _joined(state: State) -> State:
    """One component, all concatenated with equal weights."""
    equal = np.full(len(state.gallery), 1.0 / len(state.gallery))
    return state.changed(
        **state.asked(lambda parts: [concatenated(parts, equal)]),
        gallery=(concatenated(state.gallery, equal),),
        weights=np.ones(1),
        groups=(0,),
        identity=(f"joined-{digest_of(state.identity)}",),
    )


def _check_photos(state: State, pairs: float) -> None:
    """Raise ConfigurationError unless there are photos of the kinds that `pairs` asks for, and enough of them."""
    if state.photos is None or pairs < 1 and state.photos.real.all():
        raise ConfigurationError(
            "photo_whiten learns from simulated photos, and there are none: add [simulate] to the configuration and run "
            "./run.sh extract"
        )
    found = int(state.photos.real.sum())
    needed = max(part.shape[1] for part in state.gallery) if pairs == 1 else int(pairs > 0)
    if found < needed:
        raise ConfigurationError(
            f"photo_whiten with pairs = {pairs:g} needs at least {needed} pairs of a labelled public query and a correct "
            f"image, there are {found}: take a smaller share with simulated photos beside them, or none (pairs = 0)"
        )


def _photo_scatter(state: State, number: int, real: bool) -> np.ndarray:
    """Return the mean of d d^T over the photos that are real, or those that are not, (D, D) float64."""
    photos, gallery = state.photos.rows[number], state.gallery[number]
    pairs = state.photos.pairs[(state.photos.real == real) & ~state.excluded[state.photos.pairs[:, 1]]]

    def differences():
        for start in range(0, len(pairs), STATISTICS_ROWS):
            block = pairs[start : start + STATISTICS_ROWS]
            views = float64_rows(photos[block[:, 0]])
            readable = views.any(axis=1)
            yield (views - float64_rows(gallery[block[:, 1]]))[readable]

    with threadpool_limits(1):  # the bits of a product may depend on the threads
        return within_scatter(differences(), gallery.shape[1])[0]

"""The step photo_whiten against its formulas: on each component, on all of them, after other steps, on real pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from competition.errors import ConfigurationError, Top7Error
from features.dumps.derived import noting_files
from features.ranking.principal_axes import projected
from features.ranking.state import Photos
from features.ranking.steps import apply_steps, check_steps, split_steps, used_components
from features.ranking.steps.znormalise import learn_znormalisation
from tests.features_tests.ranking_references import clustered, learn_whitening, rank, start
from tests.features_tests.test_steps import photos_of
from tests.features_tests.test_whitening import naive_photo_whitening

WEIGHTS = [0.3, 0.7]


@pytest.fixture
def data():
    gallery, queries = [clustered(60, d, 3) for d in (9, 14)], [clustered(7, d, 4) for d in (9, 14)]
    for part in gallery:
        part[20] = 0
    return queries, gallery, np.arange(60) == 20


def after(data, steps, photos, **options):
    queries, gallery, excluded = data
    check_steps(steps)
    return apply_steps(
        start(queries, gallery, WEIGHTS, 7, excluded=excluded, photos=photos, **options), steps
    )


def differences(photos, gallery, excluded, real=False):
    """Photo minus image, one by one, of readable photos of readable images."""
    return np.array(
        [
            photos.rows[0][photo].astype(float) - gallery[row]
            for (photo, row), is_real in zip(photos.pairs, photos.real)
            if is_real == real and not excluded[row] and photos.rows[0][photo].any()
        ]
    )


def agree(found, expected):
    """Equal up to the signs of the dimensions."""
    expected = np.asarray(expected)
    used = expected.any(axis=1)
    signs = np.sign(np.sum(found[used] * expected[used], axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


def of_one(photos, number):
    return replace(photos, rows=(photos.rows[number],))


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_each_component_is_whitened_by_its_own_photos(data, exponent):
    queries, gallery, excluded = data
    photos = photos_of(gallery)
    step = {"step": "photo_whiten", "dim": 5, "shrinkage": 0.1, "exponent": exponent}
    state = after(data, [step], photos)
    assert [part.shape[1] for part in state.gallery] == [5, 5] and state.weights.tolist() == WEIGHTS
    for number in range(2):
        taught = differences(of_one(photos, number), gallery[number], excluded)
        naive = naive_photo_whitening(gallery[number][~excluded].astype(float), taught, 5, 0.1, exponent)
        agree(state.queries[number], naive(queries[number].astype(float)))
        agree(state.gallery[number][~excluded], naive(gallery[number][~excluded].astype(float)))
        assert not state.gallery[number][20].any()  # unreadable


def test_jointly_all_components_are_whitened_as_one_whatever_the_weights(data):
    queries, gallery, excluded = data
    photos = photos_of(gallery)
    step = {"step": "photo_whiten", "dim": 6, "shrinkage": 0.2, "joint": True}
    state = after(data, [step], photos)
    assert len(state.gallery) == 1 and state.weights.tolist() == [1.0] and state.groups == (0,)

    def one(parts):
        return np.concatenate([part.astype(float) for part in parts], axis=1) / np.sqrt(2)

    joined = replace(photos, rows=(one(photos.rows),))
    naive = naive_photo_whitening(
        one(gallery)[~excluded], differences(joined, one(gallery), excluded), 6, 0.2, 0.0
    )
    agree(state.queries[0], naive(one(queries)))
    others = rank(queries, gallery, [1.0, 0.0], [step], 7, excluded=excluded, photos=photos)
    lists = state.lists(7)
    assert (lists[0] == others[0]).all() and (lists[1] == others[1]).all()
    assert used_components([1.0, 0.0], None, [step]) == [0, 1]
    more = [
        step,
        {"step": "augment", "neighbours": 2, "weights": [0.0, 1.0]},
        {"step": "expand", "neighbours": 2},
    ]
    assert len(split_steps(more)[0]) == 2
    rank(queries, gallery, WEIGHTS, more, 7, excluded=excluded, photos=photos)


def test_steps_before_change_the_photos_as_they_change_the_queries(data):
    queries, gallery, excluded = data
    photos = photos_of(gallery)
    steps = [
        {"step": "concatenate"},
        {"step": "measure", "name": "correlation"},
        {"step": "znormalise"},
        {"step": "whiten", "dim": 12, "exponent": 0.5},
    ]
    last = {"step": "photo_whiten", "dim": 5}
    before = after(data, steps, None)
    found = after(data, [*steps, last], photos)
    moved = after((list(photos.rows), gallery, excluded), steps, None)  # the photos ask, as queries
    expected = apply_steps(replace(before, photos=replace(photos, rows=moved.queries)), [last])
    assert (found.queries[0] == expected.queries[0]).all()
    assert (np.asarray(found.gallery[0]) == np.asarray(expected.gallery[0])).all()


def test_augmentation_leaves_the_photos_alone(data):
    photos = photos_of(data[1])
    state = after(data, [{"step": "augment", "neighbours": 2}], photos)
    assert state.photos is photos


def real_pairs(data, count, seed=9):
    """Photos of gallery images with other changes, as labelled queries: some with two correct images."""
    _, gallery, _ = data
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 60, count)
    views = [part[rows] + 0.1 * rng.standard_normal((count, part.shape[1])).cumsum(1) for part in gallery]
    pairs = [(photo, row) for photo, row in enumerate(rows)] + [(0, 5), (1, 6)]
    return Photos(tuple(views), np.array(pairs), np.ones(count + 2, bool), "real")


def whitenlearn(rows, photos, images, dim):
    """cirtorch's whitenlearn (descriptors as columns there), centred by the mean of all rows instead of the photos'."""
    df = (photos - images).T
    root = np.linalg.inv(np.linalg.cholesky(df @ df.T / df.shape[1]))
    there = (rows - rows.mean(0)) @ root.T
    values, vectors = np.linalg.eigh(there.T @ there)
    projection = vectors[:, np.argsort(-values)[:dim]].T @ root

    def apply(queries):
        found = (queries - rows.mean(0)) @ projection.T
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return apply


def test_on_real_pairs_alone_it_is_cirtorchs_supervised_whitening(data):
    queries, gallery, excluded = data
    photos = real_pairs(data, 200)
    state = after(data, [{"step": "photo_whiten", "dim": 4, "shrinkage": 0.0, "pairs": 1.0}], photos)
    used = photos.pairs[~excluded[photos.pairs[:, 1]]]
    for number, part in enumerate(gallery):
        naive = whitenlearn(
            part[~excluded].astype(float), photos.rows[number][used[:, 0]], part[used[:, 1]], 4
        )
        agree(state.queries[number], naive(queries[number].astype(float)))


def both(simulated, real):
    rows = tuple(np.concatenate(parts) for parts in zip(simulated.rows, real.rows))
    pairs = np.concatenate([simulated.pairs, real.pairs + [len(simulated.rows[0]), 0]])
    return Photos(rows, pairs, np.concatenate([simulated.real, real.real]), "both")


def test_real_pairs_join_the_simulated_photos_with_their_share(data):
    queries, gallery, excluded = data
    photos = both(photos_of(gallery), real_pairs(data, 10))
    state = after(data, [{"step": "photo_whiten", "dim": 4, "shrinkage": 0.1, "pairs": 0.3}], photos)
    one = of_one(photos, 0)
    simulated, real = (differences(one, gallery[0], excluded, real=real) for real in (False, True))
    share = 0.3 * 10 / (10 + 25)  # of ten queries; as many as 25 would count half
    repeated = [(1 - share) / len(simulated)] * len(simulated) + [share / len(real)] * len(real)
    weighed = np.concatenate([simulated, real]) * np.sqrt(np.array(repeated) * len(repeated))[:, None]
    naive = naive_photo_whitening(gallery[0][~excluded].astype(float), weighed, 4, 0.1, 0.0)
    agree(state.queries[0], naive(queries[0].astype(float)))
    alone = after(data, [{"step": "photo_whiten", "dim": 4, "shrinkage": 0.1}], photos)
    without = after(data, [{"step": "photo_whiten", "dim": 4, "shrinkage": 0.1}], photos_of(gallery))
    assert (alone.queries[0] == without.queries[0]).all()
    none = after(
        data, [{"step": "photo_whiten", "dim": 4, "shrinkage": 0.1, "pairs": 0.3}], photos_of(gallery)
    )
    assert (none.queries[0] == without.queries[0]).all()  # no labelled query: no share


def test_what_cannot_be_learnt_is_said_in_one_line(data, tmp_path):
    queries, gallery, excluded = data

    def run(photos, **arguments):
        return after(data, [{"step": "photo_whiten", "dim": 4, **arguments}], photos, folder=tmp_path)

    for photos in (None, real_pairs(data, 30)):
        with pytest.raises(ConfigurationError, match=r"add \[simulate\] to the configuration and run"):
            run(photos)
    with pytest.raises(ConfigurationError, match="needs at least 14 pairs .* there are 12"):
        run(real_pairs(data, 10), pairs=1.0)
    with pytest.raises(ConfigurationError, match="needs at least 23 pairs .* there are 22"):
        run(real_pairs(data, 20), pairs=1.0, joint=True)
    assert not list(tmp_path.rglob("*"))
    same = Photos(tuple(gallery), np.stack([np.arange(60)] * 2, 1), np.zeros(60, bool), "same")
    with pytest.raises(Top7Error, match="do not differ from their images"):
        run(same)
    with pytest.raises(ConfigurationError, match="comes after measure euclidean_normalised"):
        after(
            data,
            [{"step": "measure", "name": "euclidean_normalised"}, {"step": "photo_whiten", "dim": 4}],
            None,
        )


@pytest.mark.parametrize("joint", [False, True])
def test_what_was_learnt_serves_without_the_photos(data, tmp_path, joint):
    photos = photos_of(data[1])
    step = {"step": "photo_whiten", "dim": 4, "joint": joint}
    with noting_files() as used:
        expected = after(data, [step], photos, folder=tmp_path)
    assert {path.name.split("-")[0] for path in used} == {"whitening", "whitened"}
    found = after(data, [{**step, "learnt": photos.identity}], None, folder=tmp_path)
    for one, other in zip([*found.queries, *found.gallery], [*expected.queries, *expected.gallery]):
        assert (np.asarray(one) == np.asarray(other)).all()
    others = after(data, [step], replace(photos_of(data[1], seed=6)), folder=tmp_path)
    assert (others.queries[0] != expected.queries[0]).any()


def test_plain_whitening_is_what_it_was(data):
    """The same rows, to the last bit, as its functions give."""
    queries, gallery, excluded = data
    state = after(data, [{"step": "znormalise"}, {"step": "whiten", "dim": 5}], None)
    z = learn_znormalisation(gallery[0], excluded)
    learnt = learn_whitening(projected(gallery[0], z), 5, excluded=excluded)
    assert (state.queries[0] == projected(projected(queries[0], z), learnt)).all()


def test_many_settings_share_what_is_learnt_and_give_the_same_bytes(data, tmp_path):
    queries, gallery, excluded = data
    photos = photos_of(gallery)
    tried = [
        {"step": "whiten", "dim": dim, "exponent": exponent, "shrinkage": shrinkage}
        for dim in (3, 100)
        for exponent in (0.0, 1.0)
        for shrinkage in (0.0, 0.3)
    ]
    tried += [{**step, "step": "photo_whiten", "shrinkage": step["shrinkage"] or 0.1} for step in tried]
    for step in tried:
        asked = dict(excluded=excluded, photos=photos, folder=tmp_path, identity=["first", "second"])
        alone = start(queries, gallery, WEIGHTS, 7, **{**asked, "folder": None})
        many = replace(start(queries, gallery, WEIGHTS, 7, **asked), many=True, held=True)
        for _ in range(2):  # learnt, then opened
            found, expected = (apply_steps(state, [step]) for state in (many, alone))
            for rows in ("queries", "gallery"):
                for one, other in zip(getattr(found, rows), getattr(expected, rows), strict=True):
                    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    kinds = [path.name.partition("-")[0] for path in tmp_path.glob("*.json")]
    # of two components: the axes of whiten, and of photo_whiten under two shrinkages
    assert kinds == ["axes"] * (2 + 2 * 2)


def with_users_of(photos, data, count, seed=11):
    """User photos: rows of the kind of the queries, moved by what all users' photos share; one is unreadable."""
    users = [clustered(count, d, seed) + 0.3 for d in (9, 14)]
    for part in users:
        part[2] = 0
    return replace(photos, users=tuple(users))


@pytest.mark.parametrize("count", [4, 40])
def test_user_photos_centre_queries_and_join_the_scatter(data, count):
    queries, gallery, excluded = data
    photos = with_users_of(photos_of(gallery), data, count)
    state = after(data, [{"step": "photo_whiten", "dim": 5, "shrinkage": 0.1, "unlabelled": 0.3}], photos)
    for number in range(2):
        images = gallery[number][~excluded].astype(float)
        users = np.delete(photos.users[number], 2, axis=0).astype(float)
        taught = differences(of_one(photos, number), gallery[number], excluded)
        scatter = sum(np.outer(d, d) for d in taught) / len(taught)
        own = sum(np.outer(u - users.mean(0), u - users.mean(0)) for u in users)
        share = 0.3 * len(users) / (len(users) + 10)
        mixed = (1 - share) * scatter + share * own * np.trace(scatter) / np.trace(own)
        root = np.linalg.cholesky(mixed * len(taught)).T  # rows whose scatter is `mixed`
        naive = naive_photo_whitening(images, root * np.sqrt(len(root) / len(taught)), 5, 0.1, 0.0)
        mean = (users.sum(0) + 10 * images.mean(0)) / (len(users) + 10)
        agree(state.gallery[number][~excluded], naive(images))
        agree(state.queries[number], naive(queries[number] - mean + images.mean(0)))


def test_without_user_photos_nothing_changes(data):
    photos = photos_of(data[1])
    step = {"step": "photo_whiten", "dim": 5}
    plain, asked = after(data, [step], photos), after(data, [{**step, "unlabelled": 0.5}], photos)
    for found, expected in zip((*asked.queries, *asked.gallery), (*plain.queries, *plain.gallery)):
        assert np.array_equal(found, expected)


def test_simulated_queries_are_not_centred_as_user_photos_are(data):
    queries, gallery, excluded = data
    photos = with_users_of(photos_of(gallery), data, 40)
    step = {"step": "photo_whiten", "dim": 5, "unlabelled": 0.3}
    real, made = after(data, [step], photos), after(data, [step], photos, simulated=7)
    mixed = after(data, [step], photos, simulated=2)
    for number in range(2):
        assert not np.allclose(real.queries[number], made.queries[number], atol=1e-3)
        assert np.array_equal(mixed.queries[number][:5], real.queries[number][:5])
        assert np.array_equal(mixed.queries[number][5:], made.queries[number][5:])

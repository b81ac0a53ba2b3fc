"""Dual PCA, scalings and Ledoit-Wolf against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.decomposition import PCA

from features.ranking.principal_axes import projected
from features.whitening import (
    column_scales,
    dual_components,
    inverse_root,
    ledoit_wolf,
    unit_rows,
    within_scatter,
)
from tests.features_tests.ranking_references import learn_photo_whitening, learn_whitening


def rows_of(n=12, dims=40, seed=0):
    return np.random.default_rng(seed).random((n, dims)) * np.linspace(3, 1, dims)


@pytest.mark.parametrize("n,dims", [(12, 40), (30, 6), (2, 9)])
def test_projections_equal_pca(n, dims):
    raw, unseen = rows_of(n, dims), unit_rows(rows_of(5, dims, 1))[0].astype(float)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    learnt = dual_components(raw @ raw.T)
    assert len(learnt.eigenvalues) == min(n - 1, dims)
    pca = PCA(n_components=len(learnt.eigenvalues), svd_solver="full").fit(unit)
    np.testing.assert_allclose(learnt.eigenvalues, pca.singular_values_**2, rtol=1e-8)
    found = (unseen @ raw.T) @ learnt.coefficients - learnt.offset
    expected = pca.transform(unseen)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    assert learnt.fourth_moment == pytest.approx(np.sum(np.sum((unit - unit.mean(0)) ** 2, 1) ** 2))


def test_rank_leaves_out_doubles_and_zero_rows():
    raw = rows_of(4)
    doubled = np.concatenate([raw, raw, np.zeros((1, 40))])
    learnt = dual_components(doubled @ doubled.T)
    assert len(learnt.eigenvalues) == 4  # four directions: the zero row is one point more
    assert np.isfinite(learnt.coefficients).all()
    assert len(dual_components(np.ones((3, 3))).eigenvalues) == 0


def test_scales():
    eigenvalues = np.array([16.0, 4, 1])
    assert column_scales(eigenvalues, 2, 0).tolist() == [1, 1]
    assert column_scales(eigenvalues, 3, 1).tolist() == [0.25, 0.5, 1]
    assert column_scales(eigenvalues, 3, 0.5).tolist() == [0.5, 2**-0.5, 1]
    assert column_scales(eigenvalues, 2, 2).tolist() == [1 / 16, 1 / 4]


def test_ledoit_wolf_equals_scikit_learn_in_the_span():
    rows = rows_of(50, 6)
    rows -= rows.mean(0)
    values, axes = np.linalg.eigh(rows.T @ rows)
    covariance, intensity = sklearn_ledoit_wolf(rows @ axes, assume_centered=True)
    assert 0 < intensity < 1
    shrunk = ledoit_wolf(values, float(np.sum(np.sum(rows**2, 1) ** 2)), 50)
    np.testing.assert_allclose(shrunk / 50, np.diag(covariance), rtol=1e-10)


def test_unit_rows():
    unit, norms = unit_rows(np.array([[3, 4], [0, 0]], dtype=np.float16))
    assert unit.dtype == np.float32 and norms.tolist() == [5, 0]
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]], rtol=1e-7)


def photos_of(gallery, count=3, seed=1):
    """Photos that change some directions much and others little, and the row each was made of."""
    rng, dims = np.random.default_rng(seed), gallery.shape[1]
    rows = np.repeat(np.arange(len(gallery)), count)
    noise = rng.standard_normal((len(rows), dims)) @ rng.standard_normal((dims, dims)) * 0.1
    return gallery[rows] + noise, rows


def naive_photo_whitening(gallery, differences, dim, shrinkage, exponent):
    """As the formulas say, with scipy's own roots of matrices; signs are left open."""
    from scipy.linalg import fractional_matrix_power

    scatter = sum(np.outer(d, d) for d in differences) / len(differences)
    shrunk = (1 - shrinkage) * scatter + shrinkage * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    root = fractional_matrix_power(shrunk, -0.5).real
    there = gallery @ root
    pca = PCA(svd_solver="full").fit(there)

    def apply(rows):
        found = pca.transform(rows @ root)[:, :dim] * pca.explained_variance_[:dim] ** (-exponent / 2)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return apply


@pytest.mark.parametrize("n", [60, 9])  # more images than dimensions, and fewer
@pytest.mark.parametrize("shrinkage, exponent", [(0.2, 0.0), (0.0, 1.0), (1.0, 0.5)])
def test_photo_whitening_is_what_its_formulas_say(n, shrinkage, exponent):
    gallery, unseen = rows_of(n, 12), rows_of(5, 12, 7)
    views, rows = photos_of(gallery, 60)
    differences = views - gallery[rows]
    scatter, count = within_scatter((differences[start : start + 7] for start in range(0, len(views), 7)), 12)
    assert count == len(views)
    found = projected(
        unseen, learn_photo_whitening(gallery, scatter, 5, shrinkage=shrinkage, exponent=exponent)
    )
    expected = naive_photo_whitening(gallery, differences, 5, shrinkage, exponent)(unseen)
    np.testing.assert_allclose(found * np.sign(found[:1] * expected[:1]), expected, atol=2e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_photos_that_change_all_directions_alike_make_photo_whitening_pca(seed, exponent):
    """The law: views = originals + isotropic noise. Exactly isotropic here: every direction in turn, both ways."""
    gallery, unseen = rows_of(30, 8, seed), rows_of(6, 8, seed + 50)
    turned = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0]
    scatter, _ = within_scatter([0.3 * turned, -0.3 * turned], 8)
    found = projected(
        unseen, learn_photo_whitening(gallery, scatter, 4, shrinkage=0.1 * seed, exponent=exponent)
    )
    expected = projected(unseen, learn_whitening(gallery, 4, exponent=exponent))
    np.testing.assert_allclose(found * np.sign(found[:1] * expected[:1]), expected, atol=1e-6)


def test_directions_that_photos_never_change_are_no_infinity():
    scatter = np.diag([1.0, 0.0, 0.5])
    inverse, root = inverse_root(scatter, 0.0)
    assert np.isfinite(inverse).all() and inverse[1, 1] == pytest.approx(np.sqrt(2e6))
    np.testing.assert_allclose(inverse @ root, np.eye(3), atol=1e-9)
    with pytest.raises(ValueError, match="scatter of zero"):
        inverse_root(np.zeros((3, 3)), 0.2)

"""Dual PCA, scalings and Ledoit-Wolf against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.decomposition import PCA

from features.whitening import column_scales, dual_components, ledoit_wolf, unit_rows


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

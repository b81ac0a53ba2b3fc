"""Principal components by the dual form, and whitening by column scalings; functions of arrays only.

n samples as unit rows X (n, D), centred Xc = X - mean. With D far above n the n x n Gram matrix holds all there is to
learn: Xc Xc^T = U diag(eigenvalues) U^T, the principal axes are Xc^T u_k / sqrt(eigenvalue_k), and a new row x
projects to u_k^T Xc (x - mean) / sqrt(eigenvalue_k), which needs its products with the samples and no axis at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LEAST = 1e-6
ROUNDING = 1e-6  # of an entry of the Gram matrix of unit rows summed in float32 products


@dataclass(frozen=True)
class DualComponents:
    """The leading components of a sample.

    eigenvalues  (k,) float64, decreasing, of the scatter Xc Xc^T: squares of the singular values of the centred sample
    coefficients (n, k) float64: products of a unit row with the n sample rows @ coefficients - offset = projection
    offset       (k,) float64: the projection of the mean (zeros without centring)
    fourth_moment: sum over the sample of ||x - mean||^4, for `ledoit_wolf`
    """

    eigenvalues: np.ndarray
    coefficients: np.ndarray
    offset: np.ndarray
    fourth_moment: float


def dual_components(products: np.ndarray, *, centred: bool = True) -> DualComponents:
    """Return every component that a sample has, from the raw products of its rows.

    products: (n, n) float64 = R R^T of rows R that are not normalised; each is divided by the root of its diagonal
    entry here (a zero row stays zero). Components whose eigenvalue is within rounding of zero are left out, so the
    length of `eigenvalues` is the sample's rank. Signs are fixed: the largest entry of each u_k is positive.
    """
    norms = np.sqrt(np.clip(np.diag(products), 0, None))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    gram = products * inverse[:, None] * inverse[None, :]
    means = gram.mean(1) if centred else np.zeros(len(gram))
    scatter = gram
    if centred:
        scatter = gram - means[:, None] - means[None, :] + means.mean()
    fourth_moment = float(np.sum(np.diag(scatter) ** 2))
    from scipy.linalg import eigh  # predict never gets here, and starts without it

    eigenvalues, vectors = eigh(scatter, overwrite_a=True, check_finite=False)
    kept = eigenvalues > np.sqrt(len(gram)) * ROUNDING
    eigenvalues, vectors = eigenvalues[kept][::-1].copy(), vectors[:, kept][:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    coefficients = vectors / np.sqrt(eigenvalues)
    if centred:
        coefficients = coefficients - coefficients.mean(0)
    return DualComponents(eigenvalues, coefficients * inverse[:, None], means @ coefficients, fourth_moment)


def column_scales(eigenvalues: np.ndarray, dim: int, exponent: float) -> np.ndarray:
    """Return what the first `dim` columns of a projection are multiplied by, (dim,) float64.

    exponent 0: plain PCA; 1: whitening (each column divided by its singular value); 0.5: shrunk, half way in the
    logarithm; 2: division by the eigenvalues themselves.
    """
    return eigenvalues[:dim] ** (-exponent / 2)


def ledoit_wolf(eigenvalues: np.ndarray, fourth_moment: float, n: int) -> np.ndarray:
    """Return shrunk eigenvalues: (1 - r) * eigenvalue + r * their mean, r as Ledoit and Wolf 2004 estimate it.

    eigenvalues: (k,) of the scatter of n centred rows, k their rank; fourth_moment: sum over the rows of ||x||^4.
    Applied inside the sample's span (target: the mean over its k directions): with the mean over all D directions,
    far more than n, the target would be about zero and nothing would be shrunk.
    """
    variances = eigenvalues / n
    mean = variances.mean()
    spread = float(np.sum((variances - mean) ** 2))
    noise = (fourth_moment / n - float(np.sum(variances**2))) / n
    intensity = 1.0 if spread <= 0 else float(np.clip(noise / spread, 0, 1))
    return (1 - intensity) * eigenvalues + intensity * eigenvalues.mean()


def within_scatter(differences: Iterable[np.ndarray], dimension: int) -> tuple[np.ndarray, int]:
    """Return (the mean of d d^T, (D, D) float64, the number of differences) over blocks (m, D) of differences d."""
    total, count = np.zeros((dimension, dimension)), 0
    for block in differences:
        block = np.asarray(block, dtype=np.float64)
        total += block.T @ block
        count += len(block)
    return total / max(count, 1), count


def inverse_root(scatter: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (S^(-1/2), S^(1/2)), both (D, D) float64, of S = (1 - shrinkage) scatter + shrinkage * mean eigenvalue * I.

    An eigenvalue of S below LEAST of their mean counts as that. ValueError for a scatter of zero.
    """
    from scipy.linalg import eigh  # predict never gets here, and starts without it

    mean = float(np.trace(scatter)) / len(scatter)
    if not mean > 0:
        raise ValueError("a scatter of zero has no inverse root")
    eigenvalues, vectors = eigh(scatter, check_finite=False)
    eigenvalues = np.maximum((1 - shrinkage) * eigenvalues + shrinkage * mean, LEAST * mean)
    roots = np.sqrt(eigenvalues)
    return (vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T


def unit_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows / L2 norm float32, norms (n,) float32); a zero row stays zero. Norms in float64."""
    rows = np.asarray(rows, dtype=np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    unit = rows / np.where(norms > 0, norms, 1)[:, None]
    return unit.astype(np.float32), norms.astype(np.float32)

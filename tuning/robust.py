"""The most robust of equally good weights: the centre of the largest ball inside the best cell.

MAP@k is piecewise constant over the region: it changes only where a relevant item and another one swap places. The
cell of a point is what keeps every such order that its average precisions rest on; it is a polytope in barycentric
coordinates, and its Chebyshev centre is a linear programme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from competition.errors import Top7Error
from tuning.objective import Scene, ranked_positions


@dataclass(frozen=True)
class Ball:
    """centre: barycentric coordinates (J,); radius: within the simplex's own plane, in the same coordinates."""

    centre: np.ndarray
    radius: float


def cell_differences(scene: Scene, weights: np.ndarray) -> np.ndarray:
    """Return s(better) - s(worse) of every pair whose order the average precisions rest on: (P, L) float64.

    Inside the top k every relevant item keeps its order to every other kind of item of the top k, and the last
    of the top k stays above the best that is outside of the other kind (an order between two items of one kind
    changes nothing).
    """
    best, valid = ranked_positions(scene, weights)
    similarities = np.moveaxis(scene.similarities, 0, -1)
    pairs = []
    for query in range(scene.n_queries):
        top = best[query][valid[query]]
        hit = scene.relevant[query]
        inside = np.zeros(scene.rows.shape[1], dtype=bool)
        inside[top] = True
        outside = np.flatnonzero(~inside & (scene.rows[query] >= 0))
        values = similarities[query]
        for place, item in enumerate(top):
            for other in top[place + 1 :]:
                if hit[item] != hit[other]:
                    pairs.append(values[item] - values[other])
            rivals = outside[hit[outside] != hit[item]]
            if len(rivals):
                pairs.append(values[item] - values[rivals])
    if not pairs:
        return np.zeros((0, similarities.shape[-1]))
    return np.concatenate([np.atleast_2d(pair) for pair in pairs])


def largest_ball(scene: Scene, coordinates: np.ndarray, corners: np.ndarray) -> Ball:
    """Return the largest ball inside the cell of `coordinates` (J,), within the region of vertices `corners` (J, L).

    The ball lies in the simplex's plane (coordinates sum to 1). Radius 0, at the point itself, where the cell is
    thinner than the solver sees (a vertex or a face that only ties hold).
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    n = len(coordinates)
    if n == 1:
        return Ball(coordinates, 0.0)
    differences = cell_differences(scene, coordinates @ corners) @ corners.T
    differences = np.unique(differences[np.abs(differences).max(axis=1) > 0], axis=0)
    planes = np.concatenate([differences, np.eye(n)])  # orders to keep, and coordinates >= 0
    in_plane = planes - planes.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(in_plane, axis=1)
    result = linprog(
        c=np.append(np.zeros(n), -1.0),
        A_ub=np.column_stack([-planes, lengths]),
        b_ub=np.zeros(len(planes)),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, 1)] * n + [(0, None)],
        method="highs",
    )
    if result.status == 2:  # infeasible: only a tie holds the order, the point is its own cell
        return Ball(coordinates, 0.0)
    if result.status != 0:
        raise Top7Error(f"the centre of the best cell could not be found: {result.message}")
    if result.x[-1] <= 1e-9:
        return Ball(coordinates, 0.0)
    centre = np.clip(result.x[:-1], 0.0, None)
    return Ball(centre / centre.sum(), float(result.x[-1]))

"""The pruned constraint region of WMFF (Wang et al., eqs. 3 and 4), and the simplex it really is.

Within a chain (the layers of one backbone under one pooling, shallow to deep) eq. 3 asks w_n S_n >= ... >=
w_1 S_1 >= 0. With u_l = w_l S_l that is 0 <= u_1 <= ... <= u_n, the cone spanned by the steps "0 below layer
j, 1 from j on"; with eq. 4 (sum of w = 1) it is the convex hull of one vertex a step: vertex j puts w_l
proportional to 1 / S_l on the layers l >= j. A component outside any order is a chain of one. Several chains
together span the convex hull of all their vertices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from competition.errors import ConfigurationError, Top7Error, nearest

REGIONS = ("similarity", "distance", "simplex")


def chain_members(chains: Sequence[str]) -> list[np.ndarray]:
    """Return, for each chain in order of appearance, the positions of its components, shallow to deep."""
    names = list(dict.fromkeys(chains))
    return [np.array([i for i, chain in enumerate(chains) if chain == name]) for name in names]


def layer_sums(mean_similarity: np.ndarray, region: str) -> np.ndarray:
    """Return S_l (up to one common factor) of eq. 3 from each component's mean cosine over queries and gallery.

    `similarity`: the mean cosine itself; `distance`: 1 - it (eq. 6 calls a cosine a distance);
    `simplex`: ones, for no order is asked.
    """
    mean = np.asarray(mean_similarity, dtype=np.float64)
    readings = {"similarity": mean, "distance": 1.0 - mean, "simplex": np.ones_like(mean)}
    if region not in readings:
        raise ConfigurationError(f"[tuning] region = {region!r} is unknown: {nearest(region, REGIONS)}")
    return readings[region]


def region_chains(chains: Sequence[str], region: str) -> tuple[str, ...]:
    """Return the chains the region orders by: those given, or, for the plain simplex, one a component."""
    return tuple(f"{i}" for i in range(len(chains))) if region == "simplex" else tuple(chains)


def vertices(sums: np.ndarray, chains: Sequence[str], names: Sequence[str] | None = None) -> np.ndarray:
    """Return the region's vertices, (n_vertices, n_components) float64; each row >= 0 and of sum 1.

    `sums`: S_l of each component; `chains`: the chain of each; `names`: for messages. There are as many
    vertices as components: vertex j belongs to component j and weighs it and what is deeper in its chain.
    Top7Error where S_l <= 0 in a chain of more than one (eq. 3 then orders nothing).
    """
    sums = np.asarray(sums, dtype=np.float64)
    result = np.zeros((len(sums), len(sums)))
    for members in chain_members(chains):
        if len(members) == 1:
            result[members[0], members[0]] = 1.0
            continue
        for member in members:
            if not (np.isfinite(sums[member]) and sums[member] > 0):
                name = names[member] if names is not None else f"component {member}"
                raise Top7Error(
                    f"{name}: its similarities sum to {sums[member]:.3g}, and the region orders only layers whose sum is "
                    'positive (eq. 3): leave the layer out, clamp its maps, or set [tuning] region = "simplex"'
                )
        inverse = 1.0 / sums[members]
        for j in range(len(members)):
            result[members[j], members[j:]] = inverse[j:] / inverse[j:].sum()
    return result


def barycentric(weights: np.ndarray, sums: np.ndarray, chains: Sequence[str]) -> np.ndarray:
    """Return the coordinates of `weights` (..., L) in the vertices (inverse of `coordinates @ vertices`).

    Weights of sum 1 lie in the region exactly if no coordinate is negative.
    """
    weights, sums = np.asarray(weights, dtype=np.float64), np.asarray(sums, dtype=np.float64)
    result = np.empty_like(weights)
    for members in chain_members(chains):
        if len(members) == 1:
            result[..., members] = weights[..., members]
            continue
        steps = np.diff(weights[..., members] * sums[members], axis=-1, prepend=0.0)
        result[..., members] = steps * np.cumsum((1.0 / sums[members])[::-1])[::-1]
    return result


def contains(weights: np.ndarray, sums: np.ndarray, chains: Sequence[str], tolerance: float = 1e-9) -> bool:
    """Say whether `weights` (L,) satisfy eqs. 3 and 4 within `tolerance` (absolute, in barycentric coordinates)."""
    whole = abs(np.sum(weights) - 1.0) <= tolerance
    return bool(whole and (barycentric(weights, sums, chains) >= -tolerance).all())


def uniform_coordinates(uniforms: np.ndarray) -> np.ndarray:
    """Map u in (0, 1]^J to barycentric coordinates, uniform on the simplex for uniform u: -log(u), normalised.

    A coordinate of u = 1 is exactly 0, so vertices and faces can be named: 1/e on the face, 1 off it.
    """
    energies = 0.0 - np.log(np.asarray(uniforms, dtype=np.float64))  # a bare minus would make -0.0 of 1
    total = energies.sum(axis=-1, keepdims=True)
    if np.any(total <= 0):
        raise Top7Error("all barycentric coordinates are zero: at least one u must lie below 1")
    return energies / total


def face_uniforms(face: Sequence[int], n_vertices: int) -> np.ndarray:
    """Return the u that `uniform_coordinates` maps to the centroid of the face spanned by vertices `face`."""
    uniforms = np.ones(n_vertices)
    uniforms[list(face)] = np.exp(-1.0)
    return uniforms


def random_coordinates(n_points: int, n_vertices: int, generator: np.random.Generator) -> np.ndarray:
    """Return `n_points` barycentric coordinates, uniform on the simplex: (n_points, n_vertices) float64."""
    return uniform_coordinates(1.0 - generator.random((n_points, n_vertices)))

"""Points worth knowing beside the study: the papers' own weights, single layers, equal weights, parts alone.

They need not lie in the region, where the candidates would not hold, so they are scored by the full ranking.
Those outside are marked; a certificate's bound does not hold for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from features.components import Component
from tuning.combination import Combination
from tuning.region import contains

VGG_LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")

# Wang et al., Table 3: the row named best; printed with three digits, so of sum 1.0 only to rounding.
# The paper prints three figures for it: 0.419 (Table 3), 0.388 and, with expansion, 0.439 (Table 5).
PAPER_ROWS = {"WMFF Table 3 No. 6": (0.077, 0.077, 0.384, 0.154, 0.308)}


@dataclass(frozen=True)
class NamedPoint:
    """weights: (L,); inside: whether the region holds it; average_precisions: (Q,), by full ranking."""

    name: str
    weights: np.ndarray
    inside: bool
    average_precisions: np.ndarray


def paper_weights(components: Sequence[Component], paper: Sequence[float]) -> np.ndarray | None:
    """Return the paper's weights for these components, others 0; None unless one chain is the five VGG layers.

    timm's feature indices 0 to 4 of a VGG are the same five layers.
    """
    for chain in sorted({component.chain for component in components if component.pooling is not None}):
        members = [i for i, component in enumerate(components) if component.chain == chain]
        layers = [components[i].layer for i in members]
        is_vgg = "vgg" in str(components[members[0]].backbone).lower()
        if tuple(map(str, layers)) == VGG_LAYERS or (is_vgg and layers == [0, 1, 2, 3, 4]):
            weights = np.zeros(len(components))
            weights[members] = np.array(paper) / np.sum(paper)
            return weights
    return None


def named_weights(components: Sequence[Component]) -> dict[str, np.ndarray]:
    """Return the named points of a combination: equal weights, each single component, the papers' rows."""
    n = len(components)
    layers = np.array([component.pooling is not None for component in components])
    points = {"equal weights": np.full(n, 1.0 / n)}
    if layers.any() and not layers.all():
        points["equal weights of the layers"] = layers / layers.sum()
    for number, component in enumerate(components):
        points[component.name] = np.eye(n)[number]
    for name, row in PAPER_ROWS.items():
        weights = paper_weights(components, row)
        if weights is not None:
            points[name] = weights
    return points


def named_points(
    combination: Combination, precisions: Callable[[np.ndarray], np.ndarray]
) -> list[NamedPoint]:
    """Score every named point of `combination` by `precisions` (L,) -> (Q,), which knows no region."""
    region = combination.sums, combination.chains
    return [
        NamedPoint(name, weights, contains(weights, *region), precisions(weights))
        for name, weights in named_weights(combination.components).items()
    ]

"""Average precision of whole ranked lists as Oxford, Paris, Holidays and the revisited sets define it: the trapezoid.

Junk images are taken out of the list first. With j positives found before a positive at zero-based rank r, it
adds (j/r + (j+1)/(r+1)) / 2, the first term 1 where r = 0; the sum is divided by m, the number of positives.
A positive that is not in the list adds nothing and counts in m.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from competition.errors import Top7Error


def trapezoid_precision(ranks: np.ndarray, positives: Collection[int], junk: Collection[int] = ()) -> float:
    """Return the average precision of one query; Top7Error where it has no positive, as then none is defined.

    ranks: (n,) gallery rows, best first, each once; -1 ends nothing and holds a rank.
    """
    if not len(positives):
        raise Top7Error("a query without positives has no average precision: leave it out of the mean")
    ranks = np.asarray(ranks, dtype=np.int64)
    kept = ranks[~np.isin(ranks, list(junk))]
    found = np.flatnonzero(np.isin(kept, list(positives)))
    before = np.arange(len(found))
    first = np.where(found == 0, 1.0, before / np.maximum(found, 1))
    return float(((first + (before + 1) / (found + 1)) / 2).sum() / len(set(positives)))


def trapezoid_precisions(
    ranks: Sequence[np.ndarray], positives: Sequence[Collection[int]], junk: Sequence[Collection[int]]
) -> np.ndarray:
    """Return the average precision of each query, (Q,) float64; NaN where a query has no positive (`numpy.nanmean`)."""
    return np.array(
        [
            trapezoid_precision(*query) if len(query[1]) else np.nan
            for query in zip(ranks, positives, junk, strict=True)
        ]
    )

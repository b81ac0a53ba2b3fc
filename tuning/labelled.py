"""The labelled queries as the study may use them: rows, relevant images, groups, the public and the private part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from competition.configuration import Configuration
from competition.images import split_images
from competition.labels import relevant_rows, validation_labels
from competition.splits import private_mask, query_groups


@dataclass(frozen=True)
class Labelled:
    """query_ids in row order; relevant: gallery rows (int64) per query; groups, private: (Q,)."""

    query_ids: tuple[str, ...]
    relevant: tuple[np.ndarray, ...]
    groups: np.ndarray
    private: np.ndarray

    @property
    def public(self) -> np.ndarray:
        """(Q,) bool: the queries the study sees."""
        return ~self.private


def labelled_queries(configuration: Configuration, gallery_ids: Sequence[str]) -> Labelled:
    """Read the validation queries and labels of `configuration` and split them by its seed and private share."""
    images = split_images(configuration, "validation")
    labels = validation_labels(configuration, query_ids=images.ids, gallery_ids=gallery_ids)
    relevant = relevant_rows(labels, gallery_ids)
    groups = query_groups(relevant)
    private = private_mask(groups, configuration.tuning.private, configuration.tuning.seed)
    return Labelled(tuple(images.ids), relevant, groups, private)

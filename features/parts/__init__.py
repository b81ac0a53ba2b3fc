"""Part detectors (PWA, Xu et al. 2018): selection, aggregation, whitening for every count at once."""

from features.parts.learning import learn_parts
from features.parts.part_model import PartModel
from features.parts.selection import VARIANTS, check_parts, training_rows

__all__ = ["VARIANTS", "PartModel", "check_parts", "learn_parts", "training_rows"]

"""What of a part model is still to be learnt: the passes over the sample, the detectors and the counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from competition.configuration import Parts
from features.dumps.seals import file_is_whole
from features.parts.blocks import block_files
from features.parts.part_model import components_path, model_folder
from features.parts.readings import VARIANTS


@dataclass(frozen=True)
class Remaining:
    """What is still to be learnt.

    passes: over the sample's images; aggregated: detectors whose blocks are lacking; counts: those without components.
    """

    passes: int
    aggregated: int
    counts: int


def remaining(parts: Parts, folder: Path, *, name: str, provenance: dict) -> Remaining:
    """Return what `learn_parts` with the same arguments would still do, by the files that are there."""
    home = model_folder(parts, folder, name, provenance)
    held = max((end for _, end, _ in block_files(home)), default=0)
    centred = VARIANTS[parts.variant].centred
    lacking = [
        count
        for count in set(parts.counts)
        if not file_is_whole(components_path(home, count, parts.form, centred))
    ]
    aggregated = max(0, max(parts.counts) - held)
    passes = (not file_is_whole(home / "order.json")) + (aggregated > 0)
    return Remaining(passes, aggregated, len(lacking))

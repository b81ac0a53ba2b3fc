"""What an extraction did, for callers from Python and for the tables that show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from competition.messages import log


@dataclass
class ExtractionReport:
    """paths: every dump of the configuration; views: those of queries by views; images: how many were run.

    unreadable: (split, id, reason); limits: (backbone, split, what bounded the rate) of every pass that ran images.
    """

    paths: list[Path] = field(default_factory=list)
    views: list[Path] = field(default_factory=list)
    images: int = 0
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    bytes_written: int = 0
    seconds: float = 0.0
    limited: int | None = None
    limits: list[tuple[str, str, str]] = field(default_factory=list)

    def say(self) -> None:
        """What was left out, and whether the gallery is a sample."""
        for split, image_id, reason in self.unreadable:
            log.warning(f"unreadable: {split} {image_id}: {reason}")
        if self.limited:
            log.warning(f"the gallery is a sample of {self.limited} images: scores are optimistic")

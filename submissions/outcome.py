"""What a command gives back, and the configuration and splits it works on."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from competition.configuration import Configuration, load_configuration
from competition.configured import split_images
from competition.messages import log

MINI_WORK = Path("work/mini")


@dataclass(frozen=True)
class Outcome:
    """values: for --json; text: for people; exit_code: 0, or 1 where the command's answer is no."""

    values: dict
    text: str = ""
    exit_code: int = 0


@dataclass
class Splits:
    """Query ids by split and gallery ids, as the files on disk have them now."""

    queries: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gallery: tuple[str, ...] = ()

    def form(self, configuration: Configuration) -> dict[str, Any]:
        """Return what a submission of the configuration is checked against, as arguments of `check_submission`."""
        competition = configuration.competition
        form = {"top_k": competition.top_k, "form": competition.submission}
        return {"splits": self.queries, "gallery_ids": self.gallery, **form}


def configuration_of(options: Namespace) -> Configuration:
    """Load --config, or draw the embedded mini competition and load its configuration."""
    if options.config is not None:
        return load_configuration(options.config, work=options.work)
    return mini_configuration(options.work or MINI_WORK)


def mini_configuration(work: Path, seed: int = 0) -> Configuration:
    """Draw the embedded mini competition under `work` if it is not there, and load its configuration."""
    from competition.mini import build

    folder = Path(work) / ("competition" if seed == 0 else f"competition-seed{seed}")
    if not (folder / "config.toml").exists():
        log.info(f"no --config: drawing the embedded mini competition in {folder}")
    return load_configuration(build(folder, seed=seed), work=work)


def splits_of(configuration: Configuration) -> Splits:
    """List the queries of every configured split and the gallery."""
    from features.descriptors import gallery_ids

    found = Splits(gallery=gallery_ids(configuration))
    for split in ("validation", "test"):
        if getattr(configuration.competition, split) is not None:
            found.queries[split] = tuple(split_images(configuration, split).ids)
    return found

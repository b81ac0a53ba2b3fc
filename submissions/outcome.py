"""What a command gives back, and the configuration it works on."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from competition.configuration import Configuration, load_configuration
from competition.messages import log

MINI_WORK = Path("work/mini")


@dataclass(frozen=True)
class Outcome:
    """values: for --json; text: for people; exit_code: 0, or 1 where the command's answer is no."""

    values: dict
    text: str = ""
    exit_code: int = 0


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

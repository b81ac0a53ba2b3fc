"""The commands about the papers' data sets and experiments: reproduce."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from competition.configuration import load_configuration
from competition.errors import ConfigurationError
from submissions.outcome import Outcome


def reproduce(options: Namespace) -> Outcome:
    """Rerun the papers' experiments, or list them."""
    from submissions.experiment_files import chosen, experiments
    from submissions.reproducing import reproduce as rerun
    from submissions.reproducing import targets

    if options.name is None:
        known = experiments()
        lines = [f"{name:<16} {each.paper}, {each.title}" for name, each in known.items()]
        return Outcome({"experiments": list(known)}, "\n".join(lines))
    if options.config is not None and options.data is not None:
        raise ConfigurationError("--config and --data: give one of the two")
    wanted = chosen(options.name)
    configuration = load_configuration(options.config, work=options.work) if options.config else None
    text, rows = rerun(
        wanted,
        targets(options.data, configuration, options.work, options.distractors),
        variants=options.variants,
        device=options.device,
        options={
            "weights": str(Path(options.weights).resolve()) if options.weights else None,
            "image_size": options.image_size,
        },
    )
    return Outcome({"rows": rows}, text)

"""The commands about the papers' data sets and experiments: reproduce, doctor."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from competition.configuration import load_configuration
from competition.errors import ConfigurationError
from submissions.outcome import Outcome


def reproduce(options: Namespace) -> Outcome:
    """Rerun the papers' experiments, or list them."""
    from submissions.experiments.evaluation_sets import evaluation_sets
    from submissions.experiments.experiment import chosen, experiments
    from submissions.experiments.reproducing import reproduce as rerun

    if options.name is None:
        known = experiments()
        lines = [f"{name:<16} {each.paper}, {each.title}" for name, each in known.items()]
        return Outcome({"experiments": list(known)}, "\n".join(lines))
    if options.config is not None and options.data is not None:
        raise ConfigurationError("--config and --data: give one of the two")
    if options.config is not None and (
        options.weights or options.image_size is not None or options.distractors
    ):
        raise ConfigurationError(
            f"--weights, --image-size and --distractors go with --data: {options.config} names its own network and images"
        )
    wanted = chosen(options.name)
    configuration = load_configuration(options.config, work=options.work) if options.config else None
    text, rows = rerun(
        wanted,
        evaluation_sets(options.data, configuration, options.work, options.distractors),
        variants=options.variants,
        device=options.device,
        cluster=options.cluster,
        options={
            "weights": str(Path(options.weights).resolve()) if options.weights else None,
            "image_size": options.image_size,
        },
    )
    return Outcome({"rows": rows}, text)


def doctor(options: Namespace) -> Outcome:
    """Say what of a data set or a configuration is missing, misnamed, corrupt or of the wrong size."""
    from submissions.doctor import examine_configuration, examine_data

    if (options.config is None) == (options.data is None):
        raise ConfigurationError("doctor: give --config FILE or --data DIR")
    if options.data is not None:
        found, faults = examine_data(options.data)
    else:
        found, faults = examine_configuration(load_configuration(options.config, work=options.work))
    verdict = f"{len(faults)} fault{'s' * (len(faults) != 1)}" if faults else "nothing is wrong"
    return Outcome(
        {"found": found, "faults": faults}, "\n".join([*found, *faults, verdict]), int(bool(faults))
    )

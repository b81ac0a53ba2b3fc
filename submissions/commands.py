"""What each command of run.sh does: stages exchange paths, results come back as values and as text."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from submissions.answer_commands import blend, bundle, check, predict, score, show_leaderboard, submit
from submissions.data_commands import clean, duplicates, extract, init, parts, verify
from submissions.experiment_commands import doctor, reproduce
from submissions.outcome import MINI_WORK, Outcome, configuration_of, mini_configuration
from submissions.study_commands import compare, recipes, tune


def report(options: Namespace) -> Outcome:
    """Write the report."""
    from submissions.report import write_report

    page = write_report(configuration_of(options), options.out, labels=options.labels)
    return Outcome({"page": str(page)}, str(page))


def demo(options: Namespace) -> Outcome:
    """Walk the whole road on the mini competition."""
    from submissions.demo import demo as walk

    work = options.work or MINI_WORK
    return Outcome(*walk(mini_configuration(work, options.seed), trials=options.trials))


COMMANDS: dict[str, Callable[[Namespace], Outcome]] = {
    "demo": demo,
    "init": init,
    "extract": extract,
    "tune": tune,
    "submit": submit,
    "check": check,
    "score": score,
    "leaderboard": show_leaderboard,
    "predict": predict,
    "bundle": bundle,
    "compare": compare,
    "blend": blend,
    "recipes": recipes,
    "parts": parts,
    "report": report,
    "clean": clean,
    "verify": verify,
    "duplicates": duplicates,
    "reproduce": reproduce,
    "doctor": doctor,
}

"""The commands about answers: submit, check, score, leaderboard, predict, bundle, blend."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from competition import leaderboard
from competition.configuration import Competition
from competition.errors import ConfigurationError
from competition.labels import validation_labels
from competition.messages import log
from competition.metrics import WHOLE_LISTS, figure_label
from competition.standings import render
from submissions.outcome import Outcome, configuration_of, splits_of


def submit(options: Namespace) -> Outcome:
    """Write the submission of a recipe."""
    from features.recipes.kept import find_recipe
    from submissions.submitting import submit as write

    configuration = configuration_of(options)
    written = write(
        configuration,
        find_recipe(configuration, options.recipe, options.index),
        options.split,
        options.out,
        distinct=options.distinct,
    )
    values, text = dict(written), f"{written['file']}\n{_expected(written, configuration.competition)}"
    return Outcome(values, text)


def _expected(written: dict, competition: Competition) -> str:
    """What was written, in one line, with the most honest figure that its recipe carries."""
    name = figure_label(competition.metric, competition.top_k)
    named = {
        "validated": "on queries that did not choose it",
        "cross-validated": "cross-validated",
        "bias-corrected": "bootstrap bias correction",
        "all": "on the labelled queries, which chose it if it was tuned: optimistic",
    }
    figure = next((key for key in named if key in written["expected"]), None)
    line = f"{written['queries']} queries of {written['split']} by {'' if 'of' in written else 'recipe '}{written['recipe']}; "
    if "unknown" in written:
        return line + f"the figure to expect is unknown: {written['unknown']}"
    if "simulated" in written["expected"] and "all" not in written["expected"]:
        value = written["expected"][figure]
        return line + f"{name} {value:.4f} on simulated photos, which no real query need reach"
    if figure is None:
        return line + "no figure is known: ./run.sh compare gives one where there are labels"
    of = f", of {written['figures_of']}" if "figures_of" in written else ""
    return line + f"expected {name} {written['expected'][figure]:.4f} ({named[figure]}{of})"


def check(options: Namespace) -> Outcome:
    """List every fault of a CSV."""
    from submissions.checking import check_submission

    configuration = configuration_of(options)
    found = splits_of(configuration)
    checked = check_submission(
        options.file,
        splits=found.queries,
        gallery_ids=found.gallery,
        top_k=configuration.competition.top_k,
        form=configuration.competition.submission,
    )
    values = {
        "file": str(options.file),
        "accepted": not checked.faults,
        "split": checked.split,
        "faults": [{"line": fault.line, "fault": fault.text} for fault in checked.faults],
    }
    if checked.faults:
        log.info(f"top7: {options.file}: {len(checked.faults)} fault{'s' if len(checked.faults) > 1 else ''}")
        return Outcome(values, "\n".join(str(fault) for fault in checked.faults), exit_code=1)
    return Outcome(
        values,
        f"{options.file}: accepted, {len(checked.answers)} queries of {checked.split}, "
        f"{configuration.competition.top_k} gallery ids each",
    )


def score(options: Namespace) -> Outcome:
    """Score a CSV and record it."""
    from submissions.submitting import score_and_record

    configuration = configuration_of(options)
    found = splits_of(configuration)
    labels = options.labels or configuration.competition.labels
    if labels is None and configuration.competition.format is not None:
        labels = validation_labels(configuration, found.queries["validation"], found.gallery)
    if labels is None:
        raise ConfigurationError(f"{configuration.path}: [competition] has no labels: give --labels FILE")
    values = score_and_record(configuration, options.file, labels, found.queries, found.gallery)
    top_k, metric = configuration.competition.top_k, configuration.competition.metric
    lines = [f"{options.file}: {values['split']}, {values['queries']} labelled queries"]
    lines += [f"MAP@{top_k} {value:.4f}  ({convention})" for convention, value in values["maps"].items()]
    if "metric" in values:
        lines.append(f"{figure_label(metric, top_k)} {values['metric']:.4f}")
    elif metric == WHOLE_LISTS:
        lines.append("mAP is of whole lists, which this file does not hold: ./run.sh compare RECIPE gives it")
    if "public" in values:
        private = f", private {values['private']:.4f}" if "private" in values else ""
        lines.append(
            f"public {values['public']:.4f}{private}  (min(m,k); what the study saw and did not see)"
        )
    return Outcome(values, "\n".join(lines))


def show_leaderboard(options: Namespace) -> Outcome:
    """Show the leaderboard, after recording an official score of a checked CSV if asked."""
    from features.recipes.kept import ranked_among
    from submissions.scoring import read_submission

    configuration = configuration_of(options)
    competition = configuration.competition
    if options.record is not None:
        file, text = options.record
        try:
            official = float(text)
        except ValueError:
            raise ConfigurationError(f"--record {file} {text}: the score {text!r} is not a number") from None
        found = splits_of(configuration)
        checked = read_submission(
            file,
            splits=found.queries,
            gallery_ids=found.gallery,
            top_k=competition.top_k,
            form=competition.submission,
        )
        if not leaderboard.record_official(competition.work, file, official, checked.split):
            log.info(
                f"top7: {file} is recorded; no local figure is known of it: score it where it has labels"
            )
    rows = leaderboard.read_rows(competition.work, ranked_among(configuration))
    return Outcome({"rows": list(map(vars, rows))}, render(rows, published=competition.published))


def predict(options: Namespace) -> Outcome:
    """Answer unseen query images."""
    from features.recipes.kept import find_recipe
    from submissions.predicting import predict as answer

    if options.bundle is not None and options.config is None:
        return _predict_from_bundle(options)
    configuration = configuration_of(options)
    written = answer(
        configuration,
        find_recipe(configuration, options.recipe, options.index),
        options.input_dir,
        options.output_csv,
        device=options.device,
    )
    return Outcome(written, written["file"])


def _predict_from_bundle(options: Namespace) -> Outcome:
    from submissions.bundle import open_bundle
    from submissions.predicting import predict as answer

    for option, value in (("--recipe", options.recipe), ("--index", options.index)):
        if value is not None:
            raise ConfigurationError(
                f"{option} {value}: the bundle {options.bundle} holds one recipe, searched as it was "
                f"bundled: leave {option} out, or give it to ./run.sh bundle"
            )
    configuration, recipe = open_bundle(Path(options.bundle), check_content=options.check_content)
    written = answer(configuration, recipe, options.input_dir, options.output_csv, device=options.device)
    return Outcome(written, written["file"])


def bundle(options: Namespace) -> Outcome:
    """Make the bundle of a recipe."""
    from features.recipes.kept import find_recipe
    from submissions.bundling import bundle as make

    configuration = configuration_of(options)
    made = make(
        configuration,
        find_recipe(configuration, options.recipe, options.index),
        options.out or Path(configuration.competition.work) / "bundle",
    )
    values = {
        "bundle": str(made.path),
        "files": made.files,
        "bytes": made.size_bytes,
        "gallery": made.gallery,
    }
    return Outcome(
        values,
        f"{made.path}: {made.files} files, {made.size_bytes / 1e6:.1f} MB, {made.gallery} gallery images",
    )


def blend(options: Namespace) -> Outcome:
    """Average finished submissions."""
    from submissions.blended import write_blend

    configuration = configuration_of(options)
    found = splits_of(configuration)
    written = write_blend(
        configuration,
        options.files,
        options.weights,
        options.method,
        options.out,
        found.queries,
        found.gallery,
    )
    return Outcome(written, f"{written['file']}\n{_expected(written, configuration.competition)}")

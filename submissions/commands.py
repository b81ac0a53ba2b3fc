"""Each command of run.sh (arguments.toml says what it does): options in, a result as plain values and as text out."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from submissions.outcome import MINI_WORK, Outcome, configuration_of, mini_configuration

if TYPE_CHECKING:
    from features.recipes.recipe import Recipe


def _configured(options: Namespace) -> tuple[Configuration, Recipe]:
    """The configuration, and the recipe that --recipe and --index name."""
    from features.recipes.kept import find_recipe

    configuration = configuration_of(options)
    return configuration, find_recipe(configuration, options.recipe, options.index)


def demo(options: Namespace) -> Outcome:
    from submissions.demo import demo as walk

    return walk(mini_configuration(options.work or MINI_WORK, options.seed), trials=options.trials)


def init(options: Namespace) -> Outcome:
    from submissions.first_configuration import write_first_configuration

    return write_first_configuration(options.folder, options.out, options.model, options.weights)


def extract(options: Namespace) -> Outcome:
    from features.extraction import extract as run_extraction
    from submissions.dump_table import extraction_outcome
    from submissions.report.data_health import note_extraction
    from tuning.space import space_of

    configuration = configuration_of(options)
    space_of(configuration)  # a step that cannot be is an error now, not after the hours of the extraction
    keys = ("device", "limit", "jobs", "cluster", "check_content", "drop_gone")
    report = run_extraction(configuration, **{key: getattr(options, key) for key in keys})
    note_extraction(configuration, report)
    return extraction_outcome(configuration, report)


def verify(options: Namespace) -> Outcome:
    from features.extraction import verify as check_dumps
    from submissions.dump_table import verification_outcome

    return verification_outcome(check_dumps(configuration_of(options)))


def duplicates(options: Namespace) -> Outcome:
    from submissions.duplicates import duplicates as find

    return find(configuration_of(options), options.near)


def parts(options: Namespace) -> Outcome:
    from submissions.parts_page import write_parts_page

    shown = {"top": options.top, "images": options.images, "device": options.device}
    page = write_parts_page(configuration_of(options), options.out, **shown)
    return Outcome({"page": str(page)}, str(page))


def clean(options: Namespace) -> Outcome:
    from submissions.cleaning import clean as remove

    removed = remove(configuration_of(options), dry_run=options.dry_run)
    total = sum(of["bytes"] for of in removed.values())
    lines = [f"{kind}: {of['files']} files, {of['bytes'] / 1e6:.1f} MB" for kind, of in removed.items()]
    lines.append(f"{total / 1e6:.1f} MB {'would be removed' if options.dry_run else 'removed'}")
    return Outcome({"dry_run": options.dry_run, "removed": removed, "bytes": total}, "\n".join(lines))


def tune(options: Namespace) -> Outcome:
    from features.recipes.kept import choose, find_recipe, is_of_this_data, kept_recipes, recipe_names
    from tuning.evaluating import score_named
    from tuning.report import report, report_values
    from tuning.tune import tune as run_study

    configuration = configuration_of(options)
    settings = {key: getattr(options, key) for key in ("trials", "seed", "folds", "repeats")}
    recipe = None if options.recipe is None else find_recipe(configuration, options.recipe)
    for name in recipe_names() if options.recipes else ():
        log.info(f"top7: tuning recipe {name}")
        try:
            run_study(configuration, recipe=find_recipe(configuration, name), **settings)
        except Top7Error as error:
            log.warning(f"top7: recipe {name} was not tuned: {error}")
    certifying = {"certify_seconds": options.certify, "certify_all": options.certify_all}
    tuned = run_study(configuration, recipe=recipe, **certifying, **settings)
    values, text = report_values(tuned), report(tuned)
    values["named_recipes"] = score_named(configuration)
    if kept := [each for each in kept_recipes(configuration) if is_of_this_data(configuration, each)]:
        chosen, why = choose(kept)
        values["submits"] = chosen.name
        text += f"\nsubmit takes {why}"
    return Outcome(values, text)


def submit(options: Namespace) -> Outcome:
    from submissions.submitting import expectation
    from submissions.submitting import submit as write

    configuration, recipe = _configured(options)
    written = write(configuration, recipe, options.split, options.out, distinct=options.distinct)
    return Outcome(written, f"{written['file']}\n{expectation(configuration, written, recipe)}")


def check(options: Namespace) -> Outcome:
    from submissions.checking import check_submission, expected_of

    expected = expected_of(configuration_of(options))
    checked = check_submission(options.file, expected)
    values = {
        "file": str(options.file),
        "accepted": not checked.faults,
        "split": checked.split,
        "faults": [{"line": fault.line, "fault": fault.text} for fault in checked.faults],
    }
    if checked.faults:
        log.info(f"top7: {options.file}: {len(checked.faults)} fault{'s' * (len(checked.faults) > 1)}")
        return Outcome(values, "\n".join(map(str, checked.faults)), exit_code=1)
    answered = f"{len(checked.answers)} queries of {checked.split}"
    return Outcome(values, f"{options.file}: accepted, {answered}, {expected.top_k} gallery ids each")


def score(options: Namespace) -> Outcome:
    from submissions.scoring import score_and_record, score_text

    configuration = configuration_of(options)
    values = score_and_record(configuration, options.file, options.labels)
    return Outcome(values, score_text(values, configuration.competition))


def leaderboard(options: Namespace) -> Outcome:
    from competition.leaderboard import read_rows, record_official
    from competition.leaderboard_text import render
    from features.recipes.kept import ranked_among
    from submissions.checking import expected_of, read_submission

    configuration = configuration_of(options)
    work = configuration.competition.work
    if options.record is not None:
        file, text = options.record
        try:
            official = float(text)
        except ValueError:
            raise ConfigurationError(f"--record {file} {text}: the score {text!r} is not a number") from None
        checked = read_submission(file, expected_of(configuration))
        if not record_official(work, file, official, checked.split):
            log.info(
                f"top7: {file} is recorded; no local figure is known of it: score it where it has labels"
            )
    rows = read_rows(work, ranked_among(configuration))
    text = render(rows, published=configuration.competition.published)
    return Outcome({"rows": list(map(vars, rows))}, text)


def predict(options: Namespace) -> Outcome:
    from submissions.predicting import open_bundle
    from submissions.predicting import predict as answer

    if options.bundle is None or options.config is not None:
        configuration, recipe = _configured(options)
    else:
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
    from submissions.bundle import make_bundle

    configuration, recipe = _configured(options)
    return make_bundle(configuration, recipe, options.out or configuration.competition.work / "bundle")


def compare(options: Namespace) -> Outcome:
    from submissions.recipe_tables import compared

    return compared(configuration_of(options), options.recipes, options.index)


def blend(options: Namespace) -> Outcome:
    from submissions.blend import write_blend
    from submissions.submitting import expectation

    configuration = configuration_of(options)
    written = write_blend(configuration, options.files, options.weights, options.method, options.out)
    return Outcome(written, f"{written['file']}\n{expectation(configuration, written)}")


def recipes(options: Namespace) -> Outcome:
    from submissions.recipe_tables import explained, listed

    configuration = configuration_of(options)
    return explained(configuration, options.name) if options.name else listed(configuration)


def report(options: Namespace) -> Outcome:
    from submissions.report import write_report

    page = write_report(configuration_of(options), options.out, labels=options.labels)
    return Outcome({"page": str(page)}, str(page))


def reproduce(options: Namespace) -> Outcome:
    from submissions.experiments.evaluation_sets import evaluation_sets
    from submissions.experiments.experiment import chosen, experiments
    from submissions.experiments.reproducing import reproduce as rerun

    if options.name is None:
        known = experiments()
        lines = [f"{name:<16} {each.paper}, {each.title}" for name, each in known.items()]
        return Outcome({"experiments": list(known)}, "\n".join(lines))
    weights = None if options.weights is None else str(options.weights.resolve())
    wanted, own = chosen(options.name), {"weights": weights, "image_size": options.image_size}
    if options.config is not None and options.data is not None:
        raise ConfigurationError("--config and --data: give one of the two")
    if options.config is not None and (options.distractors or any(v is not None for v in own.values())):
        raise ConfigurationError(
            f"--weights, --image-size and --distractors go with --data: {options.config} names its own network and images"
        )
    configuration = None if options.config is None else configuration_of(options)
    found = evaluation_sets(options.data, configuration, options.work, options.distractors)
    machines = {"device": options.device, "cluster": options.cluster}
    text, rows = rerun(wanted, found, variants=options.variants, options=own, **machines)
    return Outcome({"rows": rows}, text)


def doctor(options: Namespace) -> Outcome:
    from submissions.doctor import examine_configuration, examine_data

    if (options.config is None) == (options.data is None):
        raise ConfigurationError("doctor: give --config FILE or --data DIR")
    found, faults = (
        examine_data(options.data)
        if options.config is None
        else examine_configuration(configuration_of(options))
    )
    verdict = f"{len(faults)} fault{'s' * (len(faults) != 1)}" if faults else "nothing is wrong"
    text = "\n".join([*found, *faults, verdict])
    return Outcome({"found": found, "faults": faults}, text, exit_code=int(bool(faults)))


COMMANDS: dict[str, Callable[[Namespace], Outcome]] = {
    command.__name__: command
    for command in (
        *(demo, init, extract, tune, submit, check, score, leaderboard, predict, bundle, compare, blend),
        *(recipes, parts, report, clean, verify, duplicates, reproduce, doctor),
    )
}

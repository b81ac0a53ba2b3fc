"""What each command of run.sh does: stages exchange paths, results come back as values and as text."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from competition import leaderboard
from competition.configuration import Configuration, load_configuration
from competition.errors import ConfigurationError, Top7Error
from competition.images import split_images
from competition.messages import log
from competition.standings import render

MINI_WORK = Path("work/mini")


@dataclass(frozen=True)
class Outcome:
    """values: for --json; text: for people; exit_code: 0, or 1 where the command's answer is no."""

    values: dict
    text: str = ""
    exit_code: int = 0


@dataclass
class _Splits:
    """Query ids by split and gallery ids, as the files on disk have them now."""

    queries: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gallery: tuple[str, ...] = ()


def configuration_of(options: Namespace) -> Configuration:
    """Load --config, or draw the embedded mini competition (said aloud) and load its configuration."""
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


def splits_of(configuration: Configuration) -> _Splits:
    """List the queries of every configured split and the gallery."""
    from features.descriptors import gallery_ids

    found = _Splits(gallery=gallery_ids(configuration))
    for split in ("validation", "test"):
        if getattr(configuration.competition, split) is not None:
            found.queries[split] = tuple(split_images(configuration, split).ids)
    return found


def init(options: Namespace) -> Outcome:
    """Look at a folder and write its first configuration."""
    from submissions.first_configuration import write_first_configuration
    from submissions.folder_contents import look

    out = options.out or Path(f"{options.folder.resolve().name or 'competition'}.toml")
    if out.exists():
        raise ConfigurationError(f"{out} is there already: it stays as it is; give another --out FILE")
    seen, unsure = write_first_configuration(
        look(options.folder), out, model=options.model, weights=options.weights
    )
    for line in unsure:
        log.warning(f"top7: please check: {line}")
    values = {"configuration": str(out), "found": seen, "unsure": unsure}
    return Outcome(values, "\n".join([*seen, f"{out}: next, ./run.sh extract --config {out}"]))


def extract(options: Namespace) -> Outcome:
    """Fill the dumps."""
    from features.extraction import extract as run_extraction
    from tuning.space import space_of

    configuration = configuration_of(options)
    space_of(configuration)  # a step that cannot be is said now, not after the hours of the extraction
    report = run_extraction(
        configuration,
        device=options.device,
        limit=options.limit,
        jobs=options.jobs,
        cluster=options.cluster,
        check_content=options.check_content,
        drop_gone=options.drop_gone,
    )
    values = {
        "dumps": [str(path) for path in report.paths],
        "images": report.images,
        "seconds": round(report.seconds, 3),
        "bytes_written": report.bytes_written,
        "limited": report.limited,
        "unreadable": [
            {"split": split, "id": name, "reason": reason} for split, name, reason in report.unreadable
        ],
    }
    unreadable = f", {len(report.unreadable)} unreadable" if report.unreadable else ""
    return Outcome(
        values,
        f"{len(report.paths)} dumps complete; {report.images} images run in {report.seconds:.1f} s"
        f"{unreadable}\n{_dump_table(report.paths, Path(configuration.competition.work) / 'dumps')}",
    )


def _dump_table(paths: Sequence[Path], folder: Path) -> str:
    """A line for each backbone, layer and pooling: its dimensions and how many images each split has."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for path in paths:
        split = path.relative_to(folder).parts[0]
        shapes.setdefault(path.stem.rpartition("-")[0], {})[split] = np.load(path, mmap_mode="r").shape
    splits = list(dict.fromkeys(split for row in shapes.values() for split in row))
    width = max(map(len, [str(folder), *shapes]))
    lines = [f"{str(folder):<{width}}  {'dims':>6}  " + "  ".join(f"{split:>10}" for split in splits)]
    for name, row in shapes.items():
        counts = "  ".join(
            f"{row[split][0] if split in row else '':>{max(10, len(split))}}" for split in splits
        )
        lines.append(f"{name:<{width}}  {next(iter(row.values()))[1]:>6}  {counts}")
    return "\n".join(lines)


def verify(options: Namespace) -> Outcome:
    """Check every dump against its checksums."""
    from features.extraction import verify as check_dumps

    report = check_dumps(configuration_of(options))
    values = {
        "dumps": report.dumps,
        "rows": report.rows,
        "files": report.files,
        "missing": [str(path) for path in report.missing],
        "damaged": {str(path): ids for path, ids in report.damaged.items()},
    }
    if report.whole:
        return Outcome(
            values, f"{report.dumps} dumps, {report.rows} rows, {report.files} files made from them: whole"
        )
    lines = [f"{path}: missing" for path in report.missing]
    lines += [
        f"{path}: {len(ids)} bad rows: {', '.join(ids[:20])}{' …' if len(ids) > 20 else ''}"
        if ids
        else f"{path}: damaged"
        for path, ids in report.damaged.items()
    ]
    log.warning(
        f"top7: {len(report.missing)} dumps missing, {len(report.damaged)} files damaged: ./run.sh extract repairs them; "
        "candidates and what steps keep are made again when next asked for"
    )
    return Outcome(values, "\n".join(lines), exit_code=1)


def duplicates(options: Namespace) -> Outcome:
    """Group exact duplicates of the gallery, or near ones by descriptor."""
    from submissions.duplicate_groups import duplicates as find

    return Outcome(*find(configuration_of(options), options.near))


def tune(options: Namespace) -> Outcome:
    """Run the study and report."""
    from features.kept_recipes import choose, is_of_this_data, kept_recipes
    from tuning.evaluating import score_named
    from tuning.report import report, report_values
    from tuning.tune import tune as run_study

    configuration = configuration_of(options)
    recipe = None
    if options.recipe is not None:
        from features.recipe import find_recipe

        recipe = find_recipe(configuration, options.recipe)
    if options.recipes:
        _tune_named(configuration, options)
    tuned = run_study(
        configuration,
        trials=options.trials,
        seed=options.seed,
        folds=options.folds,
        repeats=options.repeats,
        certify_seconds=options.certify,
        certify_all=options.certify_all,
        recipe=recipe,
    )
    named = score_named(configuration)
    kept = [kept for kept in kept_recipes(configuration) if is_of_this_data(configuration, kept)]
    values, text = report_values(tuned), report(tuned, configuration.competition.top_k)
    values["named_recipes"] = named
    if kept:
        chosen, why = choose(kept)
        values["submits"] = chosen.name
        text += f"\nsubmit takes {why}"
    return Outcome(values, text)


def _tune_named(configuration: Configuration, options: Namespace) -> None:
    """Tune each recipe that ships with top7, with as many trials as the study has."""
    from features.ranking.recipes import recipe_names
    from features.recipe import find_recipe
    from tuning.tune import tune as run_study

    for name in recipe_names():
        log.info(f"top7: tuning recipe {name}")
        try:
            recipe = find_recipe(configuration, name)
            run_study(
                configuration,
                trials=options.trials,
                seed=options.seed,
                folds=options.folds,
                repeats=options.repeats,
                recipe=recipe,
            )
        except (ConfigurationError, Top7Error) as error:
            log.warning(f"top7: recipe {name} was not tuned: {error}")


def submit(options: Namespace) -> Outcome:
    """Write the submission of a recipe."""
    from features.recipe import find_recipe
    from submissions.submitting import submit as write

    configuration = configuration_of(options)
    written = write(
        configuration,
        find_recipe(configuration, options.recipe, options.index),
        options.split,
        options.out,
        distinct=options.distinct,
    )
    values, text = dict(written), f"{written['file']}\n{_expected(written, configuration.competition.top_k)}"
    return Outcome(values, text)


def _expected(written: dict, top_k: int) -> str:
    """What was written, in one line, with the most honest figure that its recipe carries."""
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
        return line + f"MAP@{top_k} {value:.4f} on simulated photos, which no real query need reach"
    if figure is None:
        return line + "no figure is known: ./run.sh compare gives one where there are labels"
    of = f", of {written['figures_of']}" if "figures_of" in written else ""
    return line + f"expected MAP@{top_k} {written['expected'][figure]:.4f} ({named[figure]}{of})"


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
    if labels is None:
        raise ConfigurationError(f"{configuration.path}: [competition] has no labels: give --labels FILE")
    values = score_and_record(configuration, options.file, labels, found.queries, found.gallery)
    top_k = configuration.competition.top_k
    lines = [f"{options.file}: {values['split']}, {values['queries']} labelled queries"]
    lines += [f"MAP@{top_k} {value:.4f}  ({convention})" for convention, value in values["maps"].items()]
    if "public" in values:
        private = f", private {values['private']:.4f}" if "private" in values else ""
        lines.append(
            f"public {values['public']:.4f}{private}  (min(m,k); what the study saw and did not see)"
        )
    return Outcome(values, "\n".join(lines))


def show_leaderboard(options: Namespace) -> Outcome:
    """Show the leaderboard, after recording an official score of a checked CSV if asked."""
    from features.kept_recipes import ranked_among
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
    from features.recipe import find_recipe
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
    from features.recipe import find_recipe
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


def compare(options: Namespace) -> Outcome:
    """Rank the labelled queries under several recipes."""
    from features.ranking.recipes import recipe_names
    from features.recipe import find_recipe
    from submissions.comparing import compare_recipes, comparison_table, comparison_values

    configuration = configuration_of(options)
    names = options.recipes
    if not names:
        own = sorted((Path(configuration.competition.work) / "recipes").glob("*.json"))
        names = [*(path.stem for path in own), *recipe_names()]
    recipes = []
    for name in names:
        try:
            recipes.append(find_recipe(configuration, name, options.index))
        except ConfigurationError as error:
            if options.recipes:
                raise
            log.warning(f"top7: left out: {error}")
    if not recipes:
        raise ConfigurationError(
            f"{configuration.path}: no recipe fits this configuration: run ./run.sh tune"
        )
    rows = comparison_values(*compare_recipes(configuration, recipes))
    return Outcome({"recipes": rows}, comparison_table(rows, configuration.competition.top_k))


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
    return Outcome(written, f"{written['file']}\n{_expected(written, configuration.competition.top_k)}")


def recipes(options: Namespace) -> Outcome:
    """List the recipes by name and those kept under work, or explain one."""
    from submissions.recipe_list import explained, listed

    configuration = configuration_of(options)
    return Outcome(*(explained(configuration, options.name) if options.name else listed(configuration)))


def clean(options: Namespace) -> Outcome:
    """Remove what is not needed."""
    from submissions.cleaning import clean as remove

    report = remove(configuration_of(options), dry_run=options.dry_run)
    removed = "would be removed" if options.dry_run else "removed"
    lines = [f"{kind}: {of['files']} files, {of['bytes'] / 1e6:.1f} MB" for kind, of in report.items()]
    total = sum(of["bytes"] for of in report.values())
    values = {"dry_run": options.dry_run, "removed": report, "bytes": total}
    return Outcome(values, "\n".join([*lines, f"{total / 1e6:.1f} MB {removed}"]))


def parts(options: Namespace) -> Outcome:
    """Write the page of the part detectors."""
    from submissions.parts_page import write_parts_page

    page = write_parts_page(
        configuration_of(options), options.out, top=options.top, images=options.images, device=options.device
    )
    return Outcome({"page": str(page)}, str(page))


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
}

"""What `tune` prints: the best recipe in ratio form, its figures beside the untuned ones, and what to think of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from competition.metrics import figure_name
from competition.tables import table
from features.components import short_names
from tuning.evaluating import mean_figures
from tuning.misses import misses_text
from tuning.tuned import Tuned

SHOWN_IMPORTANCES = 6


def ratio_form(weights: Sequence[float]) -> str:
    """Return weights as the paper writes them, the smallest that counts as 1: (0.1, 0.1, 0.5) -> "1 : 1 : 5"."""
    values = np.asarray(weights, dtype=np.float64)
    unit = min(values[values > 1e-3], default=1.0)
    return " : ".join("0" if weight <= 1e-3 else f"{weight / unit:.3g}" for weight in values)


def report(tuned: Tuned) -> str:
    """Return the closing table of `tune`."""
    landscape, labelled, recipe = tuned.landscape, tuned.labelled, tuned.recipe
    real, groups = int(labelled.real.sum()), len(np.unique(labelled.groups))
    kinds = {"labelled queries": real, "simulated photos": len(labelled.real) - real}
    counted = " and ".join(f"{count} {name}" for name, count in kinds.items() if count)
    weights = [
        (f"{weight:.4f}", name) for weight, name in zip(recipe.weights, short_names(recipe.components))
    ]
    lines = [
        f"{tuned.trials} trials ({tuned.new_trials} new), region {recipe.provenance['region']}, on {counted}; "
        f"{int(labelled.private.sum())} of them are private: the study did not see them",
        f"queries that share a correct image count as one: {groups} independent groups",
        "",
        table([["weight", "component"], *weights], left=[1]),
        f"ratio {ratio_form(recipe.weights)}",
        *(f"then {step_in_words(step)}" for step in recipe.steps),
        "",
        *_figures(tuned),
        "",
        *_unseen(tuned),
    ]
    if tuned.mixed is not None:
        lines.append(f"WARNING: {tuned.mixed}")
    if (found := tuned.certificate) is not None:
        state = "proven optimal" if found.gap == 0 else f"gap {found.gap:.4f}"
        if found.dropped > found.best and found.dropped >= found.bound:
            state += ", which more time does not close: what memory could not hold or only rounding decides"
        lines.append(
            f"certificate: best {found.best:.4f}, no weights of the region exceed {found.bound:.4f} ({state}; "
            f"{found.nodes} parts of the region in {found.seconds:.1f} s, public queries)"
        )
    lines.append(
        f"{tuned.near_best_share:.0%} of the region's weights score within one standard error of the best"
    )
    if mattered := [f"{name} {value:.0%}" for name, value in tuned.importances.items()]:
        lines.append(f"what changed the figure most: {', '.join(mattered[:SHOWN_IMPORTANCES])}")
    if tuned.misses is not None:
        n_correct = sum(map(len, labelled.relevant[: int(labelled.reported.sum())]))
        missed = misses_text(tuned.misses, n_correct, landscape.top_k)
        lines.append(f"{missed}; each in {tuned.paths['missed']}")
    if tuned.combination.padded is not None:
        lines.append(
            f"candidates: {tuned.combination.mean_candidates:.0f} gallery images a query can reach the top places, "
            f"on average of {len(labelled.query_ids)} queries"
        )
    lines += [f"a trial by {kind.name} took {kind.seconds * 1e3:.1f} ms" for kind in tuned.kinds]
    number, size_bytes = landscape.kept_files()
    if number:
        lines.append(
            f"kept: {number} files of candidates and ranking steps, {size_bytes / 1e6:.1f} MB, those of earlier "
            "configurations too; deleted ones are made again"
        )
    also = f", also {tuned.paths['tuned']}" if "tuned" in tuned.paths else ""
    return "\n".join([*lines, f"recipe: {tuned.paths['recipe']}{also}"])


def _figures(tuned: Tuned) -> list[str]:
    """The table of figures: tuned, untuned, and the named points, best first."""
    photos, parts = not tuned.labelled.real.all(), tuned.combination.components
    columns = ["public", "private", "all", *(["simulated"] if photos else [])]
    studied = tuned.untuned.provenance.get("studied")
    untuned = "untuned (equal weights)" if studied is None else f"untuned ({studied} as studied)"
    figures: list[tuple[str, Mapping[str, float]]] = [
        ("tuned", tuned.recipe.scores),
        (untuned, tuned.untuned.scores),
    ]
    words = dict(zip((part.name for part in parts), short_names(parts)))
    for point in sorted(tuned.named, key=lambda point: -float(point.average_precisions.mean())):
        name = words.get(point.name, point.name) + ("" if point.inside else " *")
        figures.append((name, mean_figures(point.average_precisions, tuned.labelled)))
    rows = [
        [name, *(f"{scores[part]:.4f}" if part in scores else "-" for part in columns)]
        for name, scores in figures
    ]
    title = figure_name(tuned.landscape.metric, tuned.landscape.top_k)
    lines = [table([[title, *columns], *rows], left=[0])]
    if any(not point.inside for point in tuned.named):
        lines.append("* weights that the region rules out: for comparison only")
    if photos:
        lines.append(
            "simulated: photos made of gallery images by code find the image they were made of; they rank descriptors and "
            "whitening, and tell neither how well real photos do nor whether joining gallery images helps"
        )
    return lines


def step_in_words(step: Mapping[str, object]) -> str:
    """Return a step in words: its name and its settings."""
    settings = ", ".join(f"{key} {value}" for key, value in step.items() if key != "step")
    return f"{step['step']} ({settings})" if settings else str(step["step"])


def _unseen(tuned: Tuned) -> list[str]:
    """What to expect on new queries, and whether the gain over the untuned recipe is more than chance."""
    gain, found = tuned.comparison, tuned.cross_validated
    if gain is None:
        return [
            "one group of public queries: no figure on unseen queries, no interval and no test can be given"
        ]
    aside = "" if tuned.certificate is None else ", of the study without the certificate"
    lines, chosen_by = [], tuned.labelled.real[tuned.labelled.public]
    asked = "queries" if chosen_by.any() else "simulated photos"
    if found is not None:
        lines.append(
            f"to expect on new {asked}: {found.mean:.4f} (95 % {_interval(found.interval, '.4f')}), from tuning on a part of "
            f"the public queries and scoring on the rest (cross-validation{aside}; standard deviation of the parts "
            f"{found.spread:.4f})"
        )
    if tuned.bias_corrected is not None:
        lines.append(
            f"{tuned.bias_corrected:.4f} once the luck of the best of {tuned.trials} trials is taken off (bootstrap bias "
            f"correction{aside})"
        )
    probability = f"= {gain.p:.3f}" if gain.p >= 0.0005 else "< 0.001"
    both = " on labels and photos, as they judge the study" if len(set(chosen_by)) == 2 else ""
    lines.append(
        f"gain over untuned{both}, {'bias-corrected' if found is None else 'cross-validated'}: {gain.gain:+.4f} "
        f"(95 % {_interval(gain.interval, '+.4f')}); chance alone gives as much with probability p {probability}; "
        f"{gain.wins} queries better, {gain.ties} equal, {gain.losses} worse"
    )
    if gain.within_noise:
        lines.append("WARNING: no gain beyond chance: the untuned recipe is recommended")
    return lines


def _interval(interval: tuple[float, float] | None, form: str) -> str:
    return "no interval" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def report_values(tuned: Tuned) -> dict:
    """Return the same as plain values, for --json."""
    values: dict[str, Any] = {
        "recipe": str(tuned.paths["recipe"]),
        "untuned": str(tuned.paths["untuned"]),
        "trials": tuned.trials,
        "new_trials": tuned.new_trials,
        "scores": tuned.recipe.scores,
        "untuned_scores": tuned.untuned.scores,
        "weights": {part.name: weight for part, weight in zip(tuned.recipe.components, tuned.recipe.weights)},
        "choice": tuned.recipe.choice,
        "steps": list(tuned.recipe.steps),
        "seconds_per_trial": {kind.name: kind.seconds for kind in tuned.kinds},
        "importances": tuned.importances,
        "gain": None,
        "bias_corrected": tuned.bias_corrected,
        "named": {
            point.name: {**mean_figures(point.average_precisions, tuned.labelled), "inside": point.inside}
            for point in tuned.named
        },
        "near_best_share": tuned.near_best_share,
        "mean_candidates": tuned.combination.mean_candidates,
    }
    if (gain := tuned.comparison) is not None:
        same = {name: getattr(gain, name) for name in ("p", "within_noise", "wins", "ties", "losses")}
        values["gain"] = {"mean": gain.gain, "interval": gain.interval and list(gain.interval), **same}
    if tuned.mixed is not None:
        values["mixed"] = tuned.mixed
    if tuned.misses is not None:
        values["missed"] = {
            "images": len(tuned.misses),
            "file": str(tuned.paths["missed"]),
            "never reachable": int((~tuned.misses["reachable"]).sum()),
        }
    if tuned.cross_validated is not None:
        values["cross_validated"] = tuned.cross_validated.figures()
    if tuned.certificate is not None:
        told = ("best", "bound", "gap", "nodes")
        values["certificate"] = {name: getattr(tuned.certificate, name) for name in told}
    return values

"""The name of a study, and it, its trials and their parameters in words, for optuna-dashboard, reports and pages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from competition.configuration import Backbone, Parts
from competition.images import ids_digest
from competition.leaderboard import file_digest
from competition.metrics import WHOLE_LISTS, figure_label
from features.components import Choice, Component, full_name, layer_in_words
from features.ranking.photos import photos_for
from tuning.evaluating import mean_figures
from tuning.landscape import Landscape
from tuning.region import chain_members

# raise it where a trial's parameters come to mean other weights, or its figure is computed otherwise
SEARCH = 1


def study_name(landscape: Landscape) -> str:
    """Name what a trial's value depends on: a study of other data, other choices or another search is another study."""
    configuration, labelled, space = landscape.configuration, landscape.labelled, landscape.space
    tuning, competition = configuration.tuning, configuration.competition
    described = {
        "choices": {name: list(values) for name, values in landscape.choice_lists.items()},
        "region": tuning.region,
        "gallery": ids_digest(landscape.gallery_ids),
        "queries": ids_digest(labelled.query_ids),
        "relevant": [rows.tolist() for rows in labelled.relevant],
        "top_k": competition.top_k,
        "private": np.flatnonzero(labelled.private).tolist(),
        "sampler": tuning.sampler,
        "dumps": _dump_names(landscape),
        "search": SEARCH,
    }
    described |= {} if landscape.metric == "map" else {"metric": landscape.metric}
    if landscape.metric == WHOLE_LISTS:
        described["junk"] = [rows.tolist() for rows in labelled.junk]
    objective = configuration.objective
    if objective != "labels":
        described["objective"] = [objective, labelled.weight.tolist()]
    if space.steps:
        described["steps"] = [
            [step.name, step.optional, {key: list(values) for key, values in step.values.items()}]
            for step in space.steps
        ]
        shares = [  # whichever shares of user photos the steps may learn from
            {"step": step.name, "unlabelled": share}
            for step in space.steps
            for share in step.values.get("unlabelled", (0,))
        ]
        photos = photos_for(configuration, space.components_of(space.default), shares, landscape.gallery_ids)
        described |= {} if photos is None else {"photos": photos.identity}
    if space.recipe is not None:
        names = [part.name for part in space.recipe.components]
        described["recipe"] = [names, list(space.recipe.weights)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    studied = [] if space.recipe is None else [space.recipe.name]
    return "-".join([competition.name, *studied, digest])


def _dump_names(landscape: Landscape) -> list[str]:
    """The dump files of the first choice, whose names hold the digest of what made them, and the boxes cut out."""
    queries, gallery = landscape.dumps(landscape.space.default)
    folders = {dump.path.parent.name for dump in (*queries, *gallery)}
    cut = sorted(name for name in folders if name.startswith("cut-"))
    return sorted(dump.path.name for dump in gallery) + cut


def figure_of(landscape: Landscape) -> str:
    """Return what a trial's figure is: "MAP@7", and where photos judge it, that they do."""
    judges = {"labels": "", "simulated": " of simulated photos", "both": " of labels and simulated photos"}
    return figure_label(landscape.metric, landscape.top_k) + judges[landscape.configuration.objective]


def study_attributes(landscape: Landscape) -> dict[str, str]:
    """Return what a study is of: recipe, region, backbones, labels and what its parameters u0, u1, … mean."""
    configuration, space = landscape.configuration, landscape.space
    names = share_names(space.components_of(space.default))
    shares = [f"u{number}: {name}" for number, name in enumerate(names)]
    found = {
        "recipe": "the configuration's choices" if space.recipe is None else space.recipe.name,
        "region": configuration.tuning.region,
        "backbones": "; ".join(map(_backbone, configuration.backbones)),
        "other descriptors": ", ".join(external.name for external in configuration.externals),
        "labels": _labels(landscape),
        "figure": f"{figure_of(landscape)} (public)",
        "judged by": configuration.objective,
        "u0, u1, … (the smaller, the larger the share)": "; ".join(shares),
    }
    return {key: text for key, text in found.items() if text}


def trial_attributes(landscape: Landscape, choice: Choice, coordinates: np.ndarray) -> dict[str, float]:
    """Return the weight of each component by its name, and the figure of the private queries where there are any."""
    components = landscape.space.components_of(choice)
    weights = landscape.recipe_weights(choice, coordinates)
    found = {full_name(part): round(float(weight), 4) for part, weight in zip(components, weights)}
    private = mean_figures(landscape.precisions(choice, coordinates), landscape.labelled).get("private")
    if private is not None:
        found[f"private {figure_label(landscape.metric, landscape.top_k)}"] = round(private, 4)
    return found


def _backbone(backbone: Backbone) -> str:
    layers = ", ".join(map(str, backbone.layers))
    size = f"{backbone.image_size} px" if backbone.image_size else "original size"
    described = f"{backbone.name} at {size}, layers {layers}, pooling {', '.join(backbone.pooling)}"
    return ", ".join([described, *map(_parts, backbone.parts)])


def _parts(table: Parts) -> str:
    return f"{' or '.join(map(str, table.counts))} part detectors of {layer_in_words(table.layer)}"


def _labels(landscape: Landscape) -> str:
    """Where the labels are from, how many queries they answer, and the digest of a file."""
    labelled, source = landscape.labelled, landscape.configuration.competition.labels
    real, private = int(labelled.real.sum()), int((labelled.real & labelled.private).sum())
    photos = len(labelled.real) - real
    counted = [f"{real} queries, {private} of them private"] if real else ["none"]
    counted += [f"{photos} simulated photos"] if photos else []
    if real and isinstance(source, Path) and source.is_file():
        counted.append(f"{source.name}, SHA-256 {file_digest(source)[:12]}")
    return "; ".join(counted)


def share_names(components: Sequence[Component]) -> list[str]:
    """Return what each coordinate of a trial says: the share of weight that goes to a layer and all deeper ones."""
    poolings = {(part.backbone, part.pooling) for part in components if part.pooling is not None}
    chosen = [sum(backbone == part.backbone for backbone, _ in poolings) == 1 for part in components]
    names = [_without_choices(part, pooled=not one) for part, one in zip(components, chosen)]
    for members in chain_members([component.chain for component in components]):
        for member in members[:-1]:
            names[member] += " and deeper"
    if len({component.backbone for component in components} - {None}) > 1:
        backbones = [component.backbone for component in components]
        names = [f"{name}, {backbone}" if backbone else name for name, backbone in zip(names, backbones)]
    return [f"share of {name}" for name in names]


def _without_choices(component: Component, *, pooled: bool) -> str:
    """A component without its choices, which are parameters of their own; pooled: with its pooling, which is none."""
    if component.external is not None:
        return component.external
    if component.parts is None:
        return f"layer {component.layer}" + (f" {component.pooling}" if pooled else "")
    return f"part detectors of {layer_in_words(component.layer)}"


def choice_name(name: str, components: Sequence[Component]) -> str:
    """Return the name of a choice in words: "mobilenetv1_100.parts-4.count" is "part detectors of layer 4: count".

    A backbone that is the only one is left out.
    """
    place, _, key = name.rpartition(".")
    backbones = {component.backbone for component in components if component.backbone is not None}
    for backbone in backbones:
        own = backbone if len(backbones) > 1 else ""
        if place == backbone:
            return f"{own}: {key}" if own else key
        if (layer := place.removeprefix(f"{backbone}.parts-")) != place:
            return f"{own} part detectors of {layer_in_words(layer)}: {key}".strip()
    return f"{place}: {key}" if place else key


def parameter_name(name: str, components: Sequence[Component]) -> str:
    """Return the name of any parameter of a trial in words; coordinates that are not one a component keep theirs."""
    shares = {f"u{number}": share for number, share in enumerate(share_names(components))}
    return shares.get(name) or choice_name(name, components)

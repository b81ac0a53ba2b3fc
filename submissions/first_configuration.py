"""The first configuration of a competition: what a folder holds, with what is recommended for this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from pathlib import Path

import numpy as np

from competition.configuration import Backbone, load_configuration
from competition.errors import ConfigurationError, Top7Error
from competition.printable import printable
from features.extraction.settings import available_cores
from submissions.folder_contents import Contents

CPU = ("mobilenetv1_100.ra4_e3600_r224_in1k", 288)
GPU = ("resnet50.a1_in1k", 384)
HUB = "huggingface.co"
SIMULATED, VIEWS = 2000, 8
FEW_LABELLED = 30
FOLDERS = '"folders"'


def write_first_configuration(
    found: Contents, out: Path, *, model: str | None = None, weights: Path | None = None
) -> tuple[list[str], list[str]]:
    """Write `out`, which must not be there; returns the lines that say what was found, and those that need a look.

    model, weights: a timm model and a local file of its weights, in place of the recommended one.
    """
    import torch

    if weights is not None and model is None:
        raise ConfigurationError(f"--weights {weights}: whose are they? give --model NAME, a timm model")
    if weights is not None and not weights.is_file():
        raise ConfigurationError(f"--weights {weights}: no such file")
    gpu = torch.cuda.is_available()
    recommended, image_size = GPU if gpu else CPU
    model = model or recommended
    network = _network(model, image_size)
    deepest = list(range(len(network.feature_info.info)))[-3:]
    unsure = list(found.unsure)
    if weights is None and not _hub_reachable():
        unsure.append(
            f"weights: {HUB} cannot be reached from here, and extract will need the weights of {model}: download them "
            "elsewhere and give ./run.sh init … --model NAME --weights FILE (safetensors or a plain state dict)"
        )
    if 0 < len(found.correct) < FEW_LABELLED:
        unsure.append(f"labels: {len(found.correct)} labelled queries can hardly tell recipes apart")
    seen = [*_seen(found), _estimate(found, model, network, image_size, gpu)]
    network_lines = [
        f"# Recommended {'with' if gpu else 'without'} a GPU; --model and --weights of init choose another.",
        "[[backbone]]",
        f"model = {json.dumps(model)}",
        f"weights = {_quoted(weights, out)}"
        if weights
        else 'weights = "pretrained"     # fetched once; or a local file',
        '# options = { pad_type = "same" }, mean, std: where local weights want other than timm\'s own',
        f"image_size = {image_size}",
        'resize = "pad"             # keeps the aspect ratio',
        f"layers = {deepest}         # the three deepest",
    ]
    text = _text(found, out, network_lines, seen, unsure)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "x", encoding="utf-8") as stream:  # the command has looked that it is not there
        stream.write(text)
    try:
        load_configuration(out)
    except Top7Error:
        out.unlink()
        raise
    return seen, unsure


def _seen(found: Contents) -> list[str]:
    lines = []
    for split, images in found.images.items():
        formats = ", ".join(f"{name} {count}" for name, count in found.formats[split].most_common())
        sizes = found.sizes[split].max(axis=1) if len(found.sizes[split]) else np.zeros(1, int)
        lines.append(
            f"{split}: {len(images)} images in {found.folders[split]}; of those looked at: {formats or 'none readable'}; "
            f"longer side {sizes.min()} to {sizes.max()} px, median {int(np.median(sizes))}"
        )
    if found.correct:
        counts = sorted(found.correct)
        lines.append(
            f"labels: {found.labels}, all {len(counts)} queries matched; correct images a query: "
            f"{counts[0]} to {counts[-1]}, median {counts[len(counts) // 2]}"
        )
    return lines + [f"odd: {line}" for line in found.odd]


def _network(model: str, image_size: int):
    """The network without its weights, which gives the feature maps that timm numbers."""
    from features.timm_models import check_model, create_model, drawing

    check_model(model)
    backbone = Backbone(model, (), model, image_size=image_size)
    try:
        with drawing():
            return create_model(backbone, {"features_only": True}).eval()
    except Exception as error:  # timm raises many kinds
        reason = " ".join(str(error).split())[:120]
        raise ConfigurationError(
            f"--model {model}: timm gives no feature maps by number ({reason}): choose another, or write its "
            "[[backbone]] with the names of modules in layers"
        ) from error


def _estimate(found: Contents, model: str, network, image_size: int, gpu: bool) -> str:
    """The network timed here; its weights do not matter for that."""
    import torch

    device = "cuda" if gpu else "cpu"
    images = sum(map(len, found.images.values())) + VIEWS * min(SIMULATED, len(found.images["gallery"]))
    network, batch = network.to(device), torch.zeros(4, 3, image_size, image_size, device=device)
    with torch.inference_mode():
        for _ in range(2):  # the first one warms up
            begun = time.perf_counter()
            network(batch)[-1].sum().item()
            seconds = (time.perf_counter() - begun) / len(batch)
    return (
        f"machine: {'a GPU' if gpu else 'no GPU'}, {available_cores()} cores; {model} takes {1000 * seconds:.0f} ms an "
        f"image at {image_size} px, {images * seconds / 3600:.2g} hours for {images} images and simulated photos, decoding "
        "and pooling apart (extract measures all of it before it begins)"
    )


def _quoted(path: Path, out: Path) -> str:
    """A path as the file `out` names it: relative where it lies below."""
    path, home = path.resolve(), out.parent.resolve()
    named = os.path.relpath(path, home) if path.is_relative_to(home) else str(path)
    return json.dumps(named, ensure_ascii=False)


def _text(found: Contents, out: Path, network: list[str], seen: list[str], unsure: list[str]) -> str:
    name = re.sub(r"[^\w-]", "-", found.folder.resolve().name) or "competition"
    lines = [
        "# Written by ./run.sh init. Next: ./run.sh extract, tune and submit, each with --config this file.",
        *(f"# found: {line}" for line in seen),
        *(f"# PLEASE CHECK: {line}" for line in unsure),
        "",
        "[competition]",
        f"name = {json.dumps(name, ensure_ascii=False)}",
        *(f"{split} = {_quoted(path, out)}" for split, path in found.folders.items()),
    ]
    if "test" not in found.folders:
        lines.append('# test = "…"           # no folder named test: the queries to be answered')
    if found.labels is None:
        lines.append('# labels = "….csv"     # query,gallery[,gallery…]; none was found')
    else:
        lines.append(f"labels = {_quoted(found.labels, out) if isinstance(found.labels, Path) else FOLDERS}")
    lines += [
        f"ids = {json.dumps(found.ids):<19}# name | path (with the folders below)",
        '# submission = "kaggle"   # header id,images, ids separated by spaces',
        "",
        *network,
        'pooling = ["rmac", "spoc-centre"]   # recipe top7 joins the two; the study chooses one',
        "",
        "[simulate]                 # photos made of gallery images: they teach what a photo changes, and judge",
        f"images = {SIMULATED}              # at most; extract then writes a page to look at,",
        f"views = {VIEWS}                  # work/…/dumps/simulated/…/contact_sheet.jpg",
        "",
        "[tuning]",
        "trials = 200",
        "private = 0.3              # share of the labelled queries that the study never sees",
        "# what photos change counts little; the study may leave it out:",
        'steps = [{ step = "photo_whiten", dim = 256, shrinkage = 0.1, unlabelled = 0.1, optional = true }]',
    ]
    return "".join(f"{printable(line)}\n" for line in lines)


def _hub_reachable() -> bool:
    with contextlib.suppress(OSError):
        return bool(socket.getaddrinfo(HUB, 443))
    return False

"""The first configuration of a competition: what a folder holds, with what is recommended for this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
import torch
from PIL import Image

from competition.configuration import Backbone, Simulate
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, list_images
from competition.labels import folder_labels, read_labels
from competition.messages import log
from competition.printable import printable
from features.extraction.settings import available_cores
from features.images.decode_ahead import opened
from features.images.decoding import FORMATS, set_up_pillow
from submissions.outcome import Outcome

CPU = ("mobilenetv1_100.ra4_e3600_r224_in1k", 288)
# of the networks that embed an image themselves, which lead on instances (ILIAS, CVPR 2025), one that an hour is enough for
GPU = ("vit_base_patch16_siglip_384.v2_webli", 384)
HUB = "huggingface.co"
FEW_LABELLED = 30
TEMPLATE = Path(__file__).with_suffix(".toml")
NAMES = {
    "gallery": ("gallery", "index", "database", "db", "train", "images"),
    "validation": ("validation", "val", "valid", "query", "queries"),
    "test": ("test", "testing"),
}
KNOWN = set(sum(NAMES.values(), ()))
LOOKED_AT = 200  # images of a split whose headers are read
SMALL_PX = 64
MOST_LISTED = 8  # folders; more are taken for classes


@dataclass
class Contents:
    """What a folder holds.

    folders, images: by split; labels: a file, "folders" or None; correct: images per labelled query; seen, odd: a line
    each; unsure: what could not be told, and what was taken instead.
    """

    folder: Path
    folders: dict[str, Path] = field(default_factory=dict)
    images: dict[str, ImageSet] = field(default_factory=dict)
    ids: str = "name"
    labels: Path | str | None = None
    correct: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)


def write_first_configuration(
    folder: Path, out: Path | None, model: str | None, weights: Path | None
) -> Outcome:
    """Look at `folder` and write `out`, which must not be there; returns what was found, and what needs a look.

    model, weights: a timm model and a local file of its weights, in place of the recommended one.
    """
    out = out or Path(f"{folder.resolve().name or 'competition'}.toml")
    if out.exists():
        raise ConfigurationError(f"{out} is there already: it stays as it is; give another --out FILE")
    found = contents_of(folder)
    if weights is not None and model is None:
        raise ConfigurationError(f"--weights {weights}: whose are they? give --model NAME, a timm model")
    if weights is not None and not weights.is_file():
        raise ConfigurationError(f"--weights {weights}: no such file")
    gpu = torch.cuda.is_available()
    recommended, image_size = GPU if gpu else CPU
    model = model or recommended
    network, unsure = _network(model, image_size), found.unsure
    module = getattr(network, "model", network)  # as timm wraps a transformer
    embeds = hasattr(module, "cls_token")
    if embeds:
        image_size += -image_size % int(np.max(module.patch_embed.patch_size))
    if weights is None and not _hub_reachable():
        unsure.append(
            f"weights: {HUB} cannot be reached from here, and extract will need the weights of {model}: download them "
            "elsewhere and give ./run.sh init … --model NAME --weights FILE (safetensors or a plain state dict)"
        )
    if 0 < len(found.correct) < FEW_LABELLED:
        unsure.append(f"labels: {len(found.correct)} labelled queries can hardly tell recipes apart")
    found.seen += [f"odd: {line}" for line in found.odd]
    found.seen.append(_estimate(found, model, network, image_size, gpu))
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
    environment.finalize = lambda value: printable(" ".join(str(value).splitlines()))
    environment.filters["quoted"] = lambda value: _quoted(value, out)
    described = {"model": model, "weights": weights, "image_size": image_size, "gpu": gpu, "embeds": embeds}
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        found=found,
        name=re.sub(r"[^\w-]", "-", found.folder.resolve().name) or "competition",
        deepest=list(range(len(network.feature_info.info)))[-3:],
        simulate=Simulate(),
        **described,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    for line in unsure:
        log.warning(f"top7: please check: {line}")
    following = f"{out}: next, ./run.sh extract --config {shlex.quote(str(out))}"
    values = {"configuration": str(out), "found": found.seen, "unsure": unsure}
    return Outcome(values, "\n".join([*found.seen, following]))


def contents_of(folder: Path) -> Contents:
    """Look at `folder`; Top7Error where it holds no images or their names cannot be ids."""
    found = Contents(folder)
    if not folder.is_dir():
        raise Top7Error(f"{folder}: expected a folder of images")
    inside = _folders(folder)
    if len(inside) == 1 and KNOWN & {each.name.lower() for each in _folders(inside[0])}:
        inside = _folders(inside[0])
    for split, names in NAMES.items():
        known = [path for name in names for path in inside if path.name.lower() == name]
        if known:
            found.folders[split] = known[0]
        if len(known) > 1:
            others = f"{', '.join(path.name for path in known[1:])} could be it, too, and is left out"
            found.unsure.append(f"{split}: {known[0].name} is taken; {others}")
    if "gallery" not in found.folders:
        _gallery_without_a_name(found, [path for path in inside if path not in found.folders.values()])
    _list(found)
    _find_labels(found)
    for split, images in found.images.items():
        _read_headers(found, split, images)
    if found.correct:
        least, middle, most = (sorted(found.correct)[at] for at in (0, len(found.correct) // 2, -1))
        found.seen.append(
            f"labels: {found.labels}, all {len(found.correct)} queries matched; correct images a query: {least} to {most}, "
            f"median {middle}"
        )
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _gallery_without_a_name(found: Contents, others: list[Path]) -> None:
    """Take the folder itself where no part of it has a known name, else the other folder with the most images."""
    known = ", ".join(NAMES["gallery"])
    unnamed = f"gallery: no folder is named {known}"
    counts = {path: sum(1 for each in path.rglob("*") if each.is_file()) for path in others}
    if found.folders and not counts:
        raise Top7Error(
            f"{found.folder}: no folder of gallery images beside the queries: name it one of {known}"
        )
    if found.folders:
        found.folders["gallery"] = taken = max(others, key=counts.__getitem__)
        found.unsure.append(f"{unnamed}: {taken.name} is taken, which has the most files")
        return
    found.folders["gallery"] = found.folder
    found.unsure.append(f"{unnamed}: all images of {found.folder} are taken")
    if 1 < len(counts) <= MOST_LISTED:
        listed = ", ".join(f"{path.name} {count}" for path, count in counts.items())
        found.unsure.append(
            f"queries: the files of its folders: {listed}: where one holds queries, write validation = … or test = … "
            "and gallery = … with their names"
        )


def _list(found: Contents) -> None:
    """List the images; where names clash, ids are paths in all splits."""
    try:
        found.images = {split: list_images(path) for split, path in found.folders.items()}
    except Top7Error as error:
        if 'ids = "path"' not in str(error):
            raise
        found.ids = "path"
        found.images = {split: list_images(path, ids="path") for split, path in found.folders.items()}
        found.odd.append("the same file name is in several folders: ids are paths")
    for split, images in found.images.items():
        others = [Path(path).name for path in images.others if not path.lower().endswith(".csv")]
        if others:
            found.odd.append(f"{split}: {len(others)} files are no images by their extension, as {others[0]}")


def _find_labels(found: Contents) -> None:
    """The label file whose content names queries and gallery images; else folders of the same paths in both."""
    if "validation" not in found.images:
        found.unsure.append(
            f"validation: no folder is named {', '.join(NAMES['validation'])}: there are no labelled queries"
        )
        return
    queries, gallery, reasons, fitting = found.images["validation"].ids, found.images["gallery"].ids, [], {}
    for path in sorted({*found.folder.glob("*.csv"), *found.folder.glob("*/*.csv")}):
        try:
            labels = read_labels(path, query_ids=queries, gallery_ids=gallery)
            fitting[path] = [len(correct) for correct in labels.values()]
        except Top7Error as error:
            reasons.append(f"labels: {path.name} is not taken ({error})")
    if fitting:
        (found.labels, found.correct), *others = fitting.items()
        taken = f"labels: {next(iter(fitting)).name} is taken"
        found.unsure += [f"{taken}; {path.name} fits, too, and is left out" for path, _ in others]
        return
    found.unsure += reasons
    try:
        by_path = {split: list_images(path, ids="path") for split, path in found.folders.items()}
        labels = folder_labels(by_path["validation"].ids, by_path["gallery"].ids)
    except Top7Error:
        found.unsure.append("labels: no *.csv names these queries and gallery images, no folder is in both")
        return
    found.ids, found.labels, found.images = "path", "folders", by_path
    found.correct = [len(correct) for correct in labels.values()]


def _read_headers(found: Contents, split: str, images: ImageSet) -> None:
    """Say formats and sizes of some images, evenly spread, and what is odd about them."""
    rows = np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).round().astype(int))
    formats: Counter[str | None] = Counter()
    sides, unreadable, misnamed = [], [], 0
    set_up_pillow()
    for row in rows:
        path = Path(images.paths[row])
        try:
            stream, _ = opened(path)
            with stream, Image.open(stream, formats=FORMATS) as image:
                formats[image.format] += 1
                sides.append(max(image.size))
                named = Image.registered_extensions().get(path.suffix.lower())
                misnamed += named is None or image.format not in (named, "MPO")
        except Exception:  # Pillow's plugins raise many kinds on damage; extraction gives each image's reason
            unreadable.append(path.name)
    small, sides = sum(side < SMALL_PX for side in sides), sides or [0]
    listed = ", ".join(f"{name} {count}" for name, count in formats.most_common())
    found.seen.append(
        f"{split}: {len(images)} images in {found.folders[split]}; of those looked at: {listed or 'none readable'}; "
        f"longer side {min(sides)} to {max(sides)} px, median {int(np.median(sides))}"
    )
    for count, words in (
        (len(unreadable), f"cannot be read, as {unreadable[0] if unreadable else ''}"),
        (misnamed, "are of another format than their names say (read all the same)"),
        (small, f"have no side of {SMALL_PX} pixels"),
    ):
        found.odd += [f"{split}: {count} of {len(rows)} images looked at {words}"] * bool(count)


def _network(model: str, image_size: int):
    """The network without its weights, which gives the feature maps that timm numbers."""
    from features.networks.timm_models import check_model, create_model, drawing

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
    device, simulate = "cuda" if gpu else "cpu", Simulate()
    images = sum(map(len, found.images.values()))
    images += simulate.views * min(simulate.images, len(found.images["gallery"]))
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


def _quoted(value: Path | str, out: Path) -> str:
    """A text, or a path as the file `out` names it: relative where it lies below."""
    if isinstance(value, Path):
        path, home = value.resolve(), out.parent.resolve()
        value = os.path.relpath(path, home) if path.is_relative_to(home) else str(path)
    return json.dumps(value, ensure_ascii=False)


def _hub_reachable() -> bool:
    with contextlib.suppress(OSError):
        return bool(socket.getaddrinfo(HUB, 443))
    return False

"""The first configuration of a competition: what a folder holds, with what is recommended for this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import time
from pathlib import Path

import jinja2
import numpy as np

from competition.configuration import Backbone, Simulate
from competition.errors import ConfigurationError
from competition.messages import log
from competition.printable import printable
from features.extraction.settings import available_cores
from submissions.folder_contents import Contents, contents_of
from submissions.outcome import Outcome

CPU = ("mobilenetv1_100.ra4_e3600_r224_in1k", 288)
# of the networks that embed an image themselves, which lead on instances (ILIAS, CVPR 2025), one that an hour is enough for
GPU = ("vit_base_patch16_siglip_384.v2_webli", 384)
HUB = "huggingface.co"
FEW_LABELLED = 30
TEMPLATE = Path(__file__).with_suffix(".toml")


def write_first_configuration(
    folder: Path, out: Path | None, model: str | None, weights: Path | None
) -> Outcome:
    """Look at `folder` and write `out`, which must not be there; returns what was found, and what needs a look.

    model, weights: a timm model and a local file of its weights, in place of the recommended one.
    """
    import torch

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
    transformer = getattr(network, "model", network)
    embeds = hasattr(transformer, "cls_token")
    if embeds:
        image_size += -image_size % int(np.max(transformer.patch_embed.patch_size))
    if weights is None and not _hub_reachable():
        unsure.append(
            f"weights: {HUB} cannot be reached from here, and extract will need the weights of {model}: download them "
            "elsewhere and give ./run.sh init … --model NAME --weights FILE (safetensors or a plain state dict)"
        )
    if 0 < len(found.correct) < FEW_LABELLED:
        unsure.append(f"labels: {len(found.correct)} labelled queries can hardly tell recipes apart")
    seen = [*_seen(found), _estimate(found, model, network, image_size, gpu)]
    environment = jinja2.Environment(
        trim_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(" ".join(str(value).splitlines())),
    )
    environment.filters["quoted"] = lambda value: _quoted(value, out)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        found=found,
        name=re.sub(r"[^\w-]", "-", found.folder.resolve().name) or "competition",
        seen=seen,
        unsure=unsure,
        gpu=gpu,
        model=model,
        weights=weights,
        image_size=image_size,
        embeds=embeds,
        deepest=list(range(len(network.feature_info.info)))[-3:],
        simulate=Simulate(),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    for line in unsure:
        log.warning(f"top7: please check: {line}")
    values = {"configuration": str(out), "found": seen, "unsure": unsure}
    return Outcome(
        values, "\n".join([*seen, f"{out}: next, ./run.sh extract --config {shlex.quote(str(out))}"])
    )


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
    import torch

    device = "cuda" if gpu else "cpu"
    simulate = Simulate()
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

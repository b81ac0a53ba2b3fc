"""`parts`: the part detectors as an HTML page, each with the images that excite it most and its weight map over them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from competition.atomic import write_text
from competition.configuration import Configuration
from competition.errors import ConfigurationError
from features.dumps.layout import backbone_recipe
from features.dumps.part_tables import part_table
from features.extraction import extracted_images
from features.extraction.engine import Engine
from features.extraction.settings import choose_device, fixed_settings, settings_path
from features.images.simulated_photos import jpeg_bytes
from features.parts import training_rows
from features.parts.exciting import most_exciting
from features.parts.part_model import open_parts
from submissions.report import environment

PICTURE_PX = 160
SAMPLE_IMAGES = 1000
COLOURS = ((20, 30, 140), (0, 140, 160), (60, 190, 60), (240, 220, 0), (220, 20, 0))  # of weights from 0 to 1


def write_parts_page(
    configuration: Configuration,
    out: Path | None = None,
    *,
    top: int = 12,
    images: int = 6,
    device: str = "auto",
) -> Path:
    """Write the page of every parts table to `out` (default <work>/parts.html); returns its path.

    top: detectors a table; images: pictures a detector, the best among SAMPLE_IMAGES seeded gallery images. Runs those
    images through the network. ConfigurationError where the configuration has no parts, Top7Error where they have not
    been learnt yet.
    """
    if not any(backbone.parts for backbone in configuration.backbones):
        raise ConfigurationError(
            f"{configuration.path}: no part detectors to show: write parts = {{ layer = …, counts = […], dims = […] }} in a"
            " [[backbone]]"
        )
    work, sections = configuration.competition.work, []
    for backbone in configuration.backbones:
        base = backbone_recipe(configuration, backbone)
        for parts in backbone.parts:
            model = open_parts(part_table(work, backbone.name, base, parts))
            about = json.loads((model.folder / "order.json").read_text(encoding="utf-8"))
            settings = fixed_settings(settings_path(work, backbone, base), backbone, choose_device(device))
            gallery = extracted_images(configuration, "gallery")
            sample = training_rows(replace(parts, training_images=SAMPLE_IMAGES), len(gallery))
            detectors = [int(channel) for channel in model.order[:top]]
            found = most_exciting(Engine(backbone, settings), gallery.rows(sample), parts, detectors, images)
            variance = about.get("variance") or []
            subtitle = (
                f"{len(detectors)} of {len(model.order)} channels by {parts.selection}, learnt from {model.n} images; for "
                f"each the most exciting of {len(sample)} gallery images, as the network sees them, in the colours of the "
                "weight map (blue 0, green, yellow, red its largest). The whole order: "
                f"{model.folder / 'order.json'}"
            )
            section = {"title": f"{backbone.name}, layer {parts.layer}", "subtitle": subtitle}
            shown = list(zip(detectors, found, strict=True))
            sections.append({**section, "rows": shown, "variance": variance, "count": max(parts.counts)})
    title = f"{configuration.competition.name}: part detectors"
    page = environment().get_template("parts.html").render(title=title, sections=sections, overlay=overlay)
    return write_text(out or work / "parts.html", page)


def overlay(pixels: np.ndarray, weights: np.ndarray) -> str:
    """Return a JPEG data URI of the picture (H, W, 3) uint8 in grey under the colours of the weight map (h, w).

    Weights are divided by their largest and enlarged bilinearly; blue is 0, then green and yellow, red the largest.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_PX, PICTURE_PX))
    share = Image.fromarray(np.uint8(np.round(255 * weights / (weights.max() or 1))))
    heat = np.asarray(share.resize(picture.size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    steps = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(heat, steps, channel) for channel in np.transpose(COLOURS)], axis=2)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[:, :, None]
    shown = Image.fromarray(np.uint8(np.round(0.5 * grey + 0.5 * colour)))
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(shown, 82)).decode("ascii")

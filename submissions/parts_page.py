"""`parts`: the part detectors as an HTML page, each with the images that excite it most and its weight map over them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from competition.atomic import write_text
from competition.configuration import Backbone, Configuration, Parts
from competition.errors import ConfigurationError

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
    tables = [(backbone, parts) for backbone in configuration.backbones for parts in backbone.parts]
    if not tables:
        raise ConfigurationError(
            f"{configuration.path}: no part detectors to show: write parts = {{ layer = …, counts = […], dims = […] }} in a"
            " [[backbone]]"
        )
    sections = [_section(configuration, *each, top, images, device) for each in tables]
    html = parts_html(f"{configuration.competition.name}: part detectors", sections)
    return write_text(Path(out) if out else Path(configuration.competition.work) / "parts.html", html)


def _section(
    configuration: Configuration, backbone: Backbone, parts: Parts, top: int, most: int, device: str
) -> dict:
    from features.dumps.layout import backbone_recipe
    from features.dumps.part_tables import part_table
    from features.extraction import extracted_images
    from features.extraction.engine import Engine
    from features.extraction.settings import choose_device, fixed_settings, settings_path
    from features.parts import training_rows
    from features.parts.exciting import most_exciting
    from features.parts.part_model import open_parts

    work, base = configuration.competition.work, backbone_recipe(configuration, backbone)
    model = open_parts(part_table(work, backbone.name, base, parts))
    about = json.loads((model.folder / "order.json").read_text(encoding="utf-8"))
    settings = fixed_settings(settings_path(work, backbone, base), backbone, choose_device(device))
    engine = Engine(backbone, settings)
    gallery = extracted_images(configuration, "gallery")
    gallery = gallery.rows(training_rows(replace(parts, training_images=SAMPLE_IMAGES), len(gallery)))
    detectors = [int(channel) for channel in model.order[:top]]
    found = most_exciting(engine, gallery, parts, detectors, most)
    variance = about.get("variance") or []
    rows = [
        {
            "place": place,
            "channel": channel,
            "variance": variance[place - 1] if place <= len(variance) else None,
            "images": [
                {"id": one.id, "response": one.response, "picture": overlay(one.pixels, one.weights)}
                for one in excited
            ],
        }
        for place, (channel, excited) in enumerate(zip(detectors, found, strict=True), start=1)
    ]
    return {
        "title": f"{backbone.name}, layer {parts.layer}",
        "subtitle": (
            f"{len(detectors)} of {len(model.order)} channels by {parts.selection}, learnt from {model.n} images; for each"
            f" the most exciting of {len(gallery)} gallery images, as the network sees them, in the colours of the weight map (blue 0, green, yellow, red its largest)."
            f" The whole order: {model.folder / 'order.json'}"
        ),
        "curve": curve(variance, max(parts.counts)),
        "rows": rows,
    }


def overlay(pixels: np.ndarray, weights: np.ndarray) -> str:
    """Return a JPEG data URI of the picture (H, W, 3) uint8 in grey under the colours of the weight map (h, w).

    Weights are divided by their largest and enlarged bilinearly; blue is 0, then green and yellow, red the largest.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_PX, PICTURE_PX))
    share = Image.fromarray(np.uint8(np.round(255 * weights / (weights.max() or 1))))
    heat = np.asarray(share.resize(picture.size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    steps = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(heat, steps, channel) for channel in np.transpose(COLOURS)], axis=2)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[:, :, None]
    stream = io.BytesIO()
    Image.fromarray(np.uint8(np.round(0.5 * grey + 0.5 * colour))).save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def curve(variance: Sequence[float], count: int, width: int = 640, height: int = 80) -> dict | None:
    """Return the variance in the order of the detectors as points of an SVG line, and where `count` cuts it."""
    if len(variance) < 2 or max(variance) <= 0:
        return None
    step, highest = width / (len(variance) - 1), max(variance)
    points = " ".join(
        f"{place * step:.1f},{height - value / highest * height:.1f}" for place, value in enumerate(variance)
    )
    size = {"width": width, "height": height, "cut": round(min(width, count * step), 1)}
    return {**size, "points": points, "count": count, "highest": highest, "channels": len(variance)}


def parts_html(title: str, sections: Sequence[dict]) -> str:
    """Return the page; every name is escaped."""
    from submissions.report import environment

    return environment().get_template("parts.html").render(title=title, sections=sections)

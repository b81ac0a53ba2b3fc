"""A submission as people see it: each query beside its list, hits in green, what was missed at the end."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from competition.atomic import write_text
from competition.configuration import Configuration
from competition.images import ImageSet, split_images
from competition.labels import read_labels
from competition.metrics import average_precision
from features.decoding import Sizing
from features.extraction.reading import read_picture
from submissions.scoring import read_submission

THUMBNAIL_PX = 104
MOST_QUERIES = 100
_SIZING = Sizing(image_size=THUMBNAIL_PX, resize="pad", fill=(255, 255, 255))


def write_sheet(
    configuration: Configuration,
    submission: Path,
    *,
    labels: Path | None = None,
    out: Path | None = None,
    most: int = MOST_QUERIES,
) -> Path:
    """Write the HTML sheet of a submission file, worst queries first where labels are known; returns its path.

    labels: a label file (default: the configuration's, for validation). At most `most` queries are shown.
    """
    from features.extraction import extracted_images

    competition = configuration.competition
    gallery = extracted_images(configuration, "gallery")
    queries = {
        split: split_images(configuration, split)
        for split in ("validation", "test")
        if getattr(competition, split) is not None
    }
    found = read_submission(
        submission,
        splits={split: images.ids for split, images in queries.items()},
        gallery_ids=gallery.ids,
        top_k=competition.top_k,
        form=competition.submission,
    )
    if labels is None and found.split == "validation":
        labels = competition.labels
    truth = (
        {}
        if labels is None
        else read_labels(labels, query_ids=queries[found.split].ids, gallery_ids=gallery.ids, complete=False)
    )
    rows = sheet_rows(found.answers, truth, competition.top_k)[:most]
    picture = _Pictures(gallery, queries[found.split])
    for row in rows:
        row["picture"] = picture.of_query(row["query"])
        for item in [*row["answers"], *row["missed"]]:
            item["picture"] = picture.of_gallery(item["id"])
    shown = f"{len(rows)} of {len(found.answers)} queries of {found.split}" + (
        ", worst first" if truth else ""
    )
    html = render(f"{competition.name}: {submission.name}", shown, rows)
    path = out or Path(competition.work) / "sheets" / f"{submission.stem}.html"
    return write_text(path, html)


def sheet_rows(
    answers: Mapping[str, Sequence[str]], truth: Mapping[str, Sequence[str]], top_k: int
) -> list[dict]:
    """Return one dict a query: its list with hit or miss where the truth is known, what it missed, its AP."""
    rows = []
    for query, found in answers.items():
        correct = list(truth.get(query, ()))
        kinds = ["plain" if not correct else "hit" if name in correct else "miss" for name in found]
        precision = None
        if correct:
            row_of = {
                name: number for number, name in enumerate([*found, *(n for n in correct if n not in found)])
            }
            precision = average_precision(
                [row_of[name] for name in found], [row_of[name] for name in correct], top_k
            )
        rows.append(
            {
                "query": query,
                "precision": precision,
                "answers": [{"id": name, "kind": kind} for name, kind in zip(found, kinds)],
                "missed": [{"id": name} for name in correct if name not in found],
            }
        )
    return sorted(rows, key=lambda row: (row["precision"] is None, row["precision"] or 0.0, row["query"]))


def render(title: str, subtitle: str, rows: Sequence[dict]) -> str:
    """Return the page; every name is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("retrieval_sheet.html").render(title=title, subtitle=subtitle, rows=rows)


class _Pictures:
    """Thumbnails as data URIs; a gallery image that comes up twice is decoded once."""

    def __init__(self, gallery: ImageSet, queries: ImageSet):
        self._gallery = {name: row for row, name in enumerate(gallery.ids)}
        self._queries = {name: row for row, name in enumerate(queries.ids)}
        self._sets = gallery, queries
        self._made: dict[str, str] = {}

    def of_gallery(self, name: str) -> str:
        if name not in self._made:
            self._made[name] = thumbnail(self._sets[0].paths[self._gallery[name]])
        return self._made[name]

    def of_query(self, name: str) -> str:
        return thumbnail(self._sets[1].paths[self._queries[name]])


def thumbnail(path: Path) -> str:
    """Return the image as a small JPEG data URI; a grey square for an unreadable one."""
    from PIL import Image

    found = read_picture(0, path, (_SIZING,)).pixels
    if found is not None:
        pixels = Image.fromarray(found[0])
    else:
        pixels = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), (200, 200, 200))
    stream = io.BytesIO()
    pixels.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

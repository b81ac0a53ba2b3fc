"""Perfect-500K of 2018 and 2020: a gallery in sub-folders, query photos v000001.jpg …, and one label file.

Gallery ids look like n0001_0003632 in 2018 and like n0292431 in 2020; a query has one to six correct images. The label
file is the one .csv of which rows start with a query id; it may have a BOM, a header, CRLF line ends and ragged rows.
"""

from __future__ import annotations

import re
from pathlib import Path

from competition.datasets.dataset import Dataset, Truth
from competition.errors import Top7Error
from competition.images import list_images
from competition.labels import read_labels, relevant_rows

QUERY = re.compile(r"v\d{6}")
GALLERY = {"perfect500k-2018": re.compile(r"n\d{4}_\d{7}"), "perfect500k-2020": re.compile(r"n\d{7}")}


def load(folder: Path, name: str) -> Dataset:
    """Read gallery, labelled queries and labels below `folder`; Top7Error, one line, for what is missing or wrong."""
    folder = Path(folder)
    images = list_images(folder)
    gallery, photos = images.where(GALLERY[name].fullmatch), images.where(QUERY.fullmatch)
    if not len(gallery) or not len(photos):
        raise Top7Error(
            f"{folder}: {len(gallery)} gallery images and {len(photos)} queries of {name} there: expected names like "
            f"{'n0001_0003632' if name.endswith('2018') else 'n0292431'}.jpg, and v000001.jpg"
        )
    path = label_file(folder)
    labels = read_labels(path, query_ids=photos.ids, gallery_ids=frozenset(gallery.ids), complete=False)
    positives = tuple(frozenset(rows.tolist()) for rows in relevant_rows(labels, gallery.ids))
    truth = Truth(positives, (frozenset(),) * len(positives))
    return Dataset(name, gallery, photos.where(labels.__contains__), {"all": truth}, "MAP@7")


def label_file(folder: Path) -> Path:
    """Return the label file below `folder`: the first .csv that names a query and an image of it."""
    for path in sorted(Path(folder).rglob("*.csv")):
        with open(path, encoding="utf-8-sig", errors="replace") as stream:
            if re.search(r"^v\d{6},n\d", stream.read(4096), re.MULTILINE):
                return path
    raise Top7Error(f"{folder}: no label file there: expected a .csv with rows such as v000001,n0001_0003632")

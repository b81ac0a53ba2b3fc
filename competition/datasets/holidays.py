"""INRIA Holidays: 1,491 images named by six digits, 500 groups; the first of a group (…00) is its query.

From lear.inrialpes.fr/~jegou/data.php, jpg1.tar.gz and jpg2.tar.gz. The query stays out of its own list (it is its junk).
Some 228 images lie on their side: where a file rotate.yaml (or .json) is there, {"100600.jpg": 90, …}, they are turned
by so many degrees counter-clockwise before they are described.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from competition.datasets.dataset import Dataset, Truth
from competition.errors import Top7Error
from competition.images import ImageSet, Region, list_images

NAME = re.compile(r"1\d{5}")


def load(folder: Path, name: str) -> Dataset:
    """Read the images below `folder`; Top7Error, one line, for groups without a query or with nothing but it."""
    folder = Path(folder)
    images = list_images(folder).where(NAME.fullmatch)
    groups: dict[str, list[int]] = {}
    for row, image_id in enumerate(images.ids):
        groups.setdefault(image_id[:4], []).append(row)
    if not groups:
        raise Top7Error(
            f"{folder}: no image of Holidays there: expected names of six digits, such as 100000.jpg"
        )
    headless = [group for group, rows in groups.items() if images.ids[rows[0]] != f"{group}00"]
    alone = [group for group, rows in groups.items() if len(rows) == 1]
    if headless or alone:
        kind = f"group {headless[0]} has no query {headless[0]}00" if headless else ""
        kind = kind or f"group {alone[0]} has its query alone"
        raise Top7Error(
            f"{folder}: {kind} ({len(headless) + len(alone)} such groups of {len(groups)}): a half-downloaded archive? "
            f"./run.sh doctor --data {folder} says more"
        )
    images = _upright(images, folder)
    heads = [rows[0] for rows in groups.values()]
    truth = Truth(
        tuple(frozenset(rows[1:]) for rows in groups.values()),
        tuple(frozenset(rows[:1]) for rows in groups.values()),
    )
    return Dataset(name, images, images.rows(heads), {"all": truth})


def _upright(images: ImageSet, folder: Path) -> ImageSet:
    found = sorted([*folder.rglob("rotate.yaml"), *folder.rglob("rotate.json")])
    if not found:
        return images
    try:
        angles = json.loads(re.sub(r",\s*}", "}", found[0].read_text(encoding="utf-8-sig")))
        turns = {
            Path(image).stem: int(angle) // 90 % 4 for image, angle in angles.items() if int(angle) % 90 == 0
        }
        if len(turns) != len(angles):
            raise ValueError("an angle that is no multiple of 90")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Top7Error(
            f'{found[0]}: not a rotation list ({error}): expected {{"100600.jpg": 90, …}}'
        ) from None
    regions = tuple(Region(turns=turns[image_id]) if turns.get(image_id) else None for image_id in images.ids)
    return ImageSet(images.ids, images.paths, images.others, regions=regions)

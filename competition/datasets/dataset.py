"""What every data set of the papers comes down to: gallery, queries with boxes, ground truth with positives and junk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from competition.errors import Top7Error
from competition.images import Box, ImageSet, Region, list_images


@dataclass(frozen=True)
class Truth:
    """positives, junk: gallery rows of each query, in the order of the queries; a query may have no positive."""

    positives: tuple[frozenset[int], ...]
    junk: tuple[frozenset[int], ...]


@dataclass(frozen=True)
class Dataset:
    """truths: one by level ("easy", "medium", "hard" of the revisited sets), or one named "all".

    metric: "mAP", the trapezoid of whole lists without junk, or "MAP@7".
    """

    name: str
    gallery: ImageSet
    queries: ImageSet
    truths: Mapping[str, Truth]
    metric: str = "mAP"

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Query id -> ids of its positives: of the level "medium" where there are levels, easy and hard."""
        return self._ids("positives")

    def junk(self) -> dict[str, tuple[str, ...]]:
        """Query id -> ids of its junk, of the same level."""
        return self._ids("junk")

    def _ids(self, kind: str) -> dict[str, tuple[str, ...]]:
        truth = self.truths.get("medium") or self.truths["all"]
        return {
            query: tuple(self.gallery.ids[row] for row in sorted(rows))
            for query, rows in zip(self.queries.ids, getattr(truth, kind), strict=True)
        }


def require(named: Mapping[str, str], there: Collection[str], folder: Path) -> None:
    """Raise Top7Error where images that are named, each with what names it, are not below `folder`."""
    missing = sorted(set(named) - set(there))
    if not missing:
        return
    near = [each for each in there if each.lower() == missing[0].lower()]
    hint = f" (there is {near[0]!r})" if near else ""
    few = "an unknown image, or a file that is missing" if len(missing) <= 3 else "a half-downloaded archive?"
    raise Top7Error(
        f"{folder}: {len(missing)} of the {len(named)} images that {named[missing[0]]} names are not there, the first is "
        f"{missing[0]!r}{hint}: {few} ./run.sh doctor --data {folder} says more"
    )


def boxed_queries(images: ImageSet, queries: Sequence[tuple[str, str, Box]], source: str) -> ImageSet:
    """Return one row a query, (query id, image id, box), in the order given; checks each box against its image.

    images: where the files are. Top7Error: a box that is not inside its image.
    """
    row_of = {image_id: row for row, image_id in enumerate(images.ids)}
    paths, regions = [], []
    for query, image_id, box in queries:
        path, region = images.paths[row_of[image_id]], Region(box)
        if (size := image_size(path)) and region.pixels(*size) is None:
            raise Top7Error(
                f"{source}: query {query}: the box {box} is not inside {path}, {size[0]} × {size[1]} pixels: "
                "expected left, top, right, bottom in pixels of that image"
            )
        paths.append(path)
        regions.append(region)
    return ImageSet(tuple(query for query, _, _ in queries), tuple(paths), regions=tuple(regions))


def image_size(path: str) -> tuple[int, int] | None:
    """Width and height as the header says; None where there is none to read (the extraction says why)."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # Pillow's plugins raise many kinds on damage
        return None


def with_distractors(dataset: Dataset, folder: Path) -> Dataset:
    """Return the data set with every image below `folder` in its gallery, correct for no query.

    Such as the 100,071 images of Flickr 100k (oxc1_100k.tgz, robots.ox.ac.uk/~vgg/data).
    Their ids are paths under "distractors/", so that none meets an id of the set. Top7Error: `folder` holds the set
    itself.
    """
    more = list_images(folder, ids="path")
    shared = set(more.paths) & set(dataset.gallery.paths)
    if shared:
        raise Top7Error(
            f"{folder}: {len(shared)} of the distractors are images of {dataset.name} itself: give another folder"
        )
    own = dataset.gallery
    ids = own.ids + tuple(f"distractors/{each}" for each in more.ids)
    regions = (own.regions or (None,) * len(own)) + (None,) * len(more)
    joined = ImageSet(ids, own.paths + more.paths, regions=regions if own.regions else ())
    gallery = joined.rows(sorted(range(len(ids)), key=ids.__getitem__))
    place = {image_id: row for row, image_id in enumerate(gallery.ids)}

    def moved(rows: tuple[frozenset[int], ...]) -> tuple[frozenset[int], ...]:
        return tuple(frozenset(place[own.ids[row]] for row in each) for each in rows)

    truths = {
        level: Truth(moved(truth.positives), moved(truth.junk)) for level, truth in dataset.truths.items()
    }
    return replace(dataset, gallery=gallery, truths=truths)

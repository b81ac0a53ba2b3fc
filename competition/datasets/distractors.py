"""Distractors for any data set: the 100,071 images of Flickr 100k (oxc1_100k.tgz, robots.ox.ac.uk/~vgg/data), or others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from competition.datasets.dataset import Dataset, Truth
from competition.errors import Top7Error
from competition.images import ImageSet, list_images


def with_distractors(dataset: Dataset, folder: Path) -> Dataset:
    """Return the data set with every image below `folder` in its gallery, correct for no query.

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

"""Which gallery images are simulated as photos, what the photos are called, and which of them teach or judge."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from competition.configuration import Simulate
from competition.images import ImageSet


def photo_id(image_id: str, view: int) -> str:
    """The id of photo number `view` (from 0) of a gallery image."""
    return f"{image_id}@{view}"


def photo_source(photo: str) -> tuple[str, int]:
    """The gallery id and the number that a photo's id holds; ids may hold an @ themselves."""
    image_id, _, view = photo.rpartition("@")
    return image_id, int(view)


def photo_seed(seed: int, image_id: str, view: int) -> int:
    """The seed of one photo, 0 <= seed < 2**63, from the seed of the settings, the gallery id and the number."""
    return int.from_bytes(_drawn(f"{seed}/{view}/", image_id)[:8], "little") >> 1


def sampled_rows(ids: Sequence[str], settings: Simulate) -> np.ndarray:
    """(m,) int64 rows, ascending: the `settings.images` gallery images whose hashes with the seed are smallest.

    A gallery that grows changes no more of the sample than the share of its new images.
    """

    def drawn(row: int) -> bytes:
        return _drawn(f"{settings.seed}/", ids[row])

    return np.array(sorted(heapq.nsmallest(settings.images, range(len(ids)), key=drawn)), dtype=np.int64)


def simulated_images(gallery: ImageSet, settings: Simulate) -> ImageSet:
    """The photos of the sampled images, those of one image side by side; their files are the images'."""
    rows = sampled_rows(gallery.ids, settings).tolist()
    photos = [(row, view) for row in rows for view in range(settings.views)]
    return ImageSet(
        tuple(photo_id(gallery.ids[row], view) for row, view in photos),
        tuple(gallery.paths[row] for row, _ in photos),
        seeds=tuple(photo_seed(settings.seed, gallery.ids[row], view) for row, view in photos),
    )


def judging(ids: Sequence[str], groups: Sequence[int], seed: int) -> np.ndarray:
    """(m,) bool: which of the sampled images judge; the others teach.

    groups: (m,) one number an image, the same for images that are equal or nearly so: a group is never split.
    Groups go in seeded order to the half that has fewer images; the first teaches.
    """
    numbers = np.asarray(groups)
    key: dict[int, bytes] = {}
    for image_id, group in zip(ids, numbers.tolist(), strict=True):
        drawn = _drawn(f"{seed}/half/", image_id)
        key[group] = min(key.get(group, drawn), drawn)
    halves: tuple[list[int], list[int]] = [], []
    held = [0, 0]
    sizes = dict(zip(*np.unique(groups, return_counts=True)))
    for group in sorted(key, key=key.__getitem__):
        half = int(held[1] < held[0])
        halves[half].append(group)
        held[half] += sizes[group]
    return np.isin(groups, halves[1])


def first_drawn(photos: Iterable[str], limit: int, seed: int) -> list[str]:
    """At most `limit` of the photos' ids, drawn by seed, in the order given; a smaller draw is part of a larger one."""
    photos = list(photos)
    kept = set(heapq.nsmallest(limit, photos, key=lambda photo: _drawn(f"{seed}/limit/", photo)))
    return [photo for photo in photos if photo in kept]


def _drawn(before: str, image_id: str) -> bytes:
    return hashlib.sha256((before + image_id).encode("utf-8", "surrogateescape")).digest()

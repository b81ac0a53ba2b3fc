"""The training sample's detector blocks on disk: half-precision .npy files read block by block.

A file `blocks-<first>-<end>.npy` holds the detectors of these places in the order, (end - first, n, C) float16, C in
the layer's own channel order. Each image is divided by a power of two of its own (`scales.npy`; it brings the largest
value of the first file to 2^11 … 2^12, so that later files keep within 65,504), which no later step sees: everything is
divided by the image's norms. A power of two leaves the rounding as it is, whatever detectors the first file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from competition.errors import Top7Error
from features.dumps.disk import DiskFull
from features.dumps.seals import file_is_whole, remove, sealing, sum_path
from features.dumps.writer import RowFile, RowWriter, complete, label_of

SCALES = "scales.npy"
LABEL = label_of("blocks")


def block_files(folder: Path) -> list[tuple[int, int, Path]]:
    """Return the complete, undamaged block files (first, end, path) in order; they follow each other from 0."""
    complete(folder / f".{LABEL}.journal")
    chain: list[tuple[int, int, Path]] = []
    for path in sorted(folder.glob("blocks-*-*.npy")):
        first, end = map(int, path.stem.split("-")[1:])
        if first == (chain[-1][1] if chain else 0) and file_is_whole(path):
            chain.append((first, end, path))
    return chain


def open_blocks(folder: Path) -> list[np.ndarray]:
    """Open the block files as memmaps (g, n, C) float16; Top7Error for one with a damaged header."""
    opened = []
    for _, _, path in block_files(folder):
        try:
            opened.append(np.load(path, mmap_mode="c", allow_pickle=False))  # torch wants it writable
        except Exception as error:  # a damaged header ends in any of Python's errors
            raise Top7Error(
                f"{path}: damaged ({' '.join(str(error).split())}): delete it and run ./run.sh extract"
            ) from None
    return opened


def write_blocks(
    folder: Path,
    first: int,
    end: int,
    n: int,
    channels: int,
    psi: Callable[[], Iterable[Tensor]],
    *,
    what: str = "part detectors",
) -> Path:
    """Write detectors [first, end) of the sample from batches psi (B, end - first, C) float32, n images in total.

    Raises Top7Error when the disk is too small, or the batches hold another number of images than n.
    """
    path = folder / f"blocks-{first:05d}-{end:05d}.npy"
    used = [entry[2] for entry in block_files(folder) if entry[1] <= first]
    for old in folder.glob("blocks-*-*.npy"):  # damaged, or behind a damaged one: of no use any more
        if old not in used:
            remove(sum_path(old))
            old.unlink(missing_ok=True)
    files = {path.name: RowFile((end - first, n, channels), np.dtype("float16"))}
    if first:
        scales = np.load(folder / SCALES, allow_pickle=False)
    else:
        scales = np.ones(n, dtype=np.float32)
        files[SCALES] = RowFile((n,), scales.dtype)
    writer = RowWriter(folder, LABEL, files, rows=0)
    writer.discard()
    try:
        writer.start()
        row = 0
        for batch in psi():
            rows = slice(row, row + len(batch))
            row += len(batch)
            if row > n:
                break
            if not first:
                largest = batch.flatten(1).amax(1).cpu().numpy()
                scales[rows] = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1))) - 11)
            scaled = batch.cpu() / torch.from_numpy(scales[rows])[:, None, None]
            detectors = scaled.clamp_(max=65504).half().transpose(0, 1).numpy()
            for place, block in enumerate(detectors):
                writer.put(path.name, (place * n + rows.start) * channels, block)
        if row != n:
            raise Top7Error(f"{what}: the training sample changed between two passes: {n} images, then {row}")
        if not first:
            writer.put(SCALES, 0, scales)
        parts = {name: writer.partial(name) for name in files} | ({SCALES: folder / SCALES} if first else {})
        writer.finish([(sum_path(path).name, sealing(parts).encode())])
    except DiskFull as error:
        raise Top7Error(
            f"{error}; a sample of {what} is smaller with lower training_images or counts"
        ) from None
    finally:
        writer.discard()
        writer.disk.close()
    return path


def chunks(
    opened: list[np.ndarray], first: int, end: int, *, most_bytes: int = 2**24
) -> Iterator[tuple[int, Tensor]]:
    """Yield (place of the first detector, (g, n, C) float16) over places [first, end), a few detectors at a time.

    most_bytes: of g blocks in float32, which should fit a processor's cache.
    """
    upto = 0
    for blocks in opened:
        step = max(1, most_bytes // (4 * max(1, blocks[0].size)))
        for start in range(0, len(blocks), step):
            a, b = max(start, first - upto), min(start + step, len(blocks), end - upto)
            if a < b:
                yield upto + a, torch.from_numpy(blocks[a:b])
        upto += len(blocks)

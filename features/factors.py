"""Gallery rows as factors of one fast matrix product, in bfloat16 or float32, whose entries lie in a proven interval
around the canonical scores.

A row x is kept as x~, rounded to the product's number format. With the measured lengths of x and of x - x~,

    |x·y - x~·y~| <= |x - x~| |y| + |x~| |y - y~|

and the additions lose at most gamma_n |x~| |y~| more (Higham, Accuracy and Stability, 3.1). That a bfloat16 product
rounds its result once more, by at most 2^-8 of it, is not part of the interval: rounding never turns the order of two
numbers, so thresholds are rounded with it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from competition.errors import Top7Error
from features.search import check_finite
from features.similarity import float32_rows, margin

if TYPE_CHECKING:
    import torch

TILE_ROWS = 2048  # of either side of one product: its result stays in the processor's cache
BFLOAT16, FLOAT32 = "bfloat16", "float32"
_LONGEST = 2.0**60  # of a row: products stay far from what float32 and bfloat16 can hold
_TINY = 2.0**-125  # what one factor or product may lose to underflow, flushing to zero included


@dataclass(frozen=True)
class Factors:
    """The rows of a gallery as a product takes them: components side by side, each scaled by the root of its weight.

    components: L arrays (n, D_l), used ones alone; weights (L,); excluded (n,) bool: zero rows in their place; kind:
    BFLOAT16 or FLOAT32, the number format; device: of torch.
    """

    components: Sequence[np.ndarray]
    weights: np.ndarray
    excluded: np.ndarray
    kind: str
    device: Any = "cpu"

    @property
    def spacing(self) -> float:
        """Bounds what rounding the product's result may change, as a share of it."""
        return 2.0**-8 if self.kind == BFLOAT16 else 0.0

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return rows (a slice, or their numbers) before they are rounded, float32 (m, D)."""
        parts = []
        for part, weight in zip(self.components, self.weights):
            values = float32_rows(part[rows])
            scale = np.float32(np.sqrt(abs(weight)))
            parts.append(values if scale == 1 else values * scale)
        found = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        absent = self.excluded[rows]
        return np.where(absent[:, None], np.float32(0), found) if absent.any() else found

    def rounded(self, rows: np.ndarray) -> torch.Tensor:
        """Return rows (m, D) float32 in the product's format, on its device."""
        import torch

        with warnings.catch_warnings():  # torch warns of read-only memory, which is only read here
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(np.asarray(rows)).to(self.device, getattr(torch, self.kind))

    def left(self, rows: np.ndarray) -> torch.Tensor:
        """Return rows (m, D) float32 as a product's left side: those of negative weights are negated here alone."""
        if (self.weights < 0).any():
            signs = [np.full(part.shape[1], np.sign(w)) for part, w in zip(self.components, self.weights)]
            rows = rows * np.concatenate(signs).astype(np.float32)
        return self.rounded(rows)

    def keys(self, left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
        """Return left (m, D) times right (p, D) transposed, as keys (m, p): numbers whose order is easily compared.

        Positive products have the order of their keys; keys of negative products are below those of positive ones.
        """
        import torch

        product = torch.mm(left, right.T)
        return (product.view(torch.int16) if self.kind == BFLOAT16 else product).cpu().numpy()

    def values(self, keys: np.ndarray) -> np.ndarray:
        """Return the products, float32, that keys stand for."""
        return (keys.astype(np.int32) << 16).view(np.float32) if self.kind == BFLOAT16 else keys

    def rounded_down(self, thresholds: np.ndarray) -> np.ndarray:
        """Return numbers of the product's format, float32, at most thresholds float64, and no lower than it takes."""
        found = np.nextafter(thresholds.astype(np.float32), np.float32(-np.inf))
        if self.kind == BFLOAT16:  # cutting bits off goes towards zero
            found = np.where(found < 0, found * np.float32(1 + 2.0**-6) - np.float32(2.0**-123), found)
            found = (np.ascontiguousarray(found).view(np.int32) & np.int32(-65536)).view(np.float32)
        return found

    def threshold_keys(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the keys that products of at least thresholds (numbers of the product's format) reach.

        Others may reach them too where a threshold is not positive.
        """
        if self.kind == FLOAT32:
            return thresholds
        keys = (np.ascontiguousarray(thresholds).view(np.int32) >> 16).astype(np.int16)
        return np.where(thresholds > 0, keys, np.int16(-32768))

    def lengths(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return upper bounds (m,) float64 of the lengths of rows start to stop, and of what rounding takes from them.

        Raises Top7Error for a row that is not finite.
        """
        for number, part in enumerate(self.components):
            if not np.isfinite(part[start:stop].sum(dtype=np.float64)):
                check_finite(part[start:stop], start, f"component {number} of the gallery")
        rows = self.read(slice(start, stop))
        lengths = _lengths(rows)
        if len(lengths) and lengths.max() > _LONGEST:
            raise Top7Error(
                f"the gallery's row {start + int(np.argmax(lengths))} is too long for float32 products; "
                "L2-normalise the descriptors"
            )
        if self.kind == FLOAT32:
            return lengths, np.zeros(len(rows))
        return lengths, _lengths(rows - self.rounded(rows).float().cpu().numpy())

    def errors(self, lengths: np.ndarray, lost: np.ndarray) -> np.ndarray:
        """Return how far each row's products, before they are rounded, may lie from its canonical scores, (n,) float64.

        lengths and lost (n,) float64: as `lengths` gives them, of all rows.
        """
        dimension = sum(part.shape[1] for part in self.components)
        longest, lost_most = lengths.max(), lost.max()
        # a term: rounded in both scales and rows; in bfloat16, units round products and sums each in their own way
        extra = 8 if self.kind == FLOAT32 else 3 * dimension + 8
        error = lost * longest + (lengths + lost) * lost_most
        error += margin(dimension, (lengths + lost) * (longest + lost_most), extra=extra)
        return 1.0001 * error + dimension * _TINY * (1 + lengths) * (1 + longest)


def _lengths(rows: np.ndarray) -> np.ndarray:
    """Return upper bounds (m,) float64 of the norms of rows (m, D) float32."""
    dimension = rows.shape[1]
    squares = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    return np.sqrt(squares * (1 + 2 * margin(dimension, 1.0)) + dimension * _TINY)


def chosen(
    components: Sequence[np.ndarray], weights: np.ndarray, excluded: np.ndarray, device: Any = None
) -> tuple[Factors, float]:
    """Return factors in the format whose products are fastest here, and the operations a second that it reaches.

    Components of weight 0 are left out, but for the first where all are. device: None for cuda where torch has one, else
    the processor. What is found by the products' bounds is the same in each format.
    """
    import torch

    used = [number for number in range(len(weights)) if weights[number] != 0] or [0]
    components, weights = [components[number] for number in used], np.asarray(weights, np.float64)[used]
    if torch.get_float32_matmul_precision() != "highest":
        raise Top7Error(
            f"torch.get_float32_matmul_precision() is {torch.get_float32_matmul_precision()!r}: its products "
            "are outside the proven margin; set it to 'highest' for an exact graph"
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    rates, products, found = {}, {}, {}
    for kind in (FLOAT32, BFLOAT16) if str(device) == "cpu" else (FLOAT32,):
        factors = Factors(components, weights, excluded, kind, device)
        rows = factors.read(slice(0, min(TILE_ROWS, len(excluded))))
        left, right, times = factors.left(rows), factors.rounded(rows), []
        for _ in range(4):  # the first one sets up the library
            begin = time.perf_counter()
            products[kind] = factors.values(factors.keys(left, right))
            times.append(time.perf_counter() - begin)
        rates[kind], found[kind] = 2 * len(rows) ** 2 * rows.shape[1] / min(times[1:]), factors
    best = max(rates, key=lambda kind: rates[kind])
    if best == BFLOAT16:
        factors = found[best]
        error = factors.errors(*factors.lengths(0, len(rows)))[:, None]
        away = np.abs(products[BFLOAT16].astype(np.float64) - products[FLOAT32])
        if not (away <= 2 * error + factors.spacing * np.abs(products[BFLOAT16])).all():
            best = FLOAT32  # this processor's products are coarser than float32 sums
    return found[best], rates[best]

"""Gallery rows as factors of one fast matrix product whose entries lie in a proven interval around the scores.

The product is in bfloat16 or float32, the scores are the canonical ones. For any centre c, with h(x) = c·x - c·c / 2,

    x·y = (x - c)·(y - c) + h(x) + h(y)

so a row is kept as x - c, which is short where descriptors are alike, beside h(x) in a few pieces and as many ones. Both
are rounded to the product's number format. With the measured lengths of x - c and of what rounding took from it, the
product is wrong by |x - x~| |y| + |x~| |y - y~| at most, and by gamma_n times its terms for the additions (Higham,
Accuracy and Stability, 3.1). That a bfloat16 product rounds its result once more, by at most 2^-8 of it, is not part of
the interval: rounding never turns the order of two numbers, so thresholds are rounded with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from competition.errors import Top7Error
from features.search.exact_search import check_finite
from features.search.similarity import float32_rows, margin

if TYPE_CHECKING:
    import torch

TILE_ROWS = 2048  # of either side of one product: its result stays in the processor's cache
BFLOAT16, FLOAT32 = "bfloat16", "float32"
PIECES = 4  # of a height: together they are as good as a float32 number
_LONGEST = 2.0**60  # of a row: products stay far from what float32 and bfloat16 can hold
_TINY = 2.0**-125  # what one factor or product may lose to underflow, flushing to zero included


@dataclass(frozen=True)
class Factors:
    """The rows of a gallery as a product takes them: components side by side, each scaled by the root of its weight.

    components: L arrays (n, D_l), used ones alone; weights (L,); excluded (n,) bool: zero rows in their place; kind:
    BFLOAT16 or FLOAT32, the number format; device: of torch; centre (D,) float32; level: what is taken from all scores.
    """

    components: Sequence[np.ndarray]
    weights: np.ndarray
    excluded: np.ndarray
    kind: str
    device: Any
    centre: np.ndarray
    level: float = 0.0

    @property
    def spacing(self) -> float:
        """Bounds what rounding the product's result may change, as a share of it."""
        return 2.0**-8 if self.kind == BFLOAT16 else 0.0

    @property
    def signs(self) -> np.ndarray:
        """The signs (D,) float32 of the components' weights."""
        widths = [part.shape[1] for part in self.components]
        return np.repeat(np.where(self.weights < 0, -1, 1), widths).astype(np.float32)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return rows (a slice, or their numbers), scaled, float32 (m, D)."""
        parts = []
        for part, weight in zip(self.components, self.weights):
            values = float32_rows(part[rows])
            scale = np.float32(np.sqrt(abs(weight)))
            parts.append(values if scale == 1 else values * scale)
        found = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        absent = self.excluded[rows]
        return np.where(absent[:, None], np.float32(0), found) if absent.any() else found

    def heights(self, rows: np.ndarray) -> np.ndarray:
        """Return h(x), less half of the level, of rows (m, D) float32 as `read` gives them: (m,) float64."""
        centre = self.centre.astype(np.float64)
        signed = self.signs * centre
        return rows.astype(np.float64) @ signed - signed @ centre / 2 - self.level / 2

    def left(self, rows: np.ndarray) -> torch.Tensor:
        """Return rows (m, D) float32, as `read` gives them, as the left side of a product, (m, D + 2 PIECES)."""
        return self._side(rows, (rows - self.centre) * self.signs, 0)

    def right(self, rows: np.ndarray) -> torch.Tensor:
        """Return rows (m, D) float32, as `read` gives them, as the right side of a product, (m, D + 2 PIECES)."""
        return self._side(rows, rows - self.centre, PIECES)

    def _side(self, rows: np.ndarray, centred: np.ndarray, ones: int) -> torch.Tensor:
        """The ones stand where the other side has the pieces of its heights."""
        import torch

        kind, (count, width) = getattr(torch, self.kind), centred.shape
        found = torch.ones((count, width + 2 * PIECES), dtype=kind)
        found[:, :width] = torch.from_numpy(centred)
        left = torch.from_numpy(self.heights(rows))
        for piece in range(width + PIECES - ones, width + 2 * PIECES - ones):
            found[:, piece] = left
            left = left - found[:, piece].double()
        return found.to(self.device)

    def keys(self, left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
        """Return left (m, …) times right (p, …) transposed, less the level, as keys (m, p): numbers of the same order."""
        import torch

        product = torch.mm(left, right.T).cpu()
        if self.kind == FLOAT32:
            return product.numpy()
        return _turned(product.view(torch.int16).numpy())

    def values(self, keys: np.ndarray) -> np.ndarray:
        """Return the products, float32, that keys stand for."""
        if self.kind == FLOAT32:
            return keys
        return (_turned(keys.copy()).astype(np.int32) << 16).view(np.float32)

    def floors(self, values: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Return what canonical scores reach at least, float64, where products are values and lie within errors."""
        values = values.astype(np.float64)
        return values - self.spacing * np.abs(values) - errors + self.level

    def thresholds(self, floors: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Return what products within errors reach at least where canonical scores reach floors float64.

        float32, of the product's format, rounded down.
        """
        found = np.nextafter((floors - errors - self.level).astype(np.float32), np.float32(-np.inf))
        if self.kind == BFLOAT16:  # cutting bits off goes towards zero
            found = np.where(found < 0, found * np.float32(1 + 2.0**-6) - np.float32(2.0**-123), found)
            found = (np.ascontiguousarray(found).view(np.int32) & np.int32(-65536)).view(np.float32)
        return found

    def threshold_keys(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the keys that products of at least thresholds (numbers of the product's format) reach, no others."""
        if self.kind == FLOAT32:
            return thresholds
        thresholds = np.where(
            thresholds == 0, np.float32(-0.0), thresholds
        )  # the lower one of two equal numbers
        return _turned((thresholds.view(np.int32) >> 16).astype(np.int16))

    def measures(self, start: int, stop: int) -> np.ndarray:
        """Return upper bounds (m, 4) float64 of rows start to stop.

        They are of the rows' lengths before and after the centre is taken away, of what rounding takes from them, and of
        their heights. Raises Top7Error for a row that is not finite.
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
        centred = rows - self.centre
        lost = centred - self.right(rows)[:, : rows.shape[1]].float().cpu().numpy()
        return np.stack([lengths, _lengths(centred), _lengths(lost), np.abs(self.heights(rows))], axis=1)

    def errors(self, measures: np.ndarray) -> np.ndarray:
        """Return how far each row's products, before they are rounded, may lie from its canonical scores, (n,) float64.

        measures (n, 4): of all rows, as `measures` gives them.
        """
        dimension = self.centre.shape[0]
        lengths, centred, lost, heights = measures.T
        longest, widest, lost_most, highest = measures.max(axis=0)
        error = lost * widest + (centred + lost) * lost_most
        terms = (centred + lost) * (widest + lost_most) + 1.01 * (heights + highest)
        # bfloat16: units round products and sums each in their own way
        extra = 2 * PIECES + 8 + (3 * dimension if self.kind == BFLOAT16 else 0)
        error += margin(dimension, terms, extra=extra)
        error += 2.0**-22 * (heights + highest)  # their pieces
        error += 2.0**-21 * lengths * longest  # rows rounded to float32, and their scales
        error += 4 * dimension * 2.0**-53 * longest * (longest + lengths)  # float64 sums
        return 1.0001 * error + dimension * _TINY * (1 + lengths) * (1 + longest)


def factors_of(
    components: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    excluded: np.ndarray,
    kind: str,
    device: Any = "cpu",
) -> Factors:
    """Return factors whose centre and level are means of a seeded sample; see `chosen`."""
    used = [number for number in range(len(weights)) if weights[number] != 0] or [0]
    parts = [components[number] for number in used]
    none = np.zeros(sum(part.shape[1] for part in parts), np.float32)
    plain = Factors(parts, np.asarray(weights, np.float64)[used], excluded, kind, device, none)
    allowed = np.flatnonzero(~excluded)
    if not len(allowed):
        return plain
    sample = np.sort(np.random.default_rng(0).choice(allowed, min(len(allowed), TILE_ROWS), replace=False))
    rows = plain.read(sample)
    centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    if not np.isfinite(centre).all() or np.abs(centre).max() > _LONGEST:
        return plain  # `measures` says which row it is
    centred = replace(plain, centre=centre)
    return replace(centred, level=2 * float(centred.heights(rows).mean()))


def _turned(keys: np.ndarray) -> np.ndarray:
    """Turn the bits of bfloat16 numbers into int16 numbers of their order, in place; and back."""
    sign = keys >> 15
    sign &= 0x7FFF
    keys ^= sign
    return keys


def _lengths(rows: np.ndarray) -> np.ndarray:
    """Return upper bounds (m,) float64 of the norms of rows (m, D) float32."""
    dimension = rows.shape[1]
    squares = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    return np.sqrt(squares * (1 + 2 * margin(dimension, 1.0)) + dimension * _TINY)


def chosen(
    components: Sequence[np.ndarray], weights: np.ndarray, excluded: np.ndarray
) -> tuple[Factors, float]:
    """Return factors in the format whose products are fastest here, and the operations a second that it reaches.

    Components of weight 0 are left out, but for the first where all are. On cuda where torch has one, else on the
    processor. What is found by the products' bounds is the same in each format.
    """
    import torch

    if torch.get_float32_matmul_precision() != "highest":
        raise Top7Error(
            f"torch.get_float32_matmul_precision() is {torch.get_float32_matmul_precision()!r}: its products "
            "are outside the proven margin; set it to 'highest' for an exact graph"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates, products, found = {}, {}, {}
    for kind in (FLOAT32, BFLOAT16) if device == "cpu" else (FLOAT32,):
        factors = factors_of(components, weights, excluded, kind, device)
        rows = factors.read(slice(0, min(TILE_ROWS, len(excluded))))
        left, right, times = factors.left(rows), factors.right(rows), []
        for _ in range(4):  # the first one sets up the library
            begin = time.perf_counter()
            products[kind] = factors.values(factors.keys(left, right))
            times.append(time.perf_counter() - begin)
        rates[kind], found[kind] = 2 * len(rows) ** 2 * rows.shape[1] / min(times[1:]), factors
    best = max(rates, key=lambda kind: rates[kind])
    if best == BFLOAT16:
        factors = found[best]
        error = factors.errors(factors.measures(0, len(rows)))[:, None]
        away = np.abs(products[BFLOAT16].astype(np.float64) - products[FLOAT32])
        if not (away <= 2 * error + factors.spacing * np.abs(products[BFLOAT16])).all():
            best = FLOAT32  # this processor's products are coarser than float32 sums
    return found[best], rates[best]

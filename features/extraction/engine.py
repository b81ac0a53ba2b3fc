"""A batch of decoded images -> descriptors of every target: one forward pass, pooled and normalised in float32.

On a CPU several batches are computed side by side, each by few threads: no thread waits for another at the
end of each operation, and a batch's maps are pooled by the core that has them in its cache.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from competition.configuration import Backbone, Parts
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet
from competition.messages import log
from features.dumps.layout import Target
from features.extraction.settings import Settings
from features.images.decode_ahead import Picture, read_ahead
from features.images.sizing import sizings
from features.networks.backbones import Network, create_network
from features.networks.fused_convolutions import put
from features.networks.timm_models import refused
from features.parts import PartModel
from features.pooling import (
    check_poolings,
    finite_images,
    mean_descriptors,
    needs_non_negative,
    pool_maps,
    unit_descriptors,
)


@dataclass
class Batch:
    """What a batch gave.

    rows[t]: (B, D_t) float32 L2-normalised, for the pooled targets; norms: (B, T) float32 of them; finite: (B,) bool;
    psi: for each view, the part detectors' sums (B, N, C) float32.
    """

    rows: list[np.ndarray]
    norms: np.ndarray
    finite: np.ndarray
    psi: list[dict[Parts, Tensor]]


class Engine:
    """A network with its fixed settings; `part_models` are set once learnt. Threads may share it.

    cores: how many this process may use, where it shares the machine with others that its settings do not count on;
    fewer batches are then computed side by side, to the same bytes.
    """

    def __init__(self, backbone: Backbone, settings: Settings, *, cores: int | None = None) -> None:
        check_poolings(backbone.pooling)
        self.backbone, self.settings = backbone, settings
        shared = settings if cores is None else replace(settings, threads=min(settings.threads, cores))
        self.at_once = shared.at_once
        self.decode_threads = min(settings.decode_threads, cores or settings.decode_threads)
        if settings.device == "cpu":
            torch.set_num_threads(settings.threads)
        self.network: Network = create_network(backbone)
        one_shape = self.network.transformer and not backbone.options.get("dynamic_img_size")
        if one_shape and backbone.resize == "keep":
            raise refused(
                backbone,
                f'resize = "keep" gives images of many shapes, which {backbone.model!r} takes only with options = '
                '{ dynamic_img_size = true, dynamic_img_pad = true }: add them, or resize = "squash" or "pad"',
            )
        self.device = torch.device(settings.device)
        if settings.device == "cuda":  # by number: the current device differs from thread to thread
            self.device = torch.device("cuda", torch.cuda.current_device())
            torch.backends.cudnn.allow_tf32 = False  # where float32 is asked for, its 24 bits are meant
        self.format: torch.memory_format = getattr(torch, settings.memory_format)
        self.network.module.to(self.device).to(memory_format=self.format)
        if settings.fused:
            self.network = self.network.fused(backbone.name)
        self.shift = torch.tensor(self.network.mean, device=self.device).mul(255)
        self.factor = torch.tensor(self.network.std, device=self.device).mul(255).reciprocal()
        self.sizings = sizings(backbone, self.network.mean)
        self.clamped = self.network.transformer or backbone.clamp
        self.part_models: dict[Parts, PartModel] = {}
        self._idle = [self._ready(self.network)]
        threads = settings.batch_threads or settings.threads
        self._pool = ThreadPoolExecutor(self.at_once, "batch", torch.set_num_threads, (threads,))
        self._under_way: list[Future[Batch]] = []
        self._local = threading.local()
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # the weights are there before another stream reads them

    @property
    def notes(self) -> list[str]:
        """What the user has to be told about this network."""
        found = list(self.network.notes)
        needing = list(filter(needs_non_negative, self.backbone.pooling))
        if self.clamped and (needing or self.backbone.parts):
            what = ", ".join(needing + (["parts"] if self.backbone.parts else []))
            found.append(f"{self.backbone.name}: its maps are clamped at zero for {what}")
        return found

    def halve_batch(self, tried: int) -> bool:
        """After memory ran out on a batch of `tried` images: smaller ones from now on. False: it was a single image."""
        if tried <= 1:
            return False
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if tried > self.settings.batch_rows:
            return True  # another batch at the same time has reported it
        rows = tried // 2
        self.settings = replace(self.settings, batch_rows=rows)
        log.warning(f"{self.backbone.name}: out of memory: batches of {rows} images from here on")
        return True

    def submit(self, views: Sequence[np.ndarray], targets: Sequence[Target]) -> Future[Batch]:
        """`describe` in one of the engine's threads."""
        self._under_way = [future for future in self._under_way if not future.done()]
        self._under_way.append(self._pool.submit(self.describe, views, targets))
        return self._under_way[-1]

    def wait(self) -> None:
        """Wait for every batch that was submitted."""
        wait(self._under_way)

    @contextmanager
    def _borrowed(self) -> Iterator[Network]:
        """A network that no other thread runs: forward hooks keep what they see in the network itself."""
        try:
            network = self._idle.pop()
        except IndexError:
            network = self._twin()
        try:
            yield network
        finally:
            self._idle.append(network)

    def _twin(self) -> Network:
        """The same network once more, on the same weights in memory."""
        network = create_network(self.backbone)
        network.module.to(self.device).to(memory_format=self.format)
        put(network.module, self.network.replaced)
        network.module.load_state_dict(self.network.module.state_dict(), assign=True)
        network.module.requires_grad_(False)
        return self._ready(network)

    def _ready(self, network: Network) -> Network:
        return network.compiled() if self.settings.compiled else network

    def _own_stream(self):
        """On a GPU, a stream for each thread: copies of one batch run beside the network on another."""
        if self.device.type != "cuda":
            return nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self.device)
        return torch.cuda.stream(self._local.stream)

    def pictures(
        self, images: ImageSet, rows: Iterable[int], *, scaled: bool = True
    ) -> Generator[Picture, None, None]:
        """The pictures of `rows`, decoded ahead at every test-time scale (or the first alone)."""
        ahead = max(2 * self.decode_threads, 4 * self.settings.batch_rows)
        asked = self.sizings if scaled else self.sizings[:1]
        return read_ahead(images, rows, asked, workers=self.decode_threads, ahead=ahead)

    def maps(self, pixels: np.ndarray, *, flip: bool = False, exact: bool = False) -> list[Tensor]:
        """pixels (B, H, W, 3) uint8 -> the layers' maps (B, C, H', W') float32. exact: no reduced precision."""
        images = torch.from_numpy(pixels)
        if self.device.type == "cuda":  # a copy beside computation needs pinned memory
            images = images.pin_memory()
        rows = images.to(self.device, non_blocking=True).float().flatten(2)
        width = images.shape[2]  # whole rows of pixels: three numbers at a time take seven times as long
        rows.sub_(self.shift.repeat(width)).mul_(self.factor.repeat(width))
        images = rows.view(images.shape).permute(0, 3, 1, 2).contiguous(memory_format=self.format)
        if flip:
            images = images.flip(3).contiguous(memory_format=self.format)
        reduced = self.settings.precision != "float32" and not exact
        precision = getattr(torch, self.settings.precision if reduced else "float32")
        autocast = torch.autocast(self.device.type, precision, enabled=reduced)
        with torch.inference_mode(), autocast, self._borrowed() as network:
            return [maps.float() for maps in network.forward(images)]

    def describe(self, views: Sequence[np.ndarray], targets: Sequence[Target]) -> Batch:
        """Every target's descriptors of a batch. views: the batch at each scale, (B, H, W, 3) uint8 each.

        Several views (scales, flips) are mean_descriptors after pooling and L2, and normalised again; the norm kept
        is the mean of the views'. An image whose maps are not finite even in float32 is marked in `finite`.
        """
        flips = (False, True) if self.backbone.flip else (False,)
        with self._own_stream():
            found = [self._view(pixels, flip, targets) for pixels in views for flip in flips]
        rows, norms = mean_descriptors([batch.rows for batch in found], [batch.norms for batch in found])
        finite = np.all([batch.finite for batch in found], axis=0)
        return Batch(rows, norms, finite, [psi for batch in found for psi in batch.psi])

    @torch.inference_mode()
    def _view(self, pixels: np.ndarray, flip: bool, targets: Sequence[Target]) -> Batch:
        maps = self.maps(pixels, flip=flip)
        results, finite = self._pooled(maps, targets)
        if not finite.all():
            maps, finite = self._made_finite(maps, pixels, flip)
            results, _ = self._pooled(maps, targets)
        by_layer = dict(zip(self.network.layers, maps))
        wanted = dict.fromkeys(target.parts for target in targets if target.parts is not None)
        psi = {}
        for parts in wanted:
            with self.named(f"parts of layer {parts.layer!r}"):
                psi[parts] = self.part_models[parts].aggregate(self.for_parts(by_layer[parts.layer]))
        if not results:
            return Batch([], np.zeros((len(pixels), 0), np.float32), finite.cpu().numpy(), [psi])
        rows, lengths = zip(*(unit_descriptors(results[t]) for t in sorted(results)))
        norms = torch.stack(lengths, 1).cpu().numpy()
        return Batch([row.cpu().numpy() for row in rows], norms, finite.cpu().numpy(), [psi])

    def _made_finite(self, maps: list[Tensor], pixels: np.ndarray, flip: bool) -> tuple[list[Tensor], Tensor]:
        """Maps of full precision for images whose reduced ones are not finite; and which images are finite now.

        The maps of the others are zeros.
        """
        finite = finite_images(maps)
        if not finite.all() and self.settings.precision != "float32":
            keep, exact = finite.view(-1, 1, 1, 1), self.maps(pixels, flip=flip, exact=True)
            maps = [torch.where(keep, half, full) for half, full in zip(maps, exact)]
            finite = finite_images(maps)
        return [torch.where(finite.view(-1, 1, 1, 1), found, 0) for found in maps], finite

    def _pooled(self, maps: list[Tensor], targets: Sequence[Target]) -> tuple[dict[int, Tensor], Tensor]:
        """{target's number: rows (B, C)}, and which images seem finite (B,): exact where all are."""
        results: dict[int, Tensor] = {}
        finite = torch.ones(len(maps[0]), dtype=torch.bool, device=self.device)
        for layer, found in zip(self.network.layers, maps):
            wanted = {target.pooling: t for t, target in enumerate(targets) if target.layer == layer}
            pooled = self._pool_layer(layer, found, [pooling for pooling in wanted if pooling is not None])
            results |= {wanted[pooling]: rows for pooling, rows in pooled.items()}
            # an average is finite only if all values are
            finite &= torch.isfinite(pooled["spoc"]).all(1) if "spoc" in pooled else finite_images([found])
        return results, finite

    @contextmanager
    def named(self, what: str) -> Iterator[None]:
        """An error about maps names the backbone and `what` it is of."""
        try:
            yield
        except ConfigurationError:
            raise
        except Top7Error as error:
            raise ConfigurationError(
                f"[[backbone]] {self.backbone.name}, {what}: {error}; or write clamp = true there"
            ) from None

    def for_parts(self, maps: Tensor) -> Tensor:
        return maps.clamp_min(0) if self.clamped else maps

    def _pool_layer(self, layer: int | str, maps: Tensor, poolings: list[str]) -> dict[str, Tensor]:
        """{pooling: rows (B, C)} of one layer."""
        needing = [name for name in poolings if needs_non_negative(name)]
        if not self.clamped or not needing:
            with self.named(f"layer {layer!r}"):
                return pool_maps(maps, poolings) if poolings else {}
        free = [name for name in poolings if name not in needing]
        return pool_maps(maps.clamp_min(0), needing) | (pool_maps(maps, free) if free else {})

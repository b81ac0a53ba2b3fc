"""Train the embedded network on products of the mini competition's generator that no competition holds.

    python -m features.mini_backbone.train [--steps N] [--out weights.safetensors]

The task is to name the product, and at the deepest layer also its family (packaging, brand, layout), from a catalogue
picture or a user photo. conv3_3, conv4_3 and conv5_3 each have their own head, so that each of them is of use alone and
knows something else. A batch norm after each convolution in training, folded into the convolutions when saved; weights
in half precision; the training recipe goes beside them as JSON.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import math
import multiprocessing
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from competition.atomic import write_bytes, write_json
from competition.mini.catalogue import draw_catalogue
from competition.mini.photos import draw_photo
from competition.mini.products import draw_family
from features.mini_backbone.model import MEAN, NAME, STD, WEIGHTS, WIDTH, folded, training_features

# module number of a map in timm's VGG with batch norms, its channels, the share of its loss: conv3_3, conv4_3, conv5_3
TAPS = {"conv3_3": (22, 64, 0.3), "conv4_3": (32, 128, 0.5), "conv5_3": (42, 128, 1.0)}
FAMILY_SHARE = 0.5
TRAINING_STREAM = 7_777_777  # first word of every seed here; the competitions' seeds start with another word


@dataclass(frozen=True)
class TrainingRecipe:
    """The training recipe; sizes in pixels."""

    seed: int = 0
    families: int = 320
    members: int = 3
    catalogue_pictures: int = 1  # of each member
    photos: int = 5  # of each member
    stored_px: int = 150
    batch: int = 64
    steps: int = 2400
    small_px: int = 96  # input side in the first `small_share` of the steps
    large_px: int = 128
    small_share: float = 0.75
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    scale: float = 16.0  # of the cosine heads
    colour_jitter: float = 0.12  # standard deviation of the log gains
    bfloat16: bool = True


def draw_training_family(settings: TrainingRecipe, family: int) -> np.ndarray:
    """Draw all pictures of one training family: (images, stored_px, stored_px, 3) uint8."""
    generator = np.random.default_rng([TRAINING_STREAM, settings.seed, family])
    images = []
    for product in draw_family(generator, settings.members):
        pictures = [(draw_catalogue(product, generator), 85) for _ in range(settings.catalogue_pictures)]
        pictures += [draw_photo(product, generator) for _ in range(settings.photos)]
        for picture, quality in pictures:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality)
            small = Image.open(file).resize(
                (settings.stored_px, settings.stored_px), Image.Resampling.BILINEAR
            )
            images.append(np.asarray(small))
    return np.stack(images)


def draw_training_set(settings: TrainingRecipe, processes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images (n, 3, stored_px, stored_px) uint8 and their product numbers (n,) int64."""
    jobs = range(settings.families)
    if processes > 1:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
            drawn = pool.map(draw_training_family, [settings] * len(jobs), jobs, chunksize=4)
            families = list(tqdm(drawn, total=len(jobs), desc="drawing families", unit="family"))
    else:
        families = [draw_training_family(settings, family) for family in jobs]
    images = torch.from_numpy(np.concatenate(families)).permute(0, 3, 1, 2).contiguous()
    return images, torch.arange(settings.families * settings.members).repeat_interleave(
        len(families[0]) // settings.members
    )


def augmented(images: torch.Tensor, side: int, jitter: float, generator: torch.Generator) -> torch.Tensor:
    """Return random views (B, 3, side, side) float32 in network units of `images` (B, 3, H, W) uint8.

    Each is cropped to 65-105 % of its side, turned by up to about 10 degrees, and given other colour gains.
    """
    count = len(images)
    zoom = torch.empty(count).uniform_(0.65, 1.05, generator=generator)
    angle = torch.randn(count, generator=generator) * 0.12
    room = (1 - zoom).clamp(min=0.05)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * room[:, None]
    theta = torch.stack(
        (
            torch.stack((zoom * angle.cos(), -zoom * angle.sin(), shift[:, 0]), 1),
            torch.stack((zoom * angle.sin(), zoom * angle.cos(), shift[:, 1]), 1),
        ),
        1,
    )
    grid = functional.affine_grid(theta, [count, 3, side, side], align_corners=False)
    views = functional.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    gains = torch.exp(torch.randn(count, 3, 1, 1, generator=generator) * jitter)
    views = (views * gains).clamp(0, 1)
    return (views - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Head(nn.Module):
    """Cosine classifier on average-pooled maps (B, C, H, W), batch-normalised: logits (B, classes)."""

    def __init__(self, channels: int, classes: int, scale: float) -> None:
        super().__init__()
        self.neck = nn.BatchNorm1d(channels)
        self.weight = nn.Parameter(torch.randn(classes, channels) * 0.1)
        self.scale = scale

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        pooled = functional.normalize(self.neck(maps.float().mean((2, 3))))
        return self.scale * pooled @ functional.normalize(self.weight).T


def tapped(features: nn.Sequential, views: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the maps (B, C, H, W) of the layers in TAPS, after their ReLU."""
    names = {number: name for name, (number, _, _) in TAPS.items()}
    found = {}
    for number, module in enumerate(features[: max(names) + 1]):
        views = module(views)
        if number in names:
            found[names[number]] = views
    return found


def save_weights(features: nn.Sequential, path: Path) -> Path:
    """Write the folded convolutions of `features` to `path` as safetensors in half precision."""
    state = {name: value.half().contiguous() for name, value in folded(features).items()}
    return write_bytes(path, save(state, metadata={"model": NAME, "format": "pt"}))


def train(settings: TrainingRecipe, out: Path, *, processes: int = 2, checkpoint_steps: int = 100) -> Path:
    """Train, write the weights to `out` and `recipe.json` beside it; returns `out`.

    The weights so far are written each `checkpoint_steps` steps.
    """
    began = time.perf_counter()
    torch.manual_seed(settings.seed)
    draws = torch.Generator().manual_seed(settings.seed)
    images, labels = draw_training_set(settings, processes)
    drawn_s = time.perf_counter() - began
    features = training_features().to(memory_format=torch.channels_last)
    products = settings.families * settings.members
    heads = nn.ModuleDict(
        {name: Head(channels, products, settings.scale) for name, (_, channels, _) in TAPS.items()}
    )
    heads["family"] = Head(WIDTH, settings.families, settings.scale)
    parameters = [*features.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.15
    )
    order = torch.empty(0, dtype=torch.int64)
    losses, hits = [], []
    bar = tqdm(range(settings.steps), desc="training", unit="step")
    for step in bar:
        if len(order) < settings.batch:
            order = torch.cat((order, torch.randperm(len(images), generator=draws)))
        rows, order = order[: settings.batch], order[settings.batch :]
        side = settings.small_px if step < settings.small_share * settings.steps else settings.large_px
        views = augmented(images[rows], side, settings.colour_jitter, draws).to(
            memory_format=torch.channels_last
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            maps = tapped(features, views)
        wanted = labels[rows]
        logits = {name: heads[name](maps[name]) for name in TAPS}
        loss = sum(
            share * functional.cross_entropy(logits[name], wanted, label_smoothing=0.05)
            for name, (_, _, share) in TAPS.items()
        )
        loss = loss + FAMILY_SHARE * functional.cross_entropy(
            heads["family"](maps["conv5_3"]), wanted // settings.members, label_smoothing=0.05
        )
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"training diverged at step {step}: loss {loss.item()}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        hits.append((logits["conv5_3"].argmax(1) == wanted).float().mean().item())
        bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", accuracy=f"{np.mean(hits[-20:]):.3f}")
        if (step + 1) % checkpoint_steps == 0 and step + 1 < settings.steps:
            save_weights(features, out)
    save_weights(features, out)
    write_json(
        out.with_name("recipe.json"),
        {
            "model": NAME,
            "task": "product and family, of products that no competition holds",
            "settings": asdict(settings),
            "images": len(images),
            "loss_last_50_steps": round(float(np.mean(losses[-50:])), 4),
            "accuracy_last_50_steps": round(float(np.mean(hits[-50:])), 4),
            "drawing_s": round(drawn_s, 1),
            "total_s": round(time.perf_counter() - began, 1),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    )
    return out


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=TrainingRecipe.steps)
    parser.add_argument("--families", type=int, default=TrainingRecipe.families)
    parser.add_argument("--seed", type=int, default=TrainingRecipe.seed)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    settings = TrainingRecipe(seed=arguments.seed, families=arguments.families, steps=arguments.steps)
    print(train(settings, arguments.out, processes=arguments.processes))


if __name__ == "__main__":
    main()

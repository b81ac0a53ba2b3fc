"""Train the embedded network on products of the mini competition's generator that no competition holds.

    python -m tests.benchmarks.mini_backbone_training [--steps N] [--out weights.safetensors]

The task is to name the product, and at the deepest layer also its family (packaging, brand, layout), from a catalogue
picture or a user photo. conv3_3, conv4_3 and conv5_3 each have their own head, so that each of them is of use alone and
knows something else. A batch norm after each convolution in training, folded into the convolutions when saved; weights
in half precision; the training recipe goes beside them as JSON.
"""

from __future__ import annotations

import argparse
import io
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from safetensors.torch import save
from timm.models.vgg import VGG
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from competition.atomic import write_bytes, write_json
from competition.mini.catalogue import draw_catalogue
from competition.mini.photos import draw_photo
from competition.mini.products import draw_family
from features.networks.fused_convolutions import with_norm
from features.networks.mini_backbone.model import LAYOUT, MEAN, NAME, STD, WEIGHTS, WIDTH

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
    numbers = tqdm(range(settings.families), desc="drawing families", unit="family")
    families = Parallel(processes)(delayed(draw_training_family)(settings, number) for number in numbers)
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


def training_features() -> nn.Sequential:
    """Return the convolutions with a batch norm after each, as the training uses them (random weights)."""
    return VGG(list(LAYOUT), num_classes=0, mlp_ratio=1 / 4096, norm_layer=nn.BatchNorm2d).features


def folded(features: nn.Sequential) -> dict[str, torch.Tensor]:
    """Return the state of the plain network that computes what `features` (with batch norms) computes in evaluation.

    Keys as in timm's VGG, "features.0.weight" and so on; float32.
    """
    state: dict[str, torch.Tensor] = {}
    position = 0
    modules = list(features)
    for module, following in zip(modules, [*modules[1:], None]):
        if isinstance(module, nn.BatchNorm2d):
            continue
        if isinstance(module, nn.Conv2d):
            weight, bias = with_norm(module, following if isinstance(following, nn.BatchNorm2d) else None)
            bias = weight.new_zeros(len(weight)) if bias is None else bias
            state[f"features.{position}.weight"], state[f"features.{position}.bias"] = weight, bias
        position += 1
    return state


def train(settings: TrainingRecipe, out: Path, *, processes: int = 2) -> Path:
    """Train, write the weights to `out` and `recipe.json` beside it; returns `out`."""
    began = time.perf_counter()
    torch.manual_seed(settings.seed)
    draws = torch.Generator().manual_seed(settings.seed)
    images, labels = draw_training_set(settings, processes)
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
    state = {name: value.half().contiguous() for name, value in folded(features).items()}
    write_bytes(out, save(state, metadata={"model": NAME, "format": "pt"}))
    write_json(
        out.with_name("recipe.json"),
        {
            "model": NAME,
            "task": "product and family, of products that no competition holds",
            "settings": asdict(settings),
            "images": len(images),
            "loss_last_50_steps": round(float(np.mean(losses[-50:])), 4),
            "accuracy_last_50_steps": round(float(np.mean(hits[-50:])), 4),
            "total_s": round(time.perf_counter() - began, 1),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
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
    arguments = parser.parse_args()
    settings = TrainingRecipe(seed=arguments.seed, families=arguments.families, steps=arguments.steps)
    print(train(settings, arguments.out))


if __name__ == "__main__":
    main()

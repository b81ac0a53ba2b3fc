"""`top7_vgg16_quarter`: the layout of VGG16 at a quarter of its width, timm's own VGG class under timm's own registry.

Thirteen 3 x 3 convolutions in five blocks (configuration D of Simonyan & Zisserman, 2015) with 16 to 128 channels and no
classifier head: 0.92 M parameters. The weights (`weights.safetensors`, half precision on disk, float32 in memory) lie
beside this file and were made by tests/benchmarks/mini_backbone_training.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models import register_model
from timm.models._builder import build_model_with_cfg
from timm.models._registry import generate_default_cfgs
from timm.models.vgg import VGG
from torch import nn

NAME = "top7_vgg16_quarter"
WEIGHTS = Path(__file__).with_name("weights.safetensors")
# channels of the convolutions; "M": 2 x 2 maximum
LAYOUT = (16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 128, 128, 128, "M", 128, 128, 128, "M")
WIDTH = 128  # channels of the last block
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "file": str(WEIGHTS),
            "num_classes": 0,
            "input_size": (3, 160, 160),
            "pool_size": (5, 5),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": MEAN,
            "std": STD,
            "first_conv": "features.0",
            "license": "mit",
        },
    }
)


def complete_state(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the stored convolutions as float32, with the model's own values for the head that is not stored.

    Only keys outside `features.` are filled in, so that timm's strict loading still refuses another layout.
    """
    head = {name: value for name, value in model.state_dict().items() if not name.startswith("features.")}
    return {**head, **{name: value.float() for name, value in state.items()}}


@register_model
def top7_vgg16_quarter(pretrained: bool = False, **kwargs) -> nn.Module:
    """Build the network; `features_only=True` gives conv1_2, conv2_2, conv3_3, conv4_3, conv5_3 (after ReLU) and pool5."""
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3, 4, 5))
    kwargs.setdefault("num_classes", 0)
    # timm's VGG always makes two 4096-wide layers; they are made as small as it allows and dropped below
    model = build_model_with_cfg(
        VGG,
        NAME,
        pretrained,
        model_cfg=list(LAYOUT),
        mlp_ratio=1 / 4096,
        feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
        pretrained_filter_fn=complete_state,
        **kwargs,
    )
    if isinstance(model, VGG):
        model.register_module("pre_logits", nn.Identity())
        model.num_features = model.head_hidden_size = WIDTH
        model.head.in_features = WIDTH
        model.head.reset(kwargs["num_classes"])
    return model

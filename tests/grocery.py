"""The real competition beside the project, ../shared/grocery, and a configuration of it."""

from __future__ import annotations

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"


def grocery_configuration(shared: Path, poolings: list[str], parts: str = "", simulated: int = 0) -> str:
    """mobilenetv1_100 at 288 px, five layers. parts: the TOML value of `parts`, empty for none."""
    return f"""
[competition]
name = "grocery"
gallery = "{shared}/grocery/gallery"
validation = "{shared}/grocery/val"
labels = "{shared}/grocery/val.csv"
test = "{shared}/grocery/test"

[[backbone]]
model = "mobilenetv1_100"
weights = "{shared}/weights/mobilenetv1_100.safetensors"
options = {{ pad_type = "same" }}
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
image_size = 288
layers = [0, 1, 2, 3, 4]
pooling = {poolings}
{f"parts = {parts}" if parts else ""}

[simulate]
images = {simulated}
"""

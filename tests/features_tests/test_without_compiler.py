"""timm without torch's compiler: it stays away until somebody wants it, and then is the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from competition.configuration import Backbone
from features.models import create_model, without_values

ROOT = Path(__file__).resolve().parents[2]


def fresh(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_compiler_stays_away_and_comes_whole_when_it_is_wanted():
    said = fresh("""
import sys
import features.models, timm, torch
from features.mini_backbone.model import NAME
from torchvision.ops import RoIAlign
print(any(name.startswith(("torch._dynamo", "torch._inductor")) for name in sys.modules))
timm.create_model(NAME, pretrained=False)
print("torch._dynamo" in sys.modules)
print(RoIAlign(2, 1.0, -1)(torch.ones(1, 1, 4, 4), torch.tensor([[0, 0, 0, 3, 3.0]])).tolist())
import torch._dynamo.utils
print(torch._dynamo.utils.__file__ is not None, torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1)).tolist())
""")
    assert said.splitlines() == ["False", "False", "[[[[1.0, 1.0], [1.0, 1.0]]]]", "True [2.0]"]


@pytest.mark.parametrize("module", ["features.fusing", "features.backbones", "features.extraction.engine"])
def test_the_compiler_stays_away_whichever_module_is_imported_first(module):
    said = fresh(
        f"import sys, {module}; print(any(name.startswith('torch._dynamo') for name in sys.modules))"
    )
    assert said == "False\n"


def test_whatever_else_is_asked_of_the_stand_in_is_the_real_thing():
    said = fresh("""
import sys
from features.without_compiler import without_compiler
with without_compiler():
    print(type(sys.modules["torch._dynamo.utils"]).__name__)
    from torch._dynamo.utils import counters
    from torch._dynamo import optimize
print(type(counters).__name__, callable(optimize), type(sys.modules["torch._dynamo"]).__name__)
""")
    assert said.splitlines() == ["_StandIn", "defaultdict True module"]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "top7_vgg16_quarter"])
def test_networks_without_values_have_every_name_and_shape(name):
    backbone = Backbone(model=name, name=name, layers=(0,))
    with without_values():
        found = create_model(backbone, {}).state_dict()
    expected = create_model(backbone, {}).state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert all(value.is_meta for key, value in found.items() if expected[key].ndim)

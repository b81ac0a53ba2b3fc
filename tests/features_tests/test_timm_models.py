"""timm's models made with names and shapes alone, and importing that changes nothing for the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from competition.configuration import Backbone
from features.networks.timm_models import create_model
from tests.conftest import ROOT

IMPORTING = """
import logging, os, sys, warnings
import torch, timm, numpy, PIL.Image, scipy, faiss
def state():
    loggers = {name: logging.getLogger(name).level for name in ("", "timm", "huggingface_hub")}
    limits = PIL.Image.MAX_IMAGE_PIXELS, sys.getrecursionlimit()
    return loggers, torch.get_num_threads(), list(warnings.filters), dict(os.environ), limits
before = state()
import features.extraction, features.networks.backbones
print(state() == before)
"""


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "top7_vgg16_quarter"])
def test_networks_without_values_have_every_name_and_shape(name):
    backbone = Backbone(model=name, name=name, layers=(0,))
    with torch.device("meta"):
        found = create_model(backbone, {}).state_dict()
    expected = create_model(backbone, {}).state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert all(value.is_meta for key, value in found.items() if expected[key].ndim)


def test_importing_extraction_changes_nothing_for_the_process():
    found = subprocess.run([sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "True\n", found.stderr

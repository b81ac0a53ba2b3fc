"""What is taken over from an unfinished extraction is checked: damage anywhere in it ends in the same bytes."""

from __future__ import annotations

import random
import shutil

import pytest

from features.extraction import backbone_pass
from tests.features_tests.extraction_competition import Stops, stopping_after

KINDS = {"journal": ".*.journal", "records": ".*.images.npy.*.partial", "rows": ".test_resnet*.partial"}


@pytest.fixture(scope="module")
def seen() -> dict:
    """The bytes of undisturbed runs, by what the gallery holds: one run for all tests here is enough."""
    return {}


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("harm", ["flipped", "cut", "zeroed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_unfinished_run_ends_in_the_same_bytes(tiny, monkeypatch, seen, kind, harm, grown):
    tiny.image("g002").write_bytes(b"")
    shutil.copy(tiny.image("g006"), tiny.image("g008"))
    configuration = tiny.configured()
    with monkeypatch.context() as patched, pytest.raises(Stops):
        patched.setattr(backbone_pass, "StartedWindow", stopping_after(2))
        tiny.run(configuration)
    for image in (tiny.folder / "gallery").iterdir():
        assert image.is_file()
    if grown:
        tiny.draw(["g001"])
    if grown not in seen:
        whole = tiny.configured("whole")
        tiny.run(whole)
        seen[grown] = descriptors(tiny.contents(whole))
    chance = random.Random(f"{kind} {harm}")
    path = sorted((tiny.folder / "work" / "dumps" / "gallery").glob(KINDS[kind]))[0]
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data) // 3)
    if harm == "flipped":
        data[at] ^= 1 << chance.randrange(8)
    elif harm == "zeroed":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    else:
        del data[at:]
    path.write_bytes(data)
    tiny.run(configuration)
    assert descriptors(tiny.contents(configuration)) == seen[grown]


def descriptors(files: dict[str, bytes]) -> dict[str, bytes]:
    """Rows, norms and checksums, and the list of what cannot be read (times of files differ from run to run)."""
    return {n: d for n, d in files.items() if n.startswith("test_resnet") and n.endswith(".npy")}

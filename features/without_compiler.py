"""Import timm without torch's compiler, which half of such an import would go into.

timm and the torchvision it imports want two functions of `torch._dynamo`, which mean something under `torch.compile` alone:
`disable`, of which torch has a form that imports the compiler when the function is called, and a question.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


class _StandIn(ModuleType):
    """A module that is imported only when something of it is asked for."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_imported(self.__name__), name)


def _imported(name: str) -> ModuleType:
    _remove_stand_ins()
    return importlib.import_module(name)


def _remove_stand_ins() -> None:
    for name in COMPILER:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _is_compile_supported(device: str) -> bool:
    return _imported("torch._dynamo.utils").is_compile_supported(device)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Leave `torch._dynamo` out of what is imported inside, unless it is there or more of it is needed."""
    try:
        from torch import _disable_dynamo
    except (
        ImportError
    ):  # another torch than the pinned one: the compiler is imported, and the start is slower
        yield
        return
    if "torch._dynamo" not in sys.modules:
        stand_ins = {name: _StandIn(name) for name in COMPILER}
        stand_ins["torch._dynamo"].disable = lambda function=None, recursive=True, **_: _disable_dynamo(
            function, recursive
        )
        stand_ins["torch._dynamo.utils"].is_compile_supported = _is_compile_supported
        sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _remove_stand_ins()

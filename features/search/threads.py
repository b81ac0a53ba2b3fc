"""Work on several threads of this process, each with one processor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any

from threadpoolctl import ThreadpoolController

MOST_THREADS = 32  # each holds some 60 MB

Spread = Callable[[Callable[[Any], Any], Iterable], Iterator]


def thread_count() -> int:
    """Return on how many threads `threads` runs: as many as torch, at most MOST_THREADS."""
    import torch

    return min(torch.get_num_threads(), MOST_THREADS)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")  # looking for libraries takes milliseconds


def one_blas_thread() -> AbstractContextManager:
    """Keep numpy's products inside on one thread: on more of them their bits may be others."""
    return _blas().limit(limits=1)


@contextmanager
def threads() -> Iterator[Spread]:
    """Give a map that runs on `thread_count` threads; inside, neither torch nor the BLAS library starts further ones.

    Theirs wait for each other after every small product, and use up a processor meanwhile.
    """
    import torch

    count = torch.get_num_threads()
    try:
        with (
            one_blas_thread(),
            ThreadPoolExecutor(thread_count(), initializer=partial(torch.set_num_threads, 1)) as pool,
        ):
            yield pool.map
    finally:
        torch.set_num_threads(count)

"""How many threads the operations of torch, and those of numpy, take on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def threads_of_torch(count: int | None) -> Iterator[None]:
    """Let torch's operations on the CPU take so many threads while the context lasts; None for as many as they do."""
    import torch  # slow to import

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread_of_numpy() -> Iterator[None]:
    """Let numpy's linear algebra take one thread while the context lasts.

    On matrices of some hundred rows threads wait for each other more than they compute. And sums do not depend on how
    many cores there are.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> Any:
    import scipy.linalg  # noqa: F401 - what is not loaded is not found, and it has a library of its own
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

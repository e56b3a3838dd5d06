"""How many threads torch's operations on the CPU take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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

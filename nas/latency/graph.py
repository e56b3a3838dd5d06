"""CUDA graphs: the kernels of a pass without the time that Python takes to launch them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nas.latency.runtime import Run

WARM_UP = 3
"""Passes before a capture: libraries initialise, and cuDNN chooses its kernels, which must not be captured."""


def replay_of(run: Run, device: torch.device) -> Run | None:
    """Return the replay of a captured pass, or None where it cannot be captured: it waits for the device, say.

    Source: PyTorch's notes on CUDA semantics, section CUDA graphs.

    Args:
        run: One pass on the device, always over the same tensors.
        device: A CUDA device.
    """
    with torch.cuda.device(device):
        outside = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        try:
            # What waits for the device is found here: a capture that breaks off leaves random numbers unusable.
            with torch.cuda.stream(side), _no_waiting():
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                kept = run()  # the graph writes its result into this tensor, which must live as long
        except RuntimeError:
            torch.cuda.set_stream(outside)  # a capture that breaks off leaves its own one current (torch 2.6)
            torch.cuda.synchronize()
            return None

    def replay(_kept: object = kept) -> None:
        graph.replay()

    return replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raise where an operation waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)

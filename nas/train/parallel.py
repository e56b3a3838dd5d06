"""One process that trains, or several that ``torchrun`` started and that train one network together."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from timm.utils import distribute_bn, init_distributed_device, reduce_tensor
from torch import Tensor, distributed, nn

from nas import proxy
from nas.latency import lock_name
from nas.locks import DeviceLock

T = TypeVar("T")


@dataclass(frozen=True)
class Crew:
    """This process among those that train together."""

    device: torch.device
    """Its own device."""
    rank: int = 0
    """Its number, from 0."""
    size: int = 1
    """Number of processes."""

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def turn(self) -> AbstractContextManager[object]:
        """Return a context that keeps latencies from being measured on the device meanwhile.

        Only the first process waits for it: if each did, one could train and wait for another that a clock keeps out.
        """
        return DeviceLock(lock_name(self.device)).training() if self.is_first else nullcontext()

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return the model with its gradients averaged over the processes; the model itself if there is one."""
        if self.is_alone:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a value over the processes."""
        if self.is_alone:
            return value
        found: Tensor = reduce_tensor(value, self.size)
        return found

    def share_statistics(self, model: nn.Module) -> None:
        """Give all processes the mean of their running statistics of batch normalisation."""
        if not self.is_alone:
            distribute_bn(model, self.size, reduce=True)

    def gather(self, own: Tensor, count: int) -> Tensor:
        """Return what all processes have found, in the order of the images.

        Args:
            own: What this one found on the images rank, rank + size, ..., (n,); equally many in each process.
            count: Number of images; what lies beyond was repeated to make the shares equal.
        """
        if self.is_alone:
            return own[:count]
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own.contiguous())
        return torch.stack(parts, dim=1).flatten()[:count]

    def agree(self, work: Callable[[], T]) -> T:
        """Let the first process do something, and return in all what it returned.

        Raises:
            SystemExit: In the others, if the first failed; it says why.
        """
        if self.is_alone:
            return work()
        box: list[Any] = [None, True]
        try:
            if self.is_first:
                box = [work(), False]
        finally:
            distributed.broadcast_object_list(box, src=0)
        if box[1]:
            raise SystemExit(2)
        result: T = box[0]
        return result


@contextmanager
def together(device_name: str) -> Iterator[Crew]:
    """Join the processes that ``torchrun`` started, or be alone.

    Args:
        device_name: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``. Of several processes each takes a GPU.

    Raises:
        ValueError: If the device is not there, or there are fewer GPUs than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    device = proxy.select_device(device_name)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes do not change between steps: the quickest kernels are found
    if count == 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield Crew(device=device)
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise ValueError(f"{here} processes need as many GPUs, but there are {torch.cuda.device_count()}; --device cpu")
    if device.type == "mps":
        device = torch.device("cpu")  # it has no backend through which processes could talk
    arguments = Namespace(device=device.type)
    device = init_distributed_device(arguments)
    try:
        yield Crew(device=device, rank=arguments.rank, size=arguments.world_size)
    finally:
        distributed.destroy_process_group()

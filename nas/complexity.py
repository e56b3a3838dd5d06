"""Counted cost of a model: parameters, multiply-accumulates, memory, operations; and a nominal time from them.

The counts are exact and the same on every machine. They guide the sampler: a search that is repeated with the same
seed shall propose the same architectures, so what a noisy clock says reaches the sampler only where there are limits
of latency. What the front and the report show is the measured latency.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from nas.shadow import tensors, without_data


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What one forward pass of one image takes in evaluation mode."""

    parameters: int
    """Number of trainable and frozen parameters; a shared one counts once."""
    macs: int
    """Multiply-accumulates of convolutions and matrix products."""
    weight_bytes: int
    """Bytes of parameters and buffers that the operations read: the same for a batch of any size."""
    traffic_bytes: int
    """Bytes of all other tensors that the operations read and write: they grow with the batch."""
    operations: int
    """Operations that launch work; a view is none."""
    activation_bytes: int = 0
    """Most bytes that are alive at once beside the weights, the image included; they grow with the batch."""


@dataclass(frozen=True, kw_only=True)
class Nominal:
    """Round numbers for a kind of device: the slopes of :func:`nominal_ms`, not a claim about any one device."""

    operation_us: float
    """Microseconds that an operation takes however small its tensors are."""
    gigabytes_per_second: float
    """Bandwidth between the operations and their tensors."""
    gigaflops: float
    """Floating-point operations per nanosecond in convolutions and matrix products."""


NOMINAL: Mapping[str, Nominal] = {
    "cpu": Nominal(operation_us=20, gigabytes_per_second=10, gigaflops=20),
    "cuda": Nominal(operation_us=5, gigabytes_per_second=1000, gigaflops=20_000),
    "mps": Nominal(operation_us=20, gigabytes_per_second=100, gigaflops=3_000),
}
"""The CPU's are near one busy server core: they order random placements by CPU time with a Spearman correlation of 0.82
(test_resnet, 32 pixels, n = 40) and 0.88 (resnet18, 64 pixels, n = 30), where any one of the counts alone gives 0.56 to
0.77. They were picked on these very placements, but a factor of two in one of them changes that by 0.04 at most. The
others are orders of magnitude, compared with nothing.
"""

_ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
_HIDDEN_VIEWS = ("_unsafe_view", "lift_fresh")
_IDLE = frozenset((*_ALLOCATIONS, *_HIDDEN_VIEWS))
"""Operations that move no data although their schema does not call them views."""


def count(model: nn.Module, input_shape: tuple[int, int, int]) -> Complexity:
    """Count what one image costs, on a copy of the model that has shapes but no data.

    Args:
        model: Any model; it is neither run nor changed.
        input_shape: (C, H, W) of one image.

    Raises:
        ValueError: If the input shape is not three positive numbers, or if the model cannot run without data, for
            example because its control flow depends on values; the message names the model's class.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape must be three positive numbers (C, H, W), but got {input_shape}")
    try:
        shadow = without_data(model).eval()
        work = _Work(_storages(shadow))
        with torch.inference_mode(False), torch.no_grad(), torch.device("meta"), work:
            shadow(work.watch(torch.empty(1, *input_shape)))
    except Exception as error:  # whatever the model raises, the caller needs to know which model
        name = type(model).__name__
        raise ValueError(f"{name} cannot be counted on an image of shape {input_shape}: {error}") from error
    return Complexity(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=work.flops // 2,
        weight_bytes=work.weight_bytes,
        traffic_bytes=work.traffic_bytes,
        operations=work.operations,
        activation_bytes=work.peak_bytes,
    )


def nominal_ms(complexity: Complexity, device_type: str, batch_size: int = 1) -> float:
    """Return a deterministic guess of the latency, good for ordering candidates; never reported as latency.

    Time = operations * overhead + (weights + batch * traffic) / bandwidth + 2 * batch * MACs / peak, in milliseconds:
    linear, because the three parts hardly overlap in a chain of small operations.

    Raises:
        ValueError: If there are no numbers for the kind of device, or the batch is empty.
    """
    if device_type not in NOMINAL:
        raise ValueError(f"device_type must be one of {', '.join(NOMINAL)}, but got {device_type!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}")
    device = NOMINAL[device_type]
    moved = complexity.weight_bytes + batch_size * complexity.traffic_bytes
    computed = 2 * batch_size * complexity.macs
    return (
        complexity.operations * device.operation_us / 1e3
        + moved / device.gigabytes_per_second / 1e6
        + computed / device.gigaflops / 1e6
    )


class _Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, their arithmetic and the bytes of their tensors; weights are recognised by their storage.

    The formulas are those of torch's FlopCounterMode. That mode itself also follows the modules, takes twice the time,
    and takes operations such as upsampling apart that run as one.
    """

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.flops = 0
        self.weight_bytes = 0
        self.traffic_bytes = 0
        self.operations = 0
        self.peak_bytes = 0
        self._alive_bytes = 0
        self._alive: dict[int, int] = {}  # storage -> tensors that are alive and lie in it

    def watch(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor among those that are alive, until it is not."""
        storage = _storage(tensor)
        if storage not in self.weights:
            if storage not in self._alive:
                self._alive_bytes += tensor.untyped_storage().nbytes()
                self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
            self._alive[storage] = self._alive.get(storage, 0) + 1
            weakref.finalize(tensor, self._drop, storage, tensor.untyped_storage().nbytes()).atexit = False
        return tensor

    def _drop(self, storage: int, size: int) -> None:
        self._alive[storage] -= 1
        if not self._alive[storage]:
            del self._alive[storage]
            self._alive_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.watch(leaf)
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        if not func.is_view and func._schema.name.split("::")[1] not in _IDLE:
            self.operations += 1
            self._add(args, kwargs)
            self._add(result)
        return result

    def _add(self, *values: Any) -> None:
        """Add the bytes of all tensors among these values."""
        for leaf in tree_leaves(values):
            if isinstance(leaf, torch.Tensor):
                size = leaf.numel() * leaf.element_size()
                if _storage(leaf) in self.weights:
                    self.weight_bytes += size
                else:
                    self.traffic_bytes += size


def _storages(model: nn.Module) -> set[int]:
    """Return the identities of the storages of all tensors of a model."""
    return {_storage(tensor) for tensor in tensors(model)}


def _storage(tensor: torch.Tensor) -> int:
    """Return the identity of a tensor's storage, which its views share."""
    return int(tensor.untyped_storage()._cdata)

"""Does a map still reach the model's result, or only the tokens that stand before it?

Where the head reads the class token alone, what is done to the patches behind the last exchange between tokens has no
effect. Whether that is so is found with numbers: the map is made of real random ones at the point in question, and
whatever meets it from there on becomes real too; then its gradient is 0 or not. All before that stays without data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nas.placement.layout import Layout
from nas.placement.probe import Point, Probe


def reaches(probe: Probe, point: Point) -> bool:
    """Tell whether the result depends on the map at a point; True where that cannot be found out."""
    if not point.layout.prefix:
        return True
    maps: list[Tensor] = []
    host = probe.shadow.get_submodule(point.path)
    if point.before:
        handle = host.register_forward_pre_hook(lambda _, inputs: (_real(point.layout, inputs[0], maps), *inputs[1:]))
    else:
        handle = host.register_forward_hook(lambda _module, _inputs, output: _real(point.layout, output, maps))
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), _MakeReal():
            torch.manual_seed(0)
            result = probe.shadow(torch.empty(probe.trace.image, device="meta"))
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
            if not maps or not outputs:
                return False
            total = torch.stack([output.square().sum() for output in outputs]).sum()
            (gradient,) = torch.autograd.grad(total, maps[0], allow_unused=True)
    except Exception:  # an operation that is not seen on the way has met both kinds of tensors
        return True
    finally:
        handle.remove()
    return gradient is not None and bool((gradient != 0).any())


def _real(layout: Layout, output: Any, maps: list[Tensor]) -> Any:
    """Return a module's output with random numbers in it; those of the map are kept, to ask for their gradient."""

    def fill(map_: Tensor) -> Tensor:
        maps.append(torch.randn(map_.shape, requires_grad=True))
        return maps[-1]

    real = tree_map_only(Tensor, lambda tensor: torch.randn(tensor.shape), output)
    return layout.apply(fill, real)


class _MakeReal(TorchFunctionMode):
    """Where a tensor with numbers meets tensors without, these become random; the same one always the same."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(not tensor.is_meta and tensor.dim() for tensor in tensors):
            args, kwargs = tree_map_only(Tensor, self._get, (args, kwargs))
        return func(*args, **kwargs)

    def _get(self, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        if id(tensor) not in self._made:
            shape, kind = tensor.shape, tensor.dtype
            real = torch.randn(shape, dtype=kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)
            self._made[id(tensor)] = (tensor, real)
        return self._made[id(tensor)][1]

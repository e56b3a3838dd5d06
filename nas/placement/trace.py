"""One forward pass on the meta device, written down: which module ran when, and which value was made from which.

The structure of a backbone is read off this record: where its stages end, which additions close a residual, which
modules are gates. Nothing depends on names of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_ADDITIONS = frozenset(("add", "add_", "__add__", "__radd__", "__iadd__"))
_PRODUCTS = frozenset(("mul", "mul_", "__mul__", "__rmul__", "__imul__"))
_HEAVY = ("conv", "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum")


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor at one moment of the pass; an operation in place makes a new one."""

    number: int
    """Position in the order in which values were made."""
    shape: torch.Size
    """Shape of the tensor."""
    parents: tuple[Value, ...]
    """The values that it was made from, as far as they depend on the image."""
    is_data: bool
    """Whether it depends on the image; parameters and constants do not."""
    heavy: frozenset[int]
    """Numbers of all convolutions and matrix products between the image and it."""
    product: tuple[Value, Value] | None = None
    """The factors, if it is an elementwise product."""


@dataclass(eq=False)
class Call:
    """One run of one module."""

    path: str
    """The module's name in the model."""
    module: nn.Module
    """The module."""
    parent: Call | None
    """The run that this one is a part of."""
    start: int
    """Time of its beginning; times count beginnings and ends."""
    inputs: tuple[Value, ...]
    """The tensors that it was given."""
    end: int = -1
    """Time of its end."""
    output: Any = None
    """What it returned, as it is: a tensor, or a structure of tensors."""
    values: tuple[Value, ...] = ()
    """The tensors in what it returned."""
    made: int = 0
    """Number of the last value that was made before its end."""

    @property
    def depth(self) -> int:
        """How many runs it is a part of."""
        return 0 if self.parent is None else self.parent.depth + 1

    def inside(self, other: Call) -> bool:
        """Tell whether this run is a part of another one."""
        return other.start < self.start and self.end < other.end


@dataclass(frozen=True, eq=False)
class Addition:
    """One addition of two values of one shape that both depend on the image."""

    left: Value
    right: Value
    call: Call
    """The innermost run in which it happened."""
    time: int
    """When it happened, in the time of the runs."""


@dataclass(eq=False)
class Trace:
    """The record of one pass."""

    image: torch.Size
    """Shape of the batch of images, (B, C, H, W)."""
    calls: list[Call] = field(default_factory=list)
    """The runs in the order of their ends."""
    additions: list[Addition] = field(default_factory=list)
    """The additions in their order."""

    def __post_init__(self) -> None:
        self.by_path: dict[str, list[Call]] = {}
        self.makers: dict[Value, list[Call]] = {}

    @property
    def result(self) -> tuple[Value, ...]:
        """What the model returned."""
        return self.calls[-1].values

    def close(self) -> None:
        """Index the runs, once all are recorded."""
        for call in self.calls:
            self.by_path.setdefault(call.path, []).append(call)
            for value in call.values:
                self.makers.setdefault(value, []).append(call)


def depends(value: Value, on: Value, *, since: int = 0) -> bool:
    """Tell whether a value is another one or was made from it, by operations after a moment.

    Args:
        value: The value.
        on: What it may come from.
        since: Number of the last value that had been made at the moment.
    """
    if value is on:
        return True
    seen, todo = set(), [value]
    while todo:
        current = todo.pop()
        for parent in current.parents:
            if parent is on and current.number > since:
                return True
            # parents are older: what is older than the one that is looked for cannot come from it
            if parent.number > on.number and parent.number not in seen:
                seen.add(parent.number)
                todo.append(parent)
    return False


def record(shadow: nn.Module, image: Tensor) -> Trace:
    """Run a model once and write down what happened.

    Args:
        shadow: The model on the meta device, in evaluation mode; see :mod:`nas.shadow`.
        image: (B, C, H, W) on the meta device.

    Raises:
        Exception: Whatever the model raises.
    """
    recorder = _Recorder(shadow, image)
    handles = [
        handle
        for path, module in shadow.named_modules()
        for handle in (
            module.register_forward_pre_hook(recorder.enter(path), with_kwargs=True),
            module.register_forward_hook(recorder.leave, always_call=False),
        )
    ]
    try:
        with torch.no_grad(), recorder:
            shadow(image)
    finally:
        for handle in handles:
            handle.remove()
    recorder.trace.close()
    return recorder.trace


class _Recorder(TorchFunctionMode):
    """Follows the tensors of one pass. It keeps them all, so that no two share an identity."""

    def __init__(self, shadow: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.trace = Trace(image=image.shape)
        self._time = 0
        self._count = 0
        self._stack: list[Call] = []
        self._tensors: dict[int, tuple[Tensor, Value]] = {}
        self._constants = {id(tensor) for tensor in (*shadow.parameters(), *shadow.buffers())}
        self._set(image, (), is_data=True)

    def enter(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            parent = self._stack[-1] if self._stack else None
            inputs = tuple(self._value(tensor) for tensor in _tensors((args, kwargs)))
            self._stack.append(Call(path=path, module=module, parent=parent, start=self._tick(), inputs=inputs))

        return hook

    def leave(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        call = self._stack.pop()
        call.end = self._tick()
        call.output = output
        call.values = tuple(self._value(tensor) for tensor in _tensors(output))
        call.made = self._count
        self.trace.calls.append(call)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        used = [self._value(tensor) for tensor in given]
        versions = {id(tensor): tensor._version for tensor in given}
        result = func(*args, **kwargs)
        # what comes back as it was given was not changed: dropout in evaluation
        made = [tensor for tensor in _tensors(result) if versions.get(id(tensor)) != tensor._version]
        if not made:
            return result
        name = getattr(func, "__name__", "")
        heavy = name.startswith(_HEAVY) or "attention" in name
        pair = used if len(used) == 2 else []
        for tensor in made:
            product = (pair[0], pair[1]) if name in _PRODUCTS and pair else None
            self._set(tensor, used, heavy=heavy, product=product)
        closes = name in _ADDITIONS and self._stack and pair and pair[0].is_data and pair[1].is_data
        if closes and pair[0].shape == pair[1].shape:
            self.trace.additions.append(Addition(pair[0], pair[1], self._stack[-1], self._time))
        return result

    def _tick(self) -> int:
        self._time += 1
        return self._time

    def _value(self, tensor: Tensor) -> Value:
        """Return the value that a tensor holds now; one from nowhere was made of what its module was given."""
        known = self._tensors.get(id(tensor))
        if known is not None:
            return known[1]
        given = self._stack[-1].inputs if self._stack and id(tensor) not in self._constants else ()
        is_parameter = isinstance(tensor, nn.Parameter)
        return self._set(tensor, () if is_parameter else given)

    def _set(
        self,
        tensor: Tensor,
        used: Iterable[Value],
        *,
        heavy: bool = False,
        is_data: bool = False,
        product: tuple[Value, Value] | None = None,
    ) -> Value:
        parents = tuple({value.number: value for value in used if value.is_data}.values())
        weights = frozenset().union(*(value.heavy for value in parents))
        self._count += 1
        value = Value(
            number=self._count,
            shape=tensor.shape,
            parents=parents,
            is_data=is_data or bool(parents),
            heavy=weights | {self._count} if heavy and parents else weights,
            product=product,
        )
        self._tensors[id(tensor)] = (tensor, value)
        return value


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))

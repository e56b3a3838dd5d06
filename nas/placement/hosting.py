"""Modules that run blocks, on their output or on their input, and modules that stand in another one's place.

A block becomes a child of the module where it stands, and that module gets a subclass of its own class whose forward
runs it. So the backbone keeps its own parameter names, copies and pickles run their own blocks, and there are no hooks,
which would cost a small network several per cent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, SupportsIndex

from torch import Tensor, nn

from nas.placement.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Where one block hangs in a model: what it takes to hang an equal one into an equal backbone."""

    path: str
    """Path of the block in the model; of the empty slot where attention was only taken out."""
    host: str
    """Path of the module that runs it, or of the one in whose place it stands."""
    name: str
    """Path of the block below that module."""
    layout: Layout
    """Where the map is in what the block sees."""
    how: str
    """``after`` or ``before`` the host, on its output or its input; ``instead`` of it."""


def attach(model: nn.Module, host: str, name: str, block: nn.Module, layout: Layout, *, before: bool = False) -> None:
    """Let a module of a model run a block on its output, or on its input.

    Args:
        model: The model.
        host: Path of the module that runs the block.
        name: Path of the block below that module; what it is to be a child of must exist.
        block: The block.
        layout: Where the map is in what the block sees.
        before: Whether it is run on the input.

    Raises:
        ValueError: If the module has a forward of its own instance, which would not run the block.
    """
    module = model.get_submodule(host)
    add_run(module, Run(path=tuple(name.split(".")), layout=layout), before=before)
    store, _, child = name.rpartition(".")
    module.get_submodule(store).add_module(child, block)


def substitute(model: nn.Module, path: str, name: str, block: nn.Module | None, layout: Layout) -> None:
    """Put a block, or nothing, in the place of a module of a model; it is kept aside.

    Args:
        model: The model.
        path: Path of the module that has to go.
        name: Name of the block below that path.
        block: The block; None to pass the map on as it is.
        layout: Where the map is in what the module is given.
    """
    original = model.get_submodule(path)
    set_submodule(model, path, Slot(original, name, block, layout).train(original.training))


def wires(model: nn.Module) -> list[Wire]:
    """Return where the blocks of a model hang, and where attention was only taken out."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, Slot):
            block = f"{path}.{module._name}" if module.block is not None else path
            found.append(Wire(path=block, host=path, name=module._name, layout=module._layout, how="instead"))
        if isinstance(module, RunsBlocks):
            for how, runs in (("before", module._before), ("after", module._after)):
                for run in runs:
                    name = ".".join(run.path)
                    found.append(Wire(path=f"{path}.{name}", host=path, name=name, layout=run.layout, how=how))
    return found


class Slot(nn.Module):
    """Stands where a backbone had attention of its own, with another block in it or none.

    The module that had to go is kept aside, to be put back, out of sight of parameters, state dicts and devices.
    """

    def __init__(self, original: nn.Module, name: str, block: nn.Module | None, layout: Layout) -> None:
        super().__init__()
        self._original = (original,)  # in a tuple it is not registered
        self._name = name
        self._layout = layout
        if block is not None:
            self.add_module(name, block)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the map, the first input, with the block applied, in the layout that it came in."""
        x = inputs[0] if inputs else next(iter(named.values()))
        block = self.block
        result: Tensor = x if block is None else self._layout.apply(block, x)
        return result

    @property
    def block(self) -> nn.Module | None:
        """The block in its place; None if attention was only taken out."""
        return self._modules.get(self._name)

    @property
    def original(self) -> nn.Module:
        """The module that the backbone had here."""
        return self._original[0]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One block that a host runs."""

    path: tuple[str, ...]
    """Names of the modules on the way from the host down to the block."""
    layout: Layout
    """Where the map is in what the block sees."""

    def block(self, host: nn.Module) -> nn.Module:
        """Return the block."""
        module: Any = host
        for name in self.path:
            module = module._modules[name]
        found: nn.Module = module
        return found


class RunsBlocks(nn.Module):
    """Mixed into the class of a module that runs blocks. It finds them by name, so that a copy runs its own."""

    _before: tuple[Run, ...]
    """What it runs on its input."""
    _after: tuple[Run, ...]
    """What it runs on its output."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        for run in self._before:
            if inputs:
                inputs = (run.layout.apply(run.block(self), inputs[0]), *inputs[1:])
            else:  # it was called by keyword
                name = next(iter(named))
                named = {**named, name: run.layout.apply(run.block(self), named[name])}
        output = super().forward(*inputs, **named)
        for run in self._after:
            output = run.layout.apply(run.block(self), output)
        return output

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        # The class was made at run time: copies and pickles are made from the one that it was made of.
        get_state: Any = getattr(self, "__getstate__", None)  # Python 3.10 has none
        state = self.__dict__ if get_state is None else get_state()
        return make_host, (type(self).__bases__[1],), state


def make_host(base: type) -> Any:
    """Return an empty host, for copies and pickles to fill."""
    made = host_class(base)
    return made.__new__(made)


def host_class(base: type) -> Any:
    """Return the subclass of a module's class that runs blocks; there is one for each class."""
    if base not in HOST_CLASSES:
        content = {"__module__": base.__module__, "__doc__": base.__doc__}
        HOST_CLASSES[base] = type(base.__name__, (RunsBlocks, base), content)
    return HOST_CLASSES[base]


HOST_CLASSES: dict[type, type] = {}
"""The subclass that runs blocks, for each class of a module that was made to run some."""


def add_run(module: Any, run: Run, *, before: bool) -> None:
    """Let a module run a block, on its input or on its output."""
    if "forward" in vars(module):
        raise ValueError(f"{type(module).__name__} has a forward of its own instance, which would not run the block")
    if not isinstance(module, RunsBlocks):
        module.__class__ = host_class(type(module))
        module._before = module._after = ()
    if before:
        module._before += (run,)
    else:
        module._after += (run,)


def hosted(model: nn.Module) -> Iterator[tuple[nn.Module, Run]]:
    """Yield every block that a module runs on its input or output, with that module."""
    for module in model.modules():
        if isinstance(module, RunsBlocks):
            for run in (*module._before, *module._after):
                yield module, run


def set_submodule(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path of a model."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module

"""Which module runs a block, and which module keeps it.

Mostly both are the module whose output the block takes. timm's gradient checkpointing runs the children of a plain
Sequential and not the Sequential itself, so there it is the last child. And some modules (RegStage, DenseBlock) run all
their children in turn and would run an added block once more, so there the block is kept in the last child too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nas.placement.probe import Point, Probe


@dataclass(frozen=True, kw_only=True)
class Host:
    """Who runs a block and who keeps it."""

    path: str
    """Path of the module that runs it."""
    store: str = ""
    """Path, below that module, of the one that keeps the block; empty for that module itself."""


def hosts(probe: Probe, points: Iterable[Point]) -> dict[str, Host]:
    """Return the host for each path at which a block is to stand, on the output or on the input of the module."""
    todo = {point.path: _last_child(probe, point.path, point.before) for point in points}
    found = {}
    while todo:
        running = _run_their_children(probe, set(todo.values()))
        following = {}
        for asked, path in todo.items():
            name = next(reversed(probe.shadow.get_submodule(path)._modules), "")
            if path not in running:
                found[asked] = Host(path=path)
            elif _returns_the_same(probe, path, f"{path}.{name}"):
                following[asked] = _last_child(probe, f"{path}.{name}")
            else:
                found[asked] = Host(path=path, store=name)
        todo = following
    return found


def _last_child(probe: Probe, path: str, before: bool = False) -> str:
    """Follow plain Sequentials to the child that returns their output, unless that child runs elsewhere, too."""
    module = probe.shadow.get_submodule(path)
    while not before and type(module).forward is nn.Sequential.forward and module._modules:
        name = next(reversed(module._modules))
        if len(probe.trace.by_path.get(f"{path}.{name}", [])) != 1:
            break
        path, module = f"{path}.{name}", module.get_submodule(name)
    return path


def _returns_the_same(probe: Probe, path: str, other: str) -> bool:
    calls = [probe.trace.by_path.get(each, []) for each in (path, other)]
    return all(len(found) == 1 for found in calls) and calls[0][0].values == calls[1][0].values


def _run_their_children(probe: Probe, paths: set[str]) -> set[str]:
    """Return which of some modules would run a child that is added to them."""
    candidates = sorted(path for path in paths if probe.shadow.get_submodule(path)._modules)
    try:
        return _spy(probe, candidates)
    except Exception:  # a child that is run and passes its input on may break what runs it: then one by one
        running = set()
        for path in candidates:
            try:
                running |= _spy(probe, [path])
            except Exception:
                running.add(path)
        return running


def _spy(probe: Probe, paths: list[str]) -> set[str]:
    """Run the model with a child added to each module, and return the modules that ran it."""
    if not paths:
        return set()
    ran: set[str] = set()
    for path in paths:
        probe.shadow.get_submodule(path).add_module(_Spy.NAME, _Spy(path, ran))
    try:
        with torch.no_grad():
            probe.shadow(torch.empty(probe.trace.image, device="meta"))
    finally:
        for path in paths:
            del probe.shadow.get_submodule(path)._modules[_Spy.NAME]
    return ran


class _Spy(nn.Module):
    NAME = "spy"

    def __init__(self, path: str, ran: set[str]) -> None:
        super().__init__()
        self._path, self._ran = path, ran

    def forward(self, *inputs: Any) -> Any:
        self._ran.add(self._path)
        return inputs[0] if inputs else None

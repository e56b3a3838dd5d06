"""What does a block cost, and is it as quick as the public implementation?

    python benchmarks/blocks.py                       # the whole zoo on the CPU, about 15 minutes
    python benchmarks/blocks.py se eca --seconds 5    # some of it, more carefully
    python benchmarks/blocks.py --device cuda

Forward and backward pass in training mode, with the gradients of input and parameters, float32, at three shapes. A
round times every implementation once, in turns; what is compared is the ratio within a round, and the median over the
rounds is printed with its 95 % interval. Against each block stand

* scale: the map times one parameter per channel, the least that any gate costs;
* plain: the formula as its paper or its authors write it, in plain torch (tests/attention/formulas, to which the tests
  hold the block, gradients included);
* timm: timm's layer with the same widths, where it has one;
* identity: the block with ``init="identity"``.

Peak memory is what is allocated beyond input, parameters and the gradient that comes in. On a CPU the clock is the CPU
time of one thread, which a busy machine disturbs least; on a GPU, events.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler, which sees allocations, is talkative
import timm
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "attention"))
from formulas import FORMULAS

from nas.attention import BLOCKS, build
from nas.attention.options import OptionValue
from nas.attention.widths import hidden_width
from nas.latency import device_words, median_interval

SHAPES = ((8, 64, 56, 56), (8, 256, 14, 14), (8, 512, 7, 7))
"""Early, late and last maps of a ResNet on images of 224 pixels."""
FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """A block with options, and timm's layer that computes the same."""

    block: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    peer: Callable[[int], nn.Module] | None = None
    """Builds timm's layer for a width."""


Width = Callable[[int], int]


def _timm(
    path: str, *, widths: Mapping[str, Width] | None = None, **arguments: object
) -> Callable[[int], nn.Module] | None:
    """Return a function that builds one of timm's layers for a width; None where this timm has no such layer.

    Args:
        path: File in timm.layers and class in it, with a dot between.
        widths: Arguments that depend on the width.
        **arguments: Others.
    """
    module, name = path.split(".")
    try:
        layer = getattr(importlib.import_module(f"timm.layers.{module}"), name)
    except (ImportError, AttributeError):
        return None
    return lambda channels: layer(channels, **arguments, **{key: of(channels) for key, of in (widths or {}).items()})


def _hidden(reduction: int, floor: int = 4) -> Width:
    return lambda channels: hidden_width(channels, reduction, floor)


PEERS: Mapping[str, tuple[tuple[Mapping[str, OptionValue], Callable[[int], nn.Module] | None], ...]] = {
    "se": (({}, _timm("squeeze_excite.SEModule", widths={"rd_channels": _hidden(16)})),),
    "eca": (({}, _timm("eca.EcaModule")),),
    "gc": (
        (
            {},
            _timm("global_context.GlobalContext", fuse_add=True, fuse_scale=False, widths={"rd_channels": _hidden(16)}),
        ),
        ({"fusion": "scale"}, _timm("global_context.GlobalContext", widths={"rd_channels": _hidden(16)})),
    ),
    "coord": (({}, _timm("coord_attn.CoordAttn", widths={"rd_channels": _hidden(32, 8)})),),
    "cbam": (({}, _timm("cbam.CbamModule", widths={"rd_channels": _hidden(16)})),),
    "ela": (({}, _timm("coord_attn.EfficientLocalAttn", act_layer=nn.Identity, norm_layer=partial(nn.GroupNorm, 16))),),
    "strip": (({}, None), ({"convolution": "depthwise"}, _timm("coord_attn.StripAttn"))),
    "ge": (({}, None), ({"extent": 4}, None), ({"extent": 4, "gather": "conv", "excite": "mlp"}, None)),
    "sk": (
        (
            {},
            _timm(
                "selective_kernel.SelectiveKernel",
                split_input=False,
                groups=32,
                widths={"rd_channels": _hidden(16, 32)},
            ),
        ),
    ),
    "nonlocal": (
        ({}, None),
        ({"kv_stride": 1, "scale": "sqrt"}, _timm("non_local_attn.NonLocalAttn", widths={"rd_channels": _hidden(2)})),
    ),
    "mhsa": (
        ({"residual": "none"}, _timm("attention2d.Attention2d", num_heads=8, bias=False)),
        ({"heads": 4, "position": "relative"}, None),
    ),
}
"""For a block: the options that are timed, each with timm's equal, if there is one. Others: the defaults alone."""


def rows(names: Sequence[str]) -> list[Row]:
    """Return what is timed for these blocks."""
    return [Row(name, options, peer) for name in names for options, peer in PEERS.get(name, (({}, None),))]


class Scale(nn.Module):
    """The baseline: one factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Plain(nn.Module):
    """A block's weights under its plain formula."""

    def __init__(self, block: str, module: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return FORMULAS[self.block](self.module, x, 1.0)


def implementations(row: Row, channels: int, device: str) -> dict[str, nn.Module]:
    """Return the block and what it is compared with, by name."""
    found = {
        "ours": build(row.block, channels, **row.options),
        "scale": Scale(channels),
        "plain": Plain(row.block, build(row.block, channels, **row.options)),
    }
    if not BLOCKS[row.block].starts_as_identity(row.options):
        found["identity"] = build(row.block, channels, init="identity", **row.options)
    if row.peer is not None:
        found["timm"] = row.peer(channels)
    return {name: module.to(device).train() for name, module in found.items()}


def passes(module: nn.Module, x: Tensor, gradient: Tensor) -> None:
    """Run a module forward and backward."""
    torch.autograd.grad(module(x), (x, *module.parameters()), gradient, allow_unused=True)


def seconds(module: nn.Module, x: Tensor, gradient: Tensor, repeats: int) -> float:
    """Return the time of so many passes: of the GPU, or else of this process' CPU."""
    if x.device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            passes(module, x, gradient)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begun = time.process_time()
    for _ in range(repeats):
        passes(module, x, gradient)
    return time.process_time() - begun


def rounds(modules: Mapping[str, nn.Module], x: Tensor, gradient: Tensor, budget: float) -> list[dict[str, float]]:
    """Time all modules in turns until the budget, in seconds, is spent; the order turns round from round to round."""
    first = {
        name: (seconds(module, x, gradient, 1), seconds(module, x, gradient, 1))[1] for name, module in modules.items()
    }
    # a sample of at least 5 ms: a clock's tick and a cold start weigh less
    repeats = {name: max(1, min(100, int(0.005 / max(once, 1e-6)))) for name, once in first.items()}
    found: list[dict[str, float]] = []
    begun = time.perf_counter()
    while len(found) < FEWEST_ROUNDS or time.perf_counter() - begun < budget:
        names = list(modules) if len(found) % 2 == 0 else list(reversed(modules))
        found.append({name: seconds(modules[name], x, gradient, repeats[name]) / repeats[name] for name in names})
    return found


def peak_mib(module: nn.Module, x: Tensor, gradient: Tensor) -> float:
    """Return the most memory that is allocated at once by a forward and a backward pass, in MiB."""
    if x.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        passes(module, x, gradient)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        passes(module, x, gradient)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most / 2**20


def report(row: Row, shape: tuple[int, int, int, int], device: str, budget: float) -> str:
    """Measure one row at one shape and return its line."""
    torch.manual_seed(0)
    modules = implementations(row, shape[1], device)
    x, gradient = torch.randn(2, *shape, device=device).unbind()
    x.requires_grad_()
    found = rounds(modules, x, gradient, budget)
    memory = {name: peak_mib(module, x, gradient) for name, module in modules.items() if name in ("ours", "plain")}
    cells = [f"{median(once['ours'] for once in found) * 1e3:.2f}"]
    for name in ("scale", "plain", "timm"):
        if name in modules:
            ratios = [once["ours"] / once[name] for once in found]
            low, high = median_interval(ratios)
            cells.append(
                f"{median(ratios):.2f} ({low:.2f} to {high:.2f})" if name != "scale" else f"{median(ratios):.1f}"
            )
        else:
            cells.append("")
    ratios = [once["identity"] / once["ours"] for once in found] if "identity" in modules else []
    cells.append(f"{median(ratios):.2f}" if ratios else "same")
    cells += [f"{memory['ours']:.1f}", f"{memory['ours'] / memory['plain']:.3f}", str(len(found))]
    options = ", ".join(f"{name}={value}" for name, value in row.options.items())
    call = row.block + (f"({options})" if options else "")
    return f"| {call} | {'x'.join(map(str, shape))} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("blocks", nargs="*", metavar="BLOCK", help="blocks to time (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="seconds of rounds for each block and shape (default: 3)"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.blocks if name not in BLOCKS]
    if unknown:
        parser.error(f"unknown blocks {', '.join(unknown)}; known: {', '.join(BLOCKS)}")
    torch.set_num_threads(1)
    words = device_words(torch.device(arguments.device))
    print(f"{words}; torch {torch.__version__}, timm {timm.__version__}; ours / reference: below 1 is quicker\n")
    print("| block | shape | ms | / scale | / plain | / timm | identity / paper | peak MiB | peak / plain | rounds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows(arguments.blocks or list(BLOCKS)):
        for shape in SHAPES:
            print(report(row, shape, arguments.device, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()

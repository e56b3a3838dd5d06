"""What each block costs at each stage of a backbone: latency as it is used there, parameters, multiply-accumulates.

A cheap block adds less to a forward pass than two passes differ by, so the difference of two networks needs minutes
per block. Instead, one sample is a pass of the bare backbone, which leaves the caches as in use, and then the block
alone on a map of the stage that was written the moment before. Both are timed, and their ratio is what the block adds.
On a GPU neither waits for the other: launches hide behind the backbone's work as they do within a network. A block
timed in a loop by itself finds its weights in the caches and looks up to twice as quick as it is in a network.

Compared with the difference of two networks (resnet18, 64 pixels, CPU time of one thread of a busy machine, 5 s each):
ECA at stage 4 2.2 % against 3.0 [2.3, 4.1], SE at stage 2 2.2 against 2.0 [0.6, 3.9], GAM at stage 2 13.6 against
12.9 [11.5, 15.1] and at stage 4 70 against 76 [71, 81], MHSA at stage 0 215 against 203 [189, 208]. What a block
pushes out of the caches for those behind it is not in it.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nas import attention, complexity, placement, proxy
from nas.architecture import Stage
from nas.attention.options import OptionValue
from nas.attention.spec import COSTS
from nas.cost_table import Added, Cell, Costs
from nas.evaluation import first_line
from nas.latency import device_words, lock_name, median_interval
from nas.locks import DeviceLock
from nas.protocol import PRECISIONS

BUDGET_SECONDS = 40.0
"""Sampling of a whole table by default, in seconds; with start and files the command then takes less than a minute."""
MOST_SAMPLES = 300
"""Most samples of a cell."""
FEWEST_SAMPLES = 6
"""Fewest samples of a cell: with fewer, order statistics give no 95 % interval of the median."""
SURE = (0.03, 0.02)
"""A cell is known well enough when half its interval is below 3 % of itself, or 0.02 % of the bare pass."""
LARGE_MAP = 64 * 64
"""Pixels from which a block's memory is looked at before it runs: all pairs of so many take 64 MiB per image."""
Times = tuple[int, int]
"""Durations of a bare pass and of the block after it, in nanoseconds."""


def measure(
    backbone: str,
    *,
    resolution: int,
    blocks: Sequence[str] | None = None,
    device: str = "auto",
    batch_size: int = 1,
    precision: str = "float32",
    budget_seconds: float = BUDGET_SECONDS,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_start: Callable[[int], None] | None = None,
    on_cell: Callable[[Cell], None] | None = None,
) -> Costs:
    """Measure every block, with its default options and as published, at every stage of a backbone.

    Args:
        backbone: timm name.
        resolution: Height and width of the images, in pixels.
        blocks: Names of blocks; all by default.
        device: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.
        batch_size: Images in one pass.
        precision: ``float32``, or ``bfloat16`` for autocast.
        budget_seconds: Sampling of all cells together; a slow cell still gets ``FEWEST_SAMPLES`` samples.
        clock: Nanoseconds from any origin; CUDA is timed by events.
        on_start: Called with the number of cells when all arguments were found to be good.
        on_cell: Called with each cell when it is done.

    Raises:
        ValueError: If an argument is wrong, or the backbone cannot run on such images or hold blocks.
    """
    names = _check(blocks, resolution, batch_size, precision, budget_seconds)
    where = proxy.select_device(device)
    with _seeded(where):
        fitted = placement.fit_kwargs(backbone, num_classes=1000, in_channels=3, resolution=resolution)
        bare = placement.create(backbone, num_classes=1000, model_kwargs=fitted).eval()
        bare.to(device=where, memory_format=_memory_format(where))  # type: ignore[call-overload]
        images = torch.randn(batch_size, 3, resolution, resolution).to(where, memory_format=_memory_format(where))
        plan = placement.plan_of(bare)
        shapes = placement.map_shapes(bare, images, plan=plan)
        stages = [stage for stage in plan.stages if stage.widths("after_stage")]
        if on_start is not None:
            on_start(len(names) * len(stages))
        bench = _Bench(bare, images, precision=precision, clock=clock)
        deadline = clock() + int(budget_seconds * 1e9)
        cells = []
        todo = [(name, stage) for name in names for stage in stages]
        for done, (name, stage) in enumerate(todo):
            share_ns = max(0, deadline - clock()) // (len(todo) - done)
            cells.append(_cell(name, stage, shapes[stage.index, "after_stage"][0], bench, share_ns))
            if on_cell is not None:
                on_cell(cells[-1])
    bare_ms = [cell.added.bare_ms for cell in cells if cell.added is not None] or [bench.best_ms()]
    return Costs(
        backbone=backbone,
        resolution=resolution,
        batch_size=batch_size,
        precision=precision,
        device=device_words(where),
        bare_ms=statistics.median(bare_ms),
        bare_best_ms=bench.best_ms(),
        cells=tuple(cells),
    )


def _check(
    blocks: Sequence[str] | None, resolution: int, batch_size: int, precision: str, budget_seconds: float
) -> list[str]:
    """Return the names of the blocks in order of cost class; raise ValueError on what cannot be meant."""
    for name, value in (("resolution", resolution), ("batch", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}")
    if not (budget_seconds > 0 and math.isfinite(budget_seconds)):
        raise ValueError(f"budget_seconds must be positive and finite, but got {budget_seconds}")
    if blocks is not None and not blocks:
        raise ValueError(f"blocks must name at least one block; known: {', '.join(attention.BLOCKS)}")
    specs = [attention.spec_of(name) for name in dict.fromkeys(attention.BLOCKS if blocks is None else blocks)]
    return [spec.name for spec in sorted(specs, key=lambda spec: COSTS.index(spec.cost))]


def _memory_format(device: torch.device) -> torch.memory_format:
    """Return the memory format that a search uses on a device."""
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Draw the same weights and images every time, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _cell(name: str, stage: Stage, shape: torch.Size, bench: _Bench, limit_ns: int) -> Cell:
    spec = attention.BLOCKS[name]
    _, channels, height, width = shape
    options: dict[str, OptionValue] = {}
    parameters, macs, added = None, None, None
    note = spec.possible(channels) or ""
    if not note:
        try:
            options = spec.canonical({}, channels)
            parameters, macs = spec.count(options, channels, height, width)
            added = bench.time(attention.build(name, channels), shape, limit_ns)
        except (RuntimeError, ValueError) as error:
            note = first_line(error)
    return Cell(
        block=name,
        stage=stage,
        height=height,
        width=width,
        options=options,
        parameters=parameters,
        macs=macs,
        added=added,
        note=note,
    )


class _Bench:
    """Times blocks after passes of one bare backbone."""

    def __init__(self, bare: nn.Module, images: torch.Tensor, *, precision: str, clock: Callable[[], int]) -> None:
        self._bare, self._images, self._precision, self._clock = bare, images, precision, clock
        self._lock = DeviceLock(lock_name(images.device))
        if images.device.type == "cuda":
            torch.cuda.set_device(images.device)
            torch.backends.cudnn.benchmark = True  # as in a search: the quickest kernels for these shapes
        # What the marks themselves take: between two events on a GPU a few microseconds.
        with self._conditions():
            pixel = torch.zeros(1, 1, 1, 1, device=images.device)
            times = [self._sample(nn.Identity(), pixel) for _ in range(3 + FEWEST_SAMPLES)]
        self._bare_ns = [bare for bare, _ in times[3:]]
        self._empty_ns = statistics.median(block for _, block in times[3:])

    def time(self, block: nn.Module, shape: torch.Size, limit_ns: int) -> Added:
        """Sample one block until it is known well enough or the time is up.

        Raises:
            RuntimeError: If it does not run, or not in the memory that there is.
        """
        device = self._images.device
        memory_format = _memory_format(device)
        host = nn.Identity().eval()  # the block stands in a hook, as nas.placement puts it
        host.add_module("attention", block.eval())
        host.register_forward_hook(lambda module, _, output: module.get_submodule("attention")(output))
        host.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if shape[2] * shape[3] > LARGE_MAP:
            _check_memory(block, shape, device)
        source = torch.randn(shape).relu().to(device, memory_format=memory_format)
        times: list[Times] = []
        with self._conditions():
            self._sample(host, source)
            start = self._clock()
            while len(times) < MOST_SAMPLES:
                times.append(self._sample(host, source))
                if len(times) < FEWEST_SAMPLES:
                    continue
                if self._clock() - start >= limit_ns or (len(times) % 10 == 0 and _is_sure(self._added(times))):
                    break
        self._bare_ns += [bare for bare, _ in times]
        return self._added(times)

    def best_ms(self) -> float:
        """Return the tenth percentile of all bare passes."""
        return sorted(self._bare_ns)[len(self._bare_ns) // 10] / 1e6

    @contextmanager
    def _conditions(self) -> Iterator[None]:
        """Hold the device alone, without gradients and garbage collection, in the wanted precision."""
        collecting = gc.isenabled()
        kind = self._images.device.type
        autocast = torch.autocast(kind, dtype=torch.bfloat16, enabled=self._precision == "bfloat16")
        with self._lock.timing(), torch.inference_mode(), autocast:
            gc.disable()
            try:
                yield
            finally:
                if collecting:
                    gc.enable()

    def _sample(self, block: nn.Module, source: torch.Tensor) -> Times:
        """Time one bare pass, and the block right after it on a fresh copy of the map, as a stage would write it."""
        begin = self._mark()
        self._bare(self._images)
        end = self._mark()
        fresh = source.clone()
        enter = self._mark()
        block(fresh)
        leave = self._mark()
        return self._between(begin, end), self._between(enter, leave)

    def _mark(self) -> Any:
        kind = self._images.device.type
        if kind == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._images.device))
            return event
        if kind == "mps":
            torch.mps.synchronize()
        return self._clock()

    def _between(self, first: Any, second: Any) -> int:
        if self._images.device.type != "cuda":
            return int(second - first)
        second.synchronize()
        return int(first.elapsed_time(second) * 1e6)

    def _added(self, times: Sequence[Times]) -> Added:
        ms = [(block - self._empty_ns) / 1e6 for _, block in times]
        percents = [100 * (block - self._empty_ns) / max(1, bare) for bare, block in times]
        ms_low, ms_high = median_interval(ms)
        percent_low, percent_high = median_interval(percents)
        return Added(
            ms=statistics.median(ms),
            ms_low=ms_low,
            ms_high=ms_high,
            percent=statistics.median(percents),
            percent_low=percent_low,
            percent_high=percent_high,
            bare_ms=statistics.median(bare for bare, _ in times) / 1e6,
            samples=len(times),
        )


def _is_sure(added: Added) -> bool:
    relative, absolute = SURE
    return (added.percent_high - added.percent_low) / 2 <= max(relative * added.percent, absolute)


def _check_memory(block: nn.Module, shape: torch.Size, device: torch.device) -> None:
    """Raise RuntimeError if a CPU's memory cannot hold what a block writes: the system would kill the process."""
    if device.type != "cpu" or not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return
    _, channels, height, width = shape
    # Traffic counts every tensor about four times: written once, and read, by chains of operations that free theirs.
    needed = shape[0] * complexity.count(block, (channels, height, width)).traffic_bytes / 4
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise RuntimeError(f"needs about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free")

"""Latency of a candidate against its bare backbone: interleaved, repeated until the ratio is known, with its interval.

A block adds a few per cent at most, less than a machine drifts within a second. Therefore both models are timed in
turns in one call. A pair is candidate, bare, bare, candidate, the next one the other way round, so that a steady drift
and whatever the order does cancel, and what is compared is the ratio within each pair. Nothing is hooked: the clock
stands outside the models.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import nn

from nas.evaluation import Latency
from nas.protocol import PRECISIONS

SAMPLE_NS = 1_000_000
"""Shortest sample, in nanoseconds: a quicker model is run several times per sample."""
MOST_REPEATS = 1000
"""Most forward passes in one sample."""
FEWEST_PAIRS = 6
"""Fewest pairs that allow a 95 % interval of the median without any assumption: 2 * 0.5^6 < 0.05 < 2 * 0.5^5."""
WARM_UP_SHARE = 0.25
"""Longest warm-up, as a share of ``max_seconds``; it comes on top."""
CALM_PASSES = 5
"""The warm-up ends when as many passes in a row brought no new best time of either model."""
JUDGE_GROWTH = 1.125
"""The interval is looked at again when there are so many times more pairs."""

Sampler = Callable[[nn.Module, int], int]
"""Runs a model so many times in a row and returns the duration of all passes together, in nanoseconds."""
Pair = tuple[tuple[int, int], tuple[int, int]]
"""Two durations of the candidate around two of the bare backbone, or between them, in nanoseconds.

Two single turns per pair, in swapped order from pair to pair, are as good on a quiet machine; with three times as many
busy programs as cores their median ratio had a standard deviation of 0.30 between calls, this one's 0.10 (n = 8).
"""


def measure(
    candidate: nn.Module,
    bare: nn.Module,
    *,
    batch: torch.Tensor,
    device_words: str,
    target: float = 0.01,
    min_pairs: int = 15,
    max_pairs: int = 1000,
    max_seconds: float = 2.0,
    precision: str = "float32",
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Time a candidate against its bare backbone.

    Both see the same batch in evaluation mode without gradients. Stops when the interval of the ratio is narrow
    enough, or at a cap. The caller decides memory format, thread count and device, and holds the device's lock.
    Tensors that a module caches in its forward pass become inference tensors: measure last, or measure a copy.

    Where other programs take the CPU the interval grows and says so. With one thread, ``clock=time.process_time_ns``
    then still gives a sharp ratio, of CPU time.

    Args:
        candidate: The backbone with its blocks.
        bare: The backbone without blocks, on the same device.
        batch: Input of one forward pass, (B, C, H, W), on that device.
        device_words: The device in words, as :func:`device_words` says them; they end up in the result.
        target: Half width of the ratio's 95 % interval at which to stop.
        min_pairs: Fewest pairs before the interval is trusted to stop.
        max_pairs: Most pairs.
        max_seconds: Longest sampling, in seconds; a slow model still gets ``FEWEST_PAIRS`` pairs.
        precision: ``float32``, or ``bfloat16`` for autocast.
        clock: Nanoseconds from any origin. CUDA samples are timed by events instead; the cap always follows the clock.

    Raises:
        ValueError: If an argument is out of range or the models and the batch are not on one device.
    """
    _check(target=target, min_pairs=min_pairs, max_pairs=max_pairs, max_seconds=max_seconds, precision=precision)
    _check_device(candidate, bare, batch)
    limit_ns = int(max_seconds * 1e9)
    with _conditions(candidate, bare, device_type=batch.device.type, precision=precision):
        sample = _sampler(batch, clock)
        repeats = _warm_up(sample, candidate, bare, limit_ns=int(limit_ns * WARM_UP_SHARE), clock=clock)
        pairs: list[Pair] = []
        judge_at = min_pairs
        start = clock()
        for pair in _pairs(sample, candidate, bare, repeats):
            pairs.append(pair)
            if len(pairs) >= max_pairs or (len(pairs) >= FEWEST_PAIRS and clock() - start >= limit_ns):
                break
            if len(pairs) >= judge_at:
                if _half_width(pairs) <= target:
                    break
                # Rarely: what is computed between two pairs empties caches for the model that comes next.
                judge_at = math.ceil(JUDGE_GROWTH * len(pairs))
    return _latency(pairs, repeats, batch_size=len(batch), device=device_words)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median by order statistics, which assumes nothing about the distribution.

    The interval reaches from the k-th smallest to the k-th largest sample with the largest k for which
    P(Binomial(n, 1/2) < k) <= 0.025. Source: H. A. David and H. N. Nagaraja, "Order Statistics" (2003), section 7.1.
    Fewer than six samples cannot give 95 %; their smallest and largest are returned.

    Raises:
        ValueError: If there are no samples.
    """
    if not samples:
        raise ValueError("samples must not be empty")
    ordered = sorted(samples)
    rank = max(1, _interval_rank(len(ordered)))
    return ordered[rank - 1], ordered[-rank]


@cache
def _interval_rank(n: int) -> int:
    """Return the largest k with P(Binomial(n, 1/2) < k) <= 0.025, in exact integers; 0 if there is none."""
    term, total, rank = 1, 1, 0  # C(n, 0) and P(X < 1) * 2^n
    while 40 * total <= 2**n:
        rank += 1
        term = term * (n - rank + 1) // rank
        total += term
    return rank


def device_words(device: torch.device) -> str:
    """Return words that tell the device from others that would be slower or quicker: they are part of the protocol."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return f"{device.type}: {_processor()}"
    threads = torch.get_num_threads()
    # Threads that sleep while they wait made batch-1 latency of a small network four times longer, and ratios smaller.
    asleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" and threads > 1
    return f"cpu: {_processor()}, {threads} thread{'' if threads == 1 else 's'}{' (OMP passive)' if asleep else ''}"


def lock_name(device: torch.device) -> str:
    """Return what tells the physical device from others in this machine, for :class:`nas.locks.DeviceLock`.

    Unlike :func:`device_words` it is the same for any number of threads and differs between two equal GPUs.
    """
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_properties(device).uuid}"
    return device.type


def _processor() -> str:
    """Return the processor's model as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def _check(*, target: float, min_pairs: int, max_pairs: int, max_seconds: float, precision: str) -> None:
    """Refuse numbers that cannot be meant."""
    if not target > 0:
        raise ValueError(f"target must be positive, but got {target}")
    if not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, but got {max_seconds}")
    if min_pairs < FEWEST_PAIRS:
        raise ValueError(f"min_pairs must be at least {FEWEST_PAIRS}, but got {min_pairs}")
    if max_pairs < min_pairs:
        raise ValueError(f"max_pairs must be at least min_pairs = {min_pairs}, but got {max_pairs}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}")


def _check_device(candidate: nn.Module, bare: nn.Module, batch: torch.Tensor) -> None:
    """Refuse an empty batch, and models that do not live where the batch does."""
    if batch.ndim < 1 or len(batch) < 1:
        raise ValueError(f"batch must hold at least one image, but got shape {tuple(batch.shape)}")
    for name, model in (("candidate", candidate), ("bare", bare)):
        for parameter in model.parameters():
            if parameter.device != batch.device:
                raise ValueError(f"{name} and batch must be on one device, but got {parameter.device}, {batch.device}")


@contextmanager
def _conditions(candidate: nn.Module, bare: nn.Module, *, device_type: str, precision: str) -> Iterator[None]:
    """Evaluation mode, no gradients, the wanted precision, no garbage collection; everything as before afterwards."""
    training = [(module, module.training) for model in (candidate, bare) for module in model.modules()]
    collecting = gc.isenabled()
    candidate.eval()
    bare.eval()
    gc.collect()
    gc.disable()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            yield
    finally:
        if collecting:
            gc.enable()
        for module, flag in training:
            module.training = flag


def _sampler(batch: torch.Tensor, clock: Callable[[], int]) -> Sampler:
    """Return the device's way to time passes over this batch: from an idle device until the last result is ready."""

    def run(model: nn.Module, repeats: int) -> None:
        for _ in range(repeats):
            model(batch)

    def by_clock(model: nn.Module, repeats: int) -> int:
        start = clock()
        run(model, repeats)
        if batch.device.type == "mps":
            torch.mps.synchronize()
        return clock() - start

    def by_events(model: nn.Module, repeats: int) -> int:
        # One synchronisation per sample, not per pair: the device must be idle when a sample begins. Otherwise the
        # second model's launches hide behind the first one's work, and it looks quicker than it is.
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(batch.device)  # not the current device's, which may be another GPU
        start.record(stream)
        run(model, repeats)
        end.record(stream)
        end.synchronize()
        return int(start.elapsed_time(end) * 1e6)

    return by_events if batch.device.type == "cuda" else by_clock


def _warm_up(sample: Sampler, candidate: nn.Module, bare: nn.Module, *, limit_ns: int, clock: Callable[[], int]) -> int:
    """Run both models until they get no quicker, and return the passes per sample that the quicker one needs."""
    best = {candidate: math.inf, bare: math.inf}
    calm = 0
    start = clock()
    while calm < CALM_PASSES:
        calm += 1
        for model in (candidate, bare):
            spent = sample(model, 1)
            if spent < best[model]:
                calm, best[model] = 0, spent
        if clock() - start >= limit_ns:
            break
    return min(MOST_REPEATS, math.ceil(SAMPLE_NS / max(1.0, min(best.values()))))


def _pairs(sample: Sampler, candidate: nn.Module, bare: nn.Module, repeats: int) -> Iterator[Pair]:
    """Yield pairs for ever, begun by either model in turns: whatever happens between pairs must not favour one."""
    while True:
        first = sample(candidate, repeats)
        base = (sample(bare, repeats), sample(bare, repeats))
        yield (first, sample(candidate, repeats)), base
        first = sample(bare, repeats)
        mine = (sample(candidate, repeats), sample(candidate, repeats))
        yield mine, (first, sample(bare, repeats))


def _ratio(pair: Pair) -> float:
    """Return candidate time / bare time within one pair."""
    mine, base = pair
    return sum(mine) / sum(base)


def _half_width(pairs: Sequence[Pair]) -> float:
    """Return half the width of the interval of the ratio."""
    low, high = median_interval([_ratio(pair) for pair in pairs])
    return (high - low) / 2


def _latency(pairs: Sequence[Pair], repeats: int, *, batch_size: int, device: str) -> Latency:
    """Condense the pairs' durations into medians and their intervals."""
    mine_ms = [duration / repeats / 1e6 for mine, _ in pairs for duration in mine]
    base_ms = [duration / repeats / 1e6 for _, base in pairs for duration in base]
    ratios = [_ratio(pair) for pair in pairs]
    low_ms, high_ms = median_interval(mine_ms)
    ratio_low, ratio_high = median_interval(ratios)
    return Latency(
        median_ms=statistics.median(mine_ms),
        low_ms=low_ms,
        high_ms=high_ms,
        bare_ms=statistics.median(base_ms),
        ratio=statistics.median(ratios),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        n=len(pairs),
        batch_size=batch_size,
        device=device,
    )

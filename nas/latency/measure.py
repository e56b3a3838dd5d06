"""Latency of a candidate against its bare backbone: interleaved, in rounds with fresh copies, with its interval.

A block adds a few per cent at most, less than a machine drifts within a second. Therefore both models are timed in
turns in one call. A pair is candidate, bare, bare, candidate, the next one the other way round, so that a steady drift
and whatever the order does cancel, and what is compared is the ratio within each pair, of the quicker pass of either.
Nothing is hooked: the clock stands outside the models.

Two copies of one network differ by up to a percent, depending on where their tensors lie in memory, for as long as they
live. Pairs of one copy agree with each other on a ratio that the next call does not find again. So the pairs come in
rounds, each with new copies, and the interval is that between rounds.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from nas.evaluation import Latency
from nas.latency.device import state
from nas.latency.graph import replay_of
from nas.latency.interval import median_interval, trimmed_mean_interval
from nas.latency.runtime import Run, Runtime
from nas.protocol import PRECISIONS

SAMPLE_NS = 1_000_000
"""Shortest sample, in nanoseconds: a quicker model is run several times per sample."""
MOST_REPEATS = 1000
"""Most forward passes in one sample."""
FEWEST_ROUNDS = 8
"""Fewest rounds: with fewer, the spread between them is a guess."""
MOST_ROUNDS = 24
"""Most rounds in ``max_seconds``; each takes an equal share of them, and at least one pair."""
OVERTIME = 2.0
"""A result that would be unstable gets so many times the time, and the rounds that fill it."""
WARM_UP_SHARE = 0.25
"""Longest warm-up of the first round, as a share of ``max_seconds``; it comes on top."""
CALM_PASSES = 5
"""The warm-up ends when as many passes in a row brought no new best time of either model."""
KEPT_BYTES = 2**28
"""Copies of earlier rounds stay alive up to this size together, so that new ones cannot take their place in memory."""
GRAPH_PAIRS = 20
"""Pairs of CUDA graphs, whose kernels follow one another without waiting for Python and scatter little."""
UNSTABLE = 4.0
"""A result is unstable if half its interval is so many times wider than was asked for."""

Sampler = Callable[[Run, int], int]
"""Runs a model so many times in a row and returns the duration of all passes together, in nanoseconds."""
Pair = tuple[tuple[int, int], tuple[int, int]]
"""Two durations of the candidate around two of the bare backbone, or between them, in nanoseconds.

The smaller of either two counts: whatever disturbs a pass makes it slower.
"""


def measure(
    candidate: nn.Module,
    bare: nn.Module,
    *,
    batch: torch.Tensor,
    device_words: str,
    runtime: str | Runtime = "eager",
    precision: str = "float32",
    target: float = 0.005,
    max_seconds: float = 2.0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Time a candidate against its bare backbone.

    Both see the same batch in evaluation mode without gradients. Stops when the interval of the ratio is narrow
    enough, or at the cap. The caller decides memory format, thread count and device, and holds the device's lock.
    The models themselves are not run, only copies of them.

    Where other programs take the CPU the interval grows and the result says that it is unstable. With one thread,
    ``clock=time.process_time_ns`` then still gives a sharp ratio, of CPU time.

    Args:
        candidate: The backbone with its blocks.
        bare: The backbone without blocks, on the same device.
        batch: Input of one forward pass, (B, C, H, W), on that device.
        device_words: The device in words, as :func:`device_words` says them; they end up in the result.
        runtime: One of :data:`nas.protocol.RUNTIMES`, or one made for this batch and precision, to be used again.
        precision: ``float32``, or ``bfloat16`` for copies that are cast to it, as a model is for its use. Under
            autocast each pass would cast each weight again, and every block would add such casts.
        target: Half width of the ratio's 95 % interval at which to stop.
        max_seconds: Longest sampling, in seconds; a slow model still gets ``FEWEST_ROUNDS`` pairs, and what would be
            unstable gets ``OVERTIME`` times as long.
        clock: Nanoseconds from any origin. CUDA samples are timed by events instead; the cap always follows the clock.

    Raises:
        ValueError: If an argument is out of range, the models and the batch are not on one device, or the runtime
            is not there.
        RuntimeError: If the runtime cannot run a model.
    """
    _check(target=target, max_seconds=max_seconds, precision=precision)
    _check_device(candidate, bare, batch)
    limit_ns = int(max_seconds * 1e9)
    maker = runtime if isinstance(runtime, Runtime) else Runtime(runtime, batch, precision)
    rounds: list[list[Pair]] = []
    with _conditions(candidate, bare):
        maker.prepare(candidate, bare)
        bench = _Bench(maker, candidate, bare, _sampler(batch.device, clock))
        repeats = bench.warm_up(limit_ns=int(limit_ns * WARM_UP_SHARE), clock=clock)
        start = clock()
        while True:
            deadline = clock() + limit_ns // MOST_ROUNDS
            rounds.append(list(_until(deadline, bench.pairs(repeats), clock)))
            if _enough(rounds, target, spent=max((clock() - start) / limit_ns, len(rounds) / MOST_ROUNDS)):
                break
            bench.renew()
        graphs = bench.replays(batch.device) if batch.device.type == "cuda" and maker.name == "eager" else []
    return _latency(
        rounds,
        repeats,
        graphs,
        target=target,
        batch=batch,
        device=device_words,
        conditions={"runtime": maker.name, "precision": precision, **state(batch.device)},
    )


def _enough(rounds: Sequence[Sequence[Pair]], target: float, spent: float) -> bool:
    """Tell whether sampling may end, given how much of the time, or of the rounds that fill it, is spent."""
    if len(rounds) < FEWEST_ROUNDS:
        return False
    half = _half_width(rounds)
    return half <= target or (spent >= 1 and half <= UNSTABLE * target) or spent >= OVERTIME


class _Bench:
    """A pair of copies, to be renewed for each round."""

    def __init__(self, runtime: Runtime, candidate: nn.Module, bare: nn.Module, sample: Sampler) -> None:
        self._runtime, self._models, self._sample = runtime, (candidate, bare), sample
        size = sum(t.numel() * t.element_size() for model in self._models for t in model.state_dict().values())
        self._keep = max(1, KEPT_BYTES // max(1, size))
        self._kept: list[tuple[Run, Run]] = []
        self._number = 0
        self.renew(passes=0)

    def renew(self, passes: int = 1) -> None:
        """Make new copies, first of one model and then of the other, in turns; run each so many times unclocked."""
        candidate, bare = self._models
        if self._number % 2:  # of two equal copies the one that is made first was 0.3 % slower on a small ViT
            base = self._runtime.fresh(bare)
            mine = self._runtime.fresh(candidate)
        else:
            mine = self._runtime.fresh(candidate)
            base = self._runtime.fresh(bare)
        self._number += 1
        self._kept = [*self._kept[1 - self._keep :], (mine, base)] if self._keep > 1 else [(mine, base)]
        self._mine, self._base = mine, base
        for _ in range(passes):
            self._sample(mine, 1)
            self._sample(base, 1)

    def warm_up(self, *, limit_ns: int, clock: Callable[[], int]) -> int:
        """Run both models until they get no quicker; return the passes per sample that the quicker one needs."""
        best = {self._mine: math.inf, self._base: math.inf}
        calm = 0
        start = clock()
        while calm < CALM_PASSES:
            calm += 1
            for run in best:
                spent = self._sample(run, 1)
                if spent < best[run]:
                    calm, best[run] = 0, spent
            if clock() - start >= limit_ns:
                break
        return min(MOST_REPEATS, math.ceil(SAMPLE_NS / max(1.0, min(best.values()))))

    def pairs(self, repeats: int) -> Iterator[Pair]:
        """Yield pairs for ever, begun by either model in turns: whatever happens between pairs must not favour one."""
        yield from _in_turns(self._sample, self._mine, self._base, repeats, self._number)

    def replays(self, device: torch.device) -> list[Pair]:
        """Return pairs of both models' CUDA graphs; none where one of them cannot be captured."""
        mine, base = replay_of(self._mine, device), replay_of(self._base, device)
        if mine is None or base is None:
            return []
        return list(itertools.islice(_in_turns(self._sample, mine, base, 1, 0), GRAPH_PAIRS))


def _in_turns(sample: Sampler, candidate: Run, bare: Run, repeats: int, start: int) -> Iterator[Pair]:
    for number in itertools.count(start):
        if number % 2:
            first = sample(candidate, repeats)
            base = (sample(bare, repeats), sample(bare, repeats))
            yield (first, sample(candidate, repeats)), base
        else:
            first = sample(bare, repeats)
            mine = (sample(candidate, repeats), sample(candidate, repeats))
            yield mine, (first, sample(bare, repeats))


def _until(deadline: int, pairs: Iterator[Pair], clock: Callable[[], int]) -> Iterator[Pair]:
    """Yield pairs, at least one, until the deadline."""
    for pair in pairs:
        yield pair
        if clock() >= deadline:
            return


def _check(*, target: float, max_seconds: float, precision: str) -> None:
    """Refuse numbers that cannot be meant."""
    if not target > 0:
        raise ValueError(f"target must be positive, but got {target}")
    if not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, but got {max_seconds}")
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
def _conditions(candidate: nn.Module, bare: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no garbage collection; everything as before afterwards."""
    training = [(module, module.training) for model in (candidate, bare) for module in model.modules()]
    collecting = gc.isenabled()
    candidate.eval()
    bare.eval()
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        if collecting:
            gc.enable()
        for module, flag in training:
            module.training = flag


def _sampler(device: torch.device, clock: Callable[[], int]) -> Sampler:
    """Return the device's way to time passes: from an idle device until the last result is ready."""

    def by_clock(run: Run, repeats: int) -> int:
        start = clock()
        for _ in range(repeats):
            run()
        if device.type == "mps":
            torch.mps.synchronize()
        return clock() - start

    if device.type != "cuda":
        return by_clock
    # What one pass leaves in the cache would serve the next one, which in use comes after other work.
    size = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(2 * size, dtype=torch.uint8, device=device)
    stream = torch.cuda.current_stream(device)  # not the current device's, which may be another GPU

    def by_events(run: Run, repeats: int) -> int:
        total = 0.0
        for _ in range(repeats):
            flush.zero_()
            # The device must be idle when a pass begins. Otherwise the launches hide behind the work before it, and
            # the pass looks quicker than it is.
            stream.synchronize()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record(stream)
            run()
            end.record(stream)
            end.synchronize()
            total += begin.elapsed_time(end)
        return int(total * 1e6)

    return by_events


def _ratio_of(pairs: Sequence[Pair]) -> float:
    """Return the median over pairs of the quicker pass of the candidate over that of the bare backbone."""
    return statistics.median(min(mine) / min(base) for mine, base in pairs)


def _ratio(rounds: Sequence[Sequence[Pair]]) -> tuple[float, float, float]:
    """Return candidate time / bare time and the ends of its interval, from the median over the pairs of each round."""
    ratios = [_ratio_of(pairs) for pairs in rounds]
    # Of the logarithms: twice as slow is as far from 1 as twice as quick, and no end can be negative.
    centre, low, high = trimmed_mean_interval([math.log(ratio) for ratio in ratios])
    return math.exp(centre), math.exp(low), math.exp(high)


def _half_width(rounds: Sequence[Sequence[Pair]]) -> float:
    """Return half the width of the interval of the ratio."""
    _, low, high = _ratio(rounds)
    return (high - low) / 2


def _latency(
    rounds: Sequence[Sequence[Pair]],
    repeats: int,
    graphs: Sequence[Pair],
    *,
    target: float,
    batch: torch.Tensor,
    device: str,
    conditions: dict[str, str],
) -> Latency:
    """Condense the pairs' durations into medians and their intervals."""
    pairs = [pair for each in rounds for pair in each]
    mine_ms = [duration / repeats / 1e6 for mine, _ in pairs for duration in mine]
    base_ms = [duration / repeats / 1e6 for _, base in pairs for duration in base]
    low_ms, high_ms = median_interval(mine_ms)
    ratio, ratio_low, ratio_high = _ratio(rounds)
    replays = [duration / 1e6 for mine, _ in graphs for duration in mine]
    return Latency(
        median_ms=statistics.median(mine_ms),
        low_ms=low_ms,
        high_ms=high_ms,
        bare_ms=statistics.median(base_ms),
        ratio=ratio,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        n=len(pairs),
        rounds=len(rounds),
        unstable=(ratio_high - ratio_low) / 2 > UNSTABLE * target,
        batch_size=len(batch),
        resolution=batch.shape[-1],
        device=device,
        graph_ms=statistics.median(replays) if graphs else None,
        graph_ratio=_ratio_of(graphs) if graphs else None,
        conditions=conditions,
    )

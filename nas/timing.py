"""What an architecture costs where it will run: timed alone on its device against the bare backbone, and counted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from nas import placement, proxy
from nas.architecture import Architecture
from nas.complexity import count, nominal_ms
from nas.evaluation import Cost, Counted, EvaluationError, Latency, first_line
from nas.latency import Runtime, lock_name, measure
from nas.locks import DeviceLock
from nas.protocol import Protocol
from nas.store import Store
from nas.trainer import Builder, batch_of, build

C = TypeVar("C", bound=Cost)
REFERENCE_RETRIES = 2
"""How often the bare backbone is timed again where the machine is too busy."""
TARGET = 0.005
"""Half width of the interval of the latency ratio at which sampling stops."""


class Timer:
    """Measures what architectures cost under one protocol. Nothing is trained for it, and nothing is kept."""

    def __init__(
        self,
        builder: Builder,
        device: torch.device | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Say what is timed, and where.

        Args:
            builder: Has the protocol, and knows the backbones.
            device: The device that ``protocol.latency_device`` names; None for the builder's.
            clock: As :func:`nas.latency.measure` takes it. A clock of CPU time does not wait until others leave the
                device alone.
        """
        protocol = builder.protocol
        self._builder = builder
        self._device = device or builder.device
        if self._device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # as the trainer does for its device: the quickest kernels are found
        # Whoever trains drives the device from a core of the CPU: neither of the two may be in use.
        names = sorted({lock_name(self._device), lock_name(builder.device)}) if clock is time.perf_counter_ns else []
        self._locks = [DeviceLock(name) for name in names]
        self._clock = clock
        self._benches: dict[str, _Bench] = {}
        self._protocol = dataclasses.replace(
            protocol,
            resolution=protocol.latency_resolution or protocol.resolution,
            device=protocol.latency_device or protocol.device,
            precision=protocol.latency_precision or protocol.precision,
            channels_last=protocol.channels_last and self._device.type in ("cpu", "cuda"),
        )

    def check(self, backbone: str) -> None:
        """Run the bare backbone once as it will be timed.

        Raises:
            ValueError: If it cannot run on images of that size, or the runtime is not there.
            EvaluationError: If the runtime cannot run it.
        """
        bench = self._bench(backbone)
        try:
            with torch.inference_mode():
                bench.runtime.prepare(bench.bare)
                bench.runtime.fresh(bench.bare)()
        except RuntimeError as error:
            reason = f"{backbone} cannot be timed: {first_line(error)}"
            if bench.protocol.precision != "float32":
                reason += f" ({bench.protocol.precision}; --latency-precision float32 may do)"
            raise EvaluationError(reason) from error

    def __call__(self, architecture: Architecture, check: Callable[[Counted], None] | None = None) -> Cost:
        """Return what an architecture costs.

        Args:
            architecture: What to build, to count and to time.
            check: Called with what was counted, before anything is timed. What it raises is raised.

        Raises:
            EvaluationError: If the runtime cannot run it.
            RuntimeError: If the memory does not suffice.
        """
        bench = self._bench(architecture.backbone)
        protocol, size = bench.protocol, self._protocol.latency_batch_size
        with self._turn():
            model = build(architecture, protocol, self._device, plan=bench.plan)
            complexity = count(model, (protocol.channels, protocol.resolution, protocol.resolution))
        counted = Counted(
            parameters=complexity.parameters,
            macs=complexity.macs,
            memory_bytes=complexity.weight_bytes + size * complexity.activation_bytes,
            nominal_ms=nominal_ms(complexity, self._device.type, size),
        )
        if check is not None:
            check(counted)
        try:
            latency = self._time(model, bench)
        except RuntimeError as error:
            if proxy.is_out_of_memory(error):
                raise
            raise EvaluationError(f"it cannot be timed: {first_line(error)}") from error
        return Cost(
            latency=latency if architecture.placements else _of_itself(latency),
            reference_ms=latency.bare_ms,
            **dataclasses.asdict(counted),
        )

    def _time(self, model: nn.Module, bench: _Bench) -> Latency:
        protocol = bench.protocol
        if bench.runtime.may_prepare_beside_others:  # it may take minutes, in which they shall not wait
            with self._turn(), torch.inference_mode():
                bench.runtime.prepare(model.eval(), bench.bare)
        with ExitStack() as alone:
            for lock in self._locks:
                alone.enter_context(lock.timing())
            return measure(
                model,
                bench.bare,
                batch=bench.batch,
                device_words=protocol.device,
                runtime=bench.runtime,
                precision=protocol.precision,
                target=TARGET,
                max_seconds=protocol.latency_seconds,
                clock=self._clock,
            )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Use the device beside those that train, while nobody times."""
        with ExitStack() as busy:
            for lock in self._locks:
                busy.enter_context(lock.training())
            yield

    def _bench(self, backbone: str) -> _Bench:
        """Return what every timing of a backbone's architectures needs; made once."""
        if backbone not in self._benches:
            protocol, plan = self._protocol, self._builder.plan
            bare = Architecture(backbone=backbone)
            if protocol.resolution != self._builder.protocol.resolution:
                fitted = placement.fit_kwargs(
                    backbone,
                    num_classes=protocol.num_classes,
                    in_channels=protocol.channels,
                    resolution=protocol.resolution,
                    model_kwargs={key: value for key, value in protocol.model_kwargs.items() if key != "img_size"},
                )
                protocol = dataclasses.replace(protocol, model_kwargs=fitted)
            model = build(bare, protocol, self._device).eval()
            same = protocol.model_kwargs == self._builder.protocol.model_kwargs
            batch = self._batch(protocol)
            self._benches[backbone] = _Bench(
                protocol=protocol,
                plan=plan(backbone) if same else placement.plan_of(model),
                bare=model,
                batch=batch,
                runtime=Runtime(protocol.latency_runtime, batch, protocol.precision),
            )
        return self._benches[backbone]

    def _batch(self, protocol: Protocol) -> torch.Tensor:
        try:
            return batch_of(protocol, self._device, protocol.latency_batch_size)
        except RuntimeError as error:
            if not proxy.is_out_of_memory(error):
                raise
            raise ValueError(
                f"{protocol.latency_batch_size} images to be timed at once do not fit in memory; lower --latency-batch"
            ) from error


class CachedTimer:
    """A timer whose results are kept, all as multiples of one latency of the bare backbone."""

    def __init__(self, timer: Timer, store: Store, latency_hash: str) -> None:
        """Say where they are kept.

        Args:
            timer: Measures what an architecture costs.
            store: The cache.
            latency_hash: That of the timer's protocol.
        """
        self._timer, self._store, self._hash = timer, store, latency_hash

    def __call__(self, architecture: Architecture, check: Callable[[Counted], None] | None = None) -> Cost:
        """Return what an architecture costs; measure it if that was never done, or not with a stable result.

        Args:
            architecture: What may have to be measured.
            check: As :meth:`Timer.__call__` takes it; not called where nothing has to be timed.

        Raises:
            EvaluationError: If the runtime cannot run it.
            RuntimeError: If the memory does not suffice.
        """
        known = self._store.cost(architecture, self._hash)
        if known is not None and not known.latency.unstable:
            return self.referred(architecture, known)
        found = self._timer(architecture, check)
        if not architecture.placements:  # all latencies of the study, and of later ones, are multiples of this one
            for _ in range(REFERENCE_RETRIES):
                found = self._timer(architecture) if found.latency.unstable else found
        self._store.put_cost(architecture, self._hash, found)
        return self.referred(architecture, found)

    def referred(self, architecture: Architecture, cost: C) -> C:
        """Return a cost whose latency is a multiple of what the bare backbone is now known to take."""
        reference_ms = self._store.reference_ms(architecture.backbone, self._hash, cost.reference_ms)
        return dataclasses.replace(cost, reference_ms=reference_ms)


@dataclass(frozen=True, kw_only=True)
class _Bench:
    protocol: Protocol
    """As it is timed: with the resolution, the device and the model arguments of the timing."""
    plan: placement.Plan
    bare: nn.Module
    batch: torch.Tensor
    runtime: Runtime


def _of_itself(latency: Latency) -> Latency:
    """Return the latency of the bare backbone: its ratio to itself is 1, whatever the clock said.

    What the clock said stays in the interval, where it tells how far other ratios may be wrong. Left as the ratio, it
    would move the one point that all others are compared with.
    """
    return dataclasses.replace(
        latency, ratio=1.0, ratio_low=min(1.0, latency.ratio_low), ratio_high=max(1.0, latency.ratio_high)
    )

"""From an architecture to its evaluation: build, count, time alone, train the proxy, keep."""

from __future__ import annotations

import copy
import dataclasses
import platform

import timm
import torch
from torch import nn

from nas import proxy
from nas.architecture import Architecture
from nas.complexity import count, nominal_ms
from nas.evaluation import Evaluation, EvaluationError, Latency, wilson_interval
from nas.latency import lock_name, measure
from nas.locks import DeviceLock
from nas.store import Store
from nas.trainer import Trainer

LATENCY_TARGET = 0.005
"""Half width of the interval of the latency ratio at which sampling stops."""


class Evaluator:
    """Evaluates architectures under one protocol, through the cache."""

    def __init__(self, trainer: Trainer, store: Store) -> None:
        """Name the lock of the trainer's device.

        Args:
            trainer: Builds and trains under the protocol that the evaluations are bound to.
            store: The cache.
        """
        self._trainer = trainer
        self._protocol = trainer.protocol
        self._store = store
        self._device = trainer.device
        self._lock = DeviceLock(lock_name(trainer.device))

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Return what was measured on an architecture; measure it if that was never done under the protocol.

        Raises:
            EvaluationError: If it cannot be evaluated: no memory left, a loss that is not finite, an impossible shape.
        """
        evaluation = self._store.get(architecture, self._protocol.hash)
        if evaluation is not None:
            return evaluation
        try:
            evaluation = self._measure(architecture)
        except RuntimeError as error:
            if not proxy.is_out_of_memory(error):
                raise
        if evaluation is None:
            # Outside the handler: the caught error kept the frames alive that held the tensors.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            raise EvaluationError(f"out of memory on {self._protocol.device}")
        self._store.put(architecture, self._protocol.hash, evaluation)
        return evaluation

    def _measure(self, architecture: Architecture) -> Evaluation:
        protocol = self._protocol
        model = self._trainer.build(architecture)
        complexity = count(model, (protocol.channels, protocol.resolution, protocol.resolution))
        latency = self._time(model, architecture)
        reference_ms = self._store.reference_ms(architecture.backbone, protocol.hash, latency.bare_ms)
        curve = self._trainer.train(model, turn=self._lock.training)
        accuracy = curve.accuracies[-1]
        low, high = wilson_interval(accuracy, len(self._trainer.data.val))
        return Evaluation(
            accuracy=accuracy,
            accuracy_low=low,
            accuracy_high=high,
            curve=curve.accuracies,
            latency=latency,
            reference_ms=reference_ms,
            parameters=complexity.parameters,
            macs=complexity.macs,
            nominal_ms=nominal_ms(complexity, self._device.type, protocol.latency_batch_size),
            train_seconds=curve.seconds,
            versions=versions(),
        )

    def _time(self, model: nn.Module, architecture: Architecture) -> Latency:
        protocol = self._protocol
        # A copy, because a module may keep tensors of its forward pass, and those of inference cannot be trained.
        candidate = copy.deepcopy(model)
        bare = self._trainer.build(Architecture(backbone=architecture.backbone))
        batch = self._trainer.batch(protocol.latency_batch_size)
        with self._lock.timing():
            latency = measure(
                candidate,
                bare,
                batch=batch,
                device_words=protocol.device,
                target=LATENCY_TARGET,
                max_seconds=protocol.latency_seconds,
                precision=protocol.precision,
            )
        return latency if architecture.placements else _of_itself(latency)


def _of_itself(latency: Latency) -> Latency:
    """Return the latency of the bare backbone: its ratio to itself is 1, whatever the clock said.

    What the clock said stays in the interval, where it tells how far other ratios may be wrong. Left as the ratio, it
    would move the one point that all others are compared with.
    """
    return dataclasses.replace(
        latency, ratio=1.0, ratio_low=min(1.0, latency.ratio_low), ratio_high=max(1.0, latency.ratio_high)
    )


def software() -> str:
    """Return the versions of the libraries that compute: another version may give other figures."""
    return f"torch {torch.__version__}, timm {timm.__version__}"


def versions() -> dict[str, str]:
    """Return the versions that a figure may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}

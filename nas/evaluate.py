"""From an architecture to its evaluation: what it costs, then its proxy training; kept in the cache."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import timm
import torch

from nas.architecture import Architecture
from nas.evaluation import Cost, Counted, Evaluation, wilson_interval
from nas.latency import lock_name
from nas.limits import BeyondLimitsError, Limits
from nas.locks import DeviceLock
from nas.pauses import Pause, Pauses
from nas.store import Store
from nas.timing import CachedTimer, Timer
from nas.trainer import Trainer, within_memory

StopRule = Callable[[Architecture, Cost, int], Callable[[int, float], None] | None]
"""From an architecture, its cost and the number of validation images to what is called after each epoch, with the epoch
and the validation accuracy: it raises :class:`nas.rungs.StoppedError` to stop the training. None for nothing to call.
"""


class Evaluator:
    """Evaluates architectures under one protocol, through the cache."""

    def __init__(
        self,
        trainer: Trainer,
        store: Store,
        timer: Timer | None = None,
        limits: Limits | None = None,
        stop_rule: StopRule | None = None,
        pauses: Pauses | None = None,
        *,
        keeps_stopped: bool = True,
    ) -> None:
        """Name the lock of the trainer's device.

        Args:
            trainer: Builds and trains under the protocol that the evaluations are bound to.
            store: The cache.
            timer: Measures what an architecture costs; by default on the trainer's device.
            limits: What an architecture may cost at most. The bare backbone may cost anything: all others are compared
                with it. Where counting is enough to tell, what costs more is not even timed.
            stop_rule: Stops trainings that are not worth going on with; by default none is stopped.
            pauses: Where trainings are kept that are cut off, to go on from there; by default they would begin anew.
            keeps_stopped: Whether what the stop rule stops may be taken up again, rather than being stopped for good.
        """
        self._pauses = pauses
        self._keeps_stopped = keeps_stopped
        self._stop_rule = stop_rule
        self._trainer = trainer
        self._costs = CachedTimer(timer or Timer(trainer), store, trainer.protocol.latency_hash)
        self._limits = limits or Limits()
        self._protocol = trainer.protocol
        self._store = store
        self._device = trainer.device
        self._lock = DeviceLock(lock_name(trainer.device))

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Return what was measured on an architecture; measure it if that was never done under the protocol.

        Raises:
            BeyondLimitsError: If it costs more than is allowed. It was not trained then.
            StoppedError: If the stop rule stopped its training. Nothing but its cost is kept.
            EvaluationError: If it cannot be evaluated: no memory left, a loss that is not finite, an impossible shape.
        """
        evaluation = self._store.get(architecture, self._protocol.hash)
        if evaluation is not None:
            evaluation = self._costs.referred(architecture, evaluation)
            self._check(architecture, evaluation)
            return evaluation
        with self._place(architecture) as pause:  # forgotten once the evaluation is kept, and not before
            evaluation = within_memory(lambda: self._measure(architecture, pause), self._trainer)
            self._store.put(architecture, self._protocol.hash, evaluation)
        return evaluation

    def _place(self, architecture: Architecture) -> AbstractContextManager[Pause | None]:
        """Return the place in which the training of an architecture is kept."""
        if self._pauses is None:
            return nullcontext()
        return self._pauses.of(f"{architecture.id}-{self._protocol.hash}", keeps_stopped=self._keeps_stopped)

    def time_reference(self, backbone: str) -> None:
        """Time a bare backbone, unless that was done: to be called before other processes begin to use the machine."""
        within_memory(lambda: self._costs(Architecture(backbone=backbone)), self._trainer)

    def _measure(self, architecture: Architecture, pause: Pause | None) -> Evaluation:
        # Only where counting tells it all: Optuna's models want every limit's excess of every trial, or none.
        cost = self._costs(architecture, None if self._limits.need_clock else partial(self._check, architecture))
        self._check(architecture, cost)
        with self._lock.training():  # no timing meanwhile
            model = self._trainer.build(architecture)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        on_epoch = self._stop_rule(architecture, cost, len(self._trainer.data.val)) if self._stop_rule else None
        curve = self._trainer.train(model, on_epoch=on_epoch, turn=self._lock.training, pause=pause)
        accuracy = curve.accuracies[-1]
        low, high = wilson_interval(accuracy, len(self._trainer.data.val))
        return Evaluation(
            latency=cost.latency,
            reference_ms=cost.reference_ms,
            parameters=parameters,
            macs=cost.macs,
            memory_bytes=cost.memory_bytes,
            nominal_ms=cost.nominal_ms,
            accuracy=accuracy,
            accuracy_low=low,
            accuracy_high=high,
            curve=curve.accuracies,
            train_seconds=curve.seconds,
            train_memory_bytes=torch.cuda.max_memory_allocated(self._device) if on_gpu else None,
            versions=versions(),
        )

    def _check(self, architecture: Architecture, cost: Counted) -> None:
        """Raise BeyondLimitsError if an architecture with blocks costs more than is allowed."""
        if architecture.placements and any(excess > 0 for excess in self._limits.excess(cost).values()):
            raise BeyondLimitsError(self._limits, cost)


def software() -> str:
    """Return the versions of the libraries that compute: another version may give other figures."""
    return f"torch {torch.__version__}, timm {timm.__version__}"


def versions() -> dict[str, str]:
    """Return the versions that a figure may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}

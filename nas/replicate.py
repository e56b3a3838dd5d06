"""Train an architecture once more, with another seed and perhaps for longer, unless that was done before."""

from __future__ import annotations

from contextlib import nullcontext

from nas import proxy
from nas.architecture import Architecture
from nas.data import Split
from nas.evaluate import versions
from nas.latency import lock_name
from nas.locks import DeviceLock
from nas.pauses import Pause, Pauses
from nas.seeds import FURTHER, Replicate
from nas.store import Store
from nas.trainer import Trainer, within_memory


class Replicator:
    """Trains architectures under one protocol with other seeds, through the store."""

    def __init__(self, trainer: Trainer, store: Store, test: Split | None = None, pauses: Pauses | None = None) -> None:
        """Name the lock of the trainer's device.

        Args:
            trainer: Builds and trains under the protocol of the study.
            store: Where replicates are kept, and looked for before anything is trained.
            test: The test split, for ``verify`` alone; a search has none to give.
            pauses: Where trainings are kept that are cut off, to go on from there; by default they would begin anew.
        """
        self._trainer = trainer
        self._store = store
        self._test = test
        self._pauses = pauses
        self._lock = DeviceLock(lock_name(trainer.device))

    def __call__(self, architecture: Architecture, seed: int, epochs: int | None = None) -> Replicate:
        """Return one training of an architecture.

        Args:
            architecture: What to train.
            seed: Seed of the weights, the batch order and the augmentation; the split stays.
            epochs: Epochs of the training; None for the protocol's own.

        Raises:
            EvaluationError: If it cannot be trained: no memory left, a loss that is not finite.
        """
        trainer = self._trainer.under(seed=seed, epochs=epochs or self._trainer.protocol.epochs)
        hashed = trainer.protocol.training_hash
        found = self._store.replicate(architecture, hashed, "val" if self._test is None else "val+test")
        if found is not None:
            return found
        place = self._pauses.of(f"{FURTHER}{architecture.id}-{hashed}") if self._pauses is not None else nullcontext()
        with place as pause:
            replicate = within_memory(lambda: self._train(architecture, trainer, pause), trainer)
            self._store.put_replicate(architecture, hashed, replicate, family=trainer.protocol.family_hash)
        return replicate

    def _train(self, architecture: Architecture, trainer: Trainer, pause: Pause | None) -> Replicate:
        protocol = trainer.protocol
        with self._lock.training():  # no timing meanwhile
            model = trainer.build(architecture)
        curve = trainer.train(model, turn=self._lock.training, pause=pause)
        test_accuracy = None
        if self._test is not None:
            with self._lock.training():
                test_accuracy = proxy.accuracy(model, self._test, trainer.data, protocol)
        return Replicate(
            architecture=architecture.id,
            seed=protocol.seed,
            epochs=protocol.epochs,
            accuracy=curve.accuracies[-1],
            val_images=len(trainer.data.val),
            test_accuracy=test_accuracy,
            test_images=0 if self._test is None else len(self._test),
            curve=curve.accuracies,
            train_seconds=curve.seconds,
            versions=versions(),
        )

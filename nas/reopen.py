"""Evaluate under a stored study's protocol again: its data, weights, device and space are found as they were.

What is evaluated then joins the study, so that nothing may differ. A search says all of it with its flags; here it is
the study that says it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.study import Study
from nas.study.binding import differences
from nas.verify import inputs_of, splits_of

if TYPE_CHECKING:
    import torch

    from nas.evaluate import Evaluator, StopRule
    from nas.placement import Weights
    from nas.protocol import Protocol
    from nas.replicate import Replicator
    from nas.space import ResolvedSpace
    from nas.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the study's things are now; None stands for where they were."""

    device: str = "auto"
    """What trains: ``auto`` for one of the study's kind, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""
    latency_device: str | None = None
    """What is timed; None for what trains, or one of the kind that the study timed."""
    data: str | None = None
    """Where the data lie."""
    checkpoint: str | None = None
    """Where the file with the backbone's trained weights lies."""


@dataclass(frozen=True, kw_only=True)
class Reopened:
    """What evaluates architectures of a stored study."""

    space: ResolvedSpace
    """The space that the study is bound to."""
    evaluator: Evaluator
    """Evaluates as the study's search did, but stops no training unless by a rule that was given."""
    replicator: Replicator
    """Trains with further seeds."""


def reopen(
    study: Study,
    place: Place,
    folder: Path,
    *,
    stop_rule: Callable[[ResolvedSpace], StopRule | None] = lambda _: None,
    keeps_stopped: bool = True,
    on_event: Callable[[str], None] | None = None,
) -> Reopened:
    """Return what evaluates architectures of a stored study, under its own protocol.

    Args:
        study: The study.
        place: Where its things are now.
        folder: That of the study's files, beside which a warm start lies.
        stop_rule: Returns what stops trainings, given the space; by default nothing does.
        keeps_stopped: Whether what it stops may be taken up again.
        on_event: Called with a line about a warm start.

    Raises:
        ValueError: If data or weights are not to be had, or if they, the device or the libraries are others.
        EvaluationError: If a warm start has to be made again, and that fails.
    """
    from nas.evaluate import Evaluator  # torch and timm, once the cheap mistakes are ruled out
    from nas.pauses import Pauses
    from nas.replicate import Replicator
    from nas.space import restored
    from nas.timing import Timer

    device, timed = _devices(study.protocol, place)
    trainer = _trainer(study, place, folder, device, timed, on_event)
    (backbone,) = study.space["backbones"]
    space = restored(study.space, {backbone: trainer.plan(backbone).stages})
    timer, pauses = Timer(trainer, timed), Pauses(folder / "stopped")
    return Reopened(
        space=space,
        evaluator=Evaluator(
            trainer, study.store, timer, study.limits, stop_rule(space), pauses, keeps_stopped=keeps_stopped
        ),
        replicator=Replicator(trainer, study.store, pauses=pauses),
    )


def _devices(protocol: Protocol, place: Place) -> tuple[torch.device, torch.device]:
    """Return what trains and what is timed; where none is named, of the kinds that the study had, if there are any.

    Raises:
        ValueError: If one that is named is no device, or is not there.
    """
    from nas import proxy

    def of_kind(words: str) -> torch.device:
        try:
            return proxy.select_device(words.partition(":")[0])
        except ValueError:  # what is here instead is refused with all else that differs
            return proxy.select_device()

    device = of_kind(protocol.device) if place.device == "auto" else proxy.select_device(place.device)
    if place.latency_device is not None:
        return device, proxy.select_device(place.latency_device)
    is_same = protocol.latency_device.partition(":")[0] in ("", device.type)
    return device, device if is_same else of_kind(protocol.latency_device)


def _trainer(
    study: Study,
    place: Place,
    folder: Path,
    device: torch.device,
    timed: torch.device,
    on_event: Callable[[str], None] | None,
) -> Trainer:
    """Return what trains as the study's trials were trained.

    Raises:
        ValueError: If something differs from then.
    """
    from nas import warm
    from nas.trainer import Trainer

    protocol = study.protocol
    (backbone,) = study.space["backbones"]
    here, threads = _here(protocol, device, timed)
    _refuse_others(study, here)  # another device, before anything is loaded or trained
    splits = splits_of(study, place.data)
    weights = _weights(study, place.checkpoint)
    start = dataclasses.replace(
        here,
        weights=weights.words if weights is not None else "",
        freeze_backbone=protocol.freeze_backbone and weights is not None and not protocol.warm_epochs,
        warm_epochs=0,
        warm_learning_rate=0.0,
    )
    if not protocol.warm_epochs:
        _refuse_others(study, start)
    trainer = Trainer(splits.search(), start, device, weights, threads=threads)
    if protocol.warm_epochs:
        kept = folder.parent / "warm"
        trainer = warm.start(
            trainer,
            backbone,
            kept,
            epochs=protocol.warm_epochs,
            learning_rate=protocol.warm_learning_rate,
            on_event=on_event,
        ).under(freeze_backbone=protocol.freeze_backbone)
        _refuse_others(
            study, trainer.protocol, f"; copy the study's own warm start into {kept}, from where it was made"
        )
    return trainer


def _weights(study: Study, moved: str | None) -> Weights | None:
    """Return the weights that the study's trials start from, or its warm start; None for fresh ones.

    Raises:
        ValueError: If they are not to be had.
    """
    from nas import placement

    inputs = inputs_of(study)
    if moved is not None and not inputs["checkpoint"]:
        raise ValueError(f"study {study.name!r} was not started from a file, but got the checkpoint {moved}")
    if not (inputs["pretrained"] or inputs["checkpoint"]):
        return None
    checkpoint = moved or inputs["checkpoint"]
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise ValueError(f"there is no checkpoint {checkpoint}; give the place of the study's with --checkpoint")
    (backbone,) = study.space["backbones"]
    return placement.pretrained(
        backbone,
        num_classes=study.protocol.num_classes,
        in_channels=study.protocol.channels,
        model_kwargs=study.protocol.model_kwargs,
        checkpoint=checkpoint,
    )


def _here(protocol: Protocol, device: torch.device, timed: torch.device) -> tuple[Protocol, int | None]:
    """Return the protocol with what this machine is, and the threads that a training may take; None for all."""
    import torch

    from nas.evaluate import software
    from nas.latency import device_words, runtime_software
    from nas.threads import threads_of_torch

    words, threads = device_words(device), None
    if device.type == "cpu" and words != protocol.device:
        for count in range(1, torch.get_num_threads()):  # several workers on a CPU have a share of its threads each
            with threads_of_torch(count):
                threads = count if device_words(device) == protocol.device else threads
        words = words if threads is None else protocol.device
    here = dataclasses.replace(
        protocol,
        device=words,
        latency_device=device_words(timed),
        latency_software=runtime_software(protocol.latency_runtime),
        software=software(),
    )
    return here, threads


def _refuse_others(study: Study, protocol: Protocol, hint: str = "") -> None:
    """Raise unless a protocol is that of the study: what is measured under another cannot be compared with its trials.

    Raises:
        ValueError: If it is another, with the difference.
    """
    changed = differences({"protocol": study.protocol.to_dict()}, {"protocol": protocol.to_dict()})
    if changed:
        raise ValueError(
            f"what is evaluated joins study {study.name!r} and must be trained and timed as its trials were, but here "
            f"differs {'; '.join(changed)}{hint}"
        )

"""The warm start: the bare backbone is trained once under a protocol, and every trial starts from its weights.

What all trials would learn alike is then learnt once, and with blocks that start as the identity what remains for a
trial is what its blocks make of a trained backbone.

The weights lie in a folder, in a safetensors file whose name is a hash of all that they depend on. Processes that share
the folder train them once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nas import files, placement
from nas.architecture import Architecture
from nas.evaluation import EvaluationError
from nas.latency import lock_name
from nas.locks import DeviceLock
from nas.protocol import Protocol
from nas.trainer import Trainer

SEED_OFFSET = 1_000_000_007
"""Added to the seed, so that a trial does not meet the batches of the warm training in their order again."""
_TRIAL_ONLY = (
    *("mirror_validation", "average_epochs", "freeze_backbone"),
    *("block_lr_factor", "warm_epochs", "warm_learning_rate"),
)
"""Fields of a protocol that say how trials are trained or judged; the warm training has their defaults."""


def start(
    trainer: Trainer,
    backbone: str,
    folder: str | Path,
    *,
    epochs: int,
    learning_rate: float | None = None,
    on_event: Callable[[str], None] | None = None,
) -> Trainer:
    """Return a trainer whose trials start from a backbone that was trained as the given one trains.

    The backbone is trained if the folder does not have it yet, or has it damaged. Nothing but a lock file stays behind
    of a training that is broken off.

    Args:
        trainer: How to train; the weights that it starts from, if any, are those that the warm training starts from.
        backbone: timm name.
        folder: Where the weights are kept.
        epochs: Epochs of the warm training.
        learning_rate: Its peak learning rate; None for that of the trials. Theirs should be lower: at the rate that
            suits fresh weights they unlearn what they start from.
        on_event: Called with a line before the training, and with one on the weights that were found or made.

    Raises:
        EvaluationError: If the training fails.
        OSError: If the folder cannot be written.
        ValueError: If there are to be less than one epoch.
    """
    if epochs < 1:
        raise ValueError(f"a warm start takes at least 1 epoch, but got {epochs}")
    say = on_event or (lambda _: None)
    recipe = _recipe(trainer, epochs, learning_rate or trainer.protocol.learning_rate)
    made = {"warm_epochs": epochs, "warm_learning_rate": recipe.protocol.learning_rate}
    path = Path(folder) / f"{_key(recipe.protocol, backbone)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(path.with_suffix(".lock"))):
        if path.exists():
            try:
                weights, accuracy = _read(path, recipe.protocol, backbone)
            except _DamagedError as error:
                say(f"{path} is damaged ({error}): the backbone is trained again")
            else:
                say(f"{weights.describe()}; {accuracy:.1%} on val, found in {path}")
                return trainer.starting_from(weights, **made)
        say(f"training the bare {backbone} for {epochs} epochs, once, for all trials to start from")
        _train(recipe, backbone, path)
        weights, accuracy = _read(path, recipe.protocol, backbone)
        say(f"{weights.describe()}; {accuracy:.1%} on val, kept in {path}")
    return trainer.starting_from(weights, **made)


class _DamagedError(Exception):
    """A file does not hold the weights that were written."""


def _recipe(trainer: Trainer, epochs: int, learning_rate: float) -> Trainer:
    changes: dict[str, Any] = {name: Protocol.__dataclass_fields__[name].default for name in _TRIAL_ONLY}
    changes |= {"epochs": epochs, "learning_rate": learning_rate, "seed": trainer.protocol.seed + SEED_OFFSET}
    return trainer.under(**changes)


def _key(protocol: Protocol, backbone: str) -> str:
    """Return a hash of all that the weights depend on; how latency is measured is not part of it."""
    fields = {name: value for name, value in protocol.to_dict().items() if not name.startswith("latency")}
    text = json.dumps({"backbone": backbone, **fields}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _train(recipe: Trainer, backbone: str, path: Path) -> None:
    """Train the bare backbone and write its weights, whole or not at all."""
    model = recipe.build(Architecture(backbone=backbone))
    try:
        curve = recipe.train(model, turn=DeviceLock(lock_name(recipe.device)).training)
    except EvaluationError as error:
        raise EvaluationError(f"the warm start failed: {error}") from error
    # Clones, as the format keeps no tensor that shares its memory; in the plain order of memory, for every protocol.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    about = {
        "backbone": backbone,
        "protocol": json.dumps(recipe.protocol.to_dict()),
        "accuracy": str(curve.accuracies[-1]),
        "sha256": _digest(tensors),
    }
    files.replace(path, save(tensors, metadata=about))


def _read(path: Path, protocol: Protocol, backbone: str) -> tuple[placement.Weights, float]:
    """Return the weights of a file and the accuracy that the backbone had with them.

    Raises:
        _DamagedError: If it is no such file, or was changed since it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise _DamagedError(" ".join(str(error).split())) from error
    digest = _digest(tensors)
    if about.get("sha256") != digest:
        raise _DamagedError(
            f"its tensors have sha256 {digest[:12]}, but were written with {about.get('sha256', '')[:12]}"
        )
    origin = f", from {protocol.weights}" if protocol.weights else ""
    words = f"bare {backbone} after {protocol.epochs} epochs (sha256 {digest[:12]}){origin}"
    return placement.Weights(words=words, tensors=tensors, total=len(tensors)), float(about["accuracy"])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(save(dict(tensors))).hexdigest()

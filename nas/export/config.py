"""The architecture that a study found, as a file that says where it comes from; and the model built from that."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from nas import files, strict_json
from nas.architecture import Architecture
from nas.attention.widths import is_int
from nas.front import Row
from nas.protocol import Protocol
from nas.strict_json import short

if TYPE_CHECKING:
    from torch import nn

    from nas.study import Study

SCHEMA = 1
"""Version of the config's form."""
CONFIG, WEIGHTS = "architecture.json", "weights.safetensors"
"""What the config and the trained weights are called in an exported folder."""
MOST = {"num_classes": 2**20, "in_channels": 2**12, "resolution": 2**14}
"""Largest numbers that are believed: beyond, a few letters in a file would take all memory that there is."""
_KEYS = ("schema", "architecture", "id", "num_classes", "in_channels", "evidence", "protocol", "space")


class ConfigError(ValueError):
    """A config cannot be read or written; the message says why."""


def config(study: Study, row: Row) -> dict[str, Any]:
    """Return the config of a finished trial: the architecture, and the evidence for it."""
    protocol = study.protocol
    evaluation = study.evaluation(row.trial)
    evidence = {"study": study.name, "trial": row.trial, "control": row.control, "on_front": row.on_front}
    evidence["limit"] = (study.inputs or {}).get("limit")  # of the images: a full training needs the same ones
    return {
        "schema": SCHEMA,
        "id": row.architecture.id,
        "architecture": row.architecture.to_dict(),
        "num_classes": protocol.num_classes,
        "in_channels": protocol.channels,
        "evidence": {**evidence, "latency_ms": row.latency_ms, **dataclasses.asdict(evaluation), **_over_seeds(row)},
        "protocol": protocol.to_dict(),
        "space": study.space,
    }


def _over_seeds(row: Row) -> dict[str, Any]:
    """Return the accuracy over all seeds, in place of that of the evaluation, which is one of them."""
    names = ("accuracy", "accuracy_low", "accuracy_high", "seeds", "seed_error", "seed_degrees", "front_probability")
    return {name: getattr(row, name) for name in names}


def check_replaceable(path: str | Path) -> None:
    """Raise unless a file may be written here: there is none yet, or one that :func:`write` has written.

    Raises:
        ConfigError: If another file is there.
    """
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        found = strict_json.load(path)
    except (OSError, strict_json.JsonError):
        found = None
    if not isinstance(found, dict) or not {"schema", "architecture", "protocol"} <= set(found):
        raise ConfigError(f"{path} is there already, and no export has written it; give another --out, or remove it")


def write(content: dict[str, Any], path: str | Path) -> None:
    """Write a config, whole or not at all.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        files.replace(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    except (OSError, ValueError) as error:  # a path without a name is a ValueError
        raise ConfigError(f"cannot write {path}: {error}") from error


@contextmanager
def alone_in(folder: Path, name: str) -> Iterator[None]:
    """Make a folder, and keep other exports out of it; the system lets go of what a killed process holds.

    Args:
        folder: The folder.
        name: Name of the lock file in it; it is removed in the end.

    Raises:
        ConfigError: If the folder cannot be written, or another process is in it.
    """
    try:
        files.check_folder(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if (folder / name).is_symlink():  # to lock a file is to empty it
        raise ConfigError(f"{folder / name} is a link, which no export makes; remove it")
    lock = filelock.FileLock(str(folder / name), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigError(f"another export writes into {folder}; wait for it, or give another with --out") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file, and filelock there does so on release
            (folder / name).unlink()
        lock.release()


def read(path: str | Path) -> tuple[Architecture, dict[str, Any]]:
    """Read a config strictly; nothing in it is executed.

    Args:
        path: The file, or an exported folder.

    Returns:
        The architecture, and the whole content.

    Raises:
        ConfigError: If the file cannot be read, is not JSON, has an unknown or missing key, or was changed by hand so
            that its id is no longer its architecture's.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CONFIG
    try:
        content = strict_json.load(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except strict_json.JsonError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        found = short(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"{path} must have the keys {', '.join(sorted(_KEYS))}, but has: {found}")
    if content["schema"] != SCHEMA or not is_int(content["schema"]):
        raise ConfigError(f"{path} has schema {short(content['schema'])}, but this version reads {SCHEMA}")
    try:
        architecture = Architecture.from_dict(content["architecture"])
        if not isinstance(content["protocol"], dict):
            raise ValueError(f"protocol must be a JSON object, but got {short(content['protocol'])}")
        protocol = Protocol.from_dict(content["protocol"])
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if architecture.id != content["id"]:
        raise ConfigError(
            f"{path} says id {short(content['id'])}, but its architecture has {architecture.id}: it was changed"
        )
    if protocol.resolution > MOST["resolution"]:
        raise ConfigError(f"{path}: resolution must be at most {MOST['resolution']}, but got {protocol.resolution}")
    for key, expected in (("num_classes", protocol.num_classes), ("in_channels", protocol.channels)):
        if content[key] != expected or not is_int(content[key]):
            raise ConfigError(
                f"{path} says {key} {short(content[key])}, but its protocol has {expected}: it was changed"
            )
        if expected > MOST[key]:
            raise ConfigError(f"{path}: {key} must be at most {MOST[key]}, but got {expected}")
    # With every field: those that were not there have their defaults, which whoever reads on relies on.
    return architecture, {**content, "protocol": protocol.to_dict()}


def load(path: str | Path) -> nn.Module:
    """Build the model of a config, with fresh weights; of an exported folder, with its trained weights if it has them.

    Args:
        path: The file, or the folder.

    Raises:
        ConfigError: As :func:`read`.
        nas.placement.BackboneError: If timm does not know the backbone, or cannot build it.
        ValueError: If the folder's weights are not those of the model.
    """
    model = build(*read(path))
    weights = Path(path) / WEIGHTS
    if weights.exists():
        from nas.export.proof import load_weights

        load_weights(model, weights)
    return model


def is_folder(out: str | Path) -> bool:
    """Tell whether an export to this path is a folder, or the config alone: a .json file, or what is a file already."""
    path = Path(out)
    if path.exists():
        return path.is_dir()
    return path.suffix != ".json" and not path.is_symlink()


def build(architecture: Architecture, content: dict[str, Any]) -> nn.Module:
    """Build the model of a config's content, with fresh weights.

    Raises:
        nas.placement.BackboneError: If timm does not know the backbone, or cannot build it.
    """
    from nas import placement  # torch and timm, which reading a config does not need

    return placement.build(
        architecture,
        num_classes=content["num_classes"],
        in_channels=content["in_channels"],
        model_kwargs=content["protocol"]["model_kwargs"],
    )

"""What a reader of a study's figures must know about how they were made, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.protocol import Protocol

if TYPE_CHECKING:
    from nas.study import Study


def _weights_words(protocol: Protocol) -> str:
    frozen = "; the backbone is frozen" if protocol.freeze_backbone else ""
    return f"{protocol.weights}; learning rate of blocks x {protocol.block_lr_factor:g}{frozen}"


def epochs_words(protocol: Protocol) -> str:
    """Return for how many epochs the proxy trains."""
    return f"{protocol.epochs} epoch{'s' if protocol.epochs > 1 else ''}"


def latency_words(protocol: Protocol) -> str:
    """Return what is timed, by what, and where."""
    size = protocol.latency_resolution or protocol.resolution
    precision = protocol.latency_precision or protocol.precision
    runtime = "" if protocol.latency_runtime == "eager" else f" in {protocol.latency_runtime}"
    where = protocol.latency_device or protocol.device
    return f"batch {protocol.latency_batch_size} of {size}x{size}, {precision},{runtime} on {where}".replace(
        ", on", " on"
    )


def _trials_words(study: Study) -> str:
    stopped = study.stopped()
    words = f", {len(stopped)} stopped early" if stopped else ""
    return f"{study.finished()} finished{words}, {len(study.failures())} failed"


def facts(study: Study) -> dict[str, str]:
    """Return what a reader of the study's figures must know about how they were made, in words."""
    protocol, noise, period = study.protocol, study.seed_noise(), study.period()
    return {
        "Study": study.name,
        "Backbones": ", ".join(study.space["backbones"])
        + "".join(f", {name}={value}" for name, value in protocol.model_kwargs.items()),
        **({"Weights": _weights_words(protocol)} if protocol.weights else {}),
        "Data": f"{protocol.data}, {protocol.num_classes} classes, {protocol.channels}x{protocol.resolution}"
        f"x{protocol.resolution}; accuracy is on the validation split, which the search selects on",
        "Proxy": f"{epochs_words(protocol)}, batch {protocol.batch_size}, {protocol.optimizer} at "
        f"{protocol.learning_rate:g}, {protocol.augmentation}, {protocol.precision}, seed {protocol.seed}"
        + (", compiled" if protocol.compile else "")
        + (f", weights averaged over {protocol.average_epochs} epochs" if protocol.average_epochs > 1 else "")
        + (", validated with mirror images" if protocol.mirror_validation else ""),
        "Latency": latency_words(protocol),
        "Training device": protocol.device,
        **({"Software": protocol.software} if protocol.software else {}),
        "Split": f"cut with seed {protocol.split_seed}; indices in split.json, hash of images, labels and indices "
        f"{protocol.data_hash}",
        "Trials": _trials_words(study),
        **({"When": f"{period[0]:%Y-%m-%d %H:%M} to {period[1]:%Y-%m-%d %H:%M}"} if period is not None else {}),
        **({"Limits": study.limits.describe()} if study.limits else {}),
        **({"Rungs": f"{'; '.join(study.rungs)}: what was stopped is no finished trial"} if study.rungs else {}),
        **({"Seed noise": noise.describe()} if noise is not None else {}),
    }


def protocol_facts(study: Study) -> dict[str, str]:
    """Return everything besides the architecture that could change a figure of the study, by its name in Python."""
    values = study.protocol.to_dict()
    return {name: "-" if value in ("", None, {}) else str(value) for name, value in values.items()}

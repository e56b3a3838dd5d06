"""Whether a search can be trusted: train some of its architectures fully, on the test split that it never saw.

Besides the full training of an answer, in nas/train, the only module that touches the test split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import files, trust
from nas.answer import recommend
from nas.evaluation import EvaluationError
from nas.front import Row, bare_row, most_accurate
from nas.ranking import FEWEST
from nas.seeds import Replicate, full_seeds
from nas.study import Study, attempt

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.data import Splits
    from nas.protocol import Protocol
    from nas.trainer import Trainer

EPOCHS_FACTOR = 5
"""Epochs of a full training over those of the proxy, where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a verification is asked for."""

    top: int = 5
    """Members of the front to train, the most accurate ones."""
    others: int = 5
    """Dominated architectures to train."""
    epochs: int | None = None
    """Epochs of a full training; None for :data:`EPOCHS_FACTOR` times the proxy's."""
    seeds: int = 3
    """Trainings of each architecture."""
    device: str = "auto"
    """``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""
    data: str | None = None
    """Where the data lie now, if no longer where the search had them."""

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("others", 0), ("seeds", 1), ("epochs", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, but got {value}")


def verify(
    study: Study, settings: Settings, folder: str | Path, *, on_event: Callable[[str], None] | None = None
) -> str:
    """Train architectures of a study fully, compare, and write ``verify.md`` and ``verify.csv``.

    What was trained is kept: a verification that was interrupted goes on where it was.

    Args:
        study: The study.
        settings: What is asked for.
        folder: Where the files are written.
        on_event: Called with a line about each step.

    Returns:
        The report, as Markdown.

    Raises:
        ValueError: If the study has too few trials, its data or weights are not to be had or are others, the settings
            are out of range, or the folder cannot be written.
        EvaluationError: If fewer than two architectures could be trained.
    """
    say = on_event or (lambda _: None)
    rows = study.rows()
    chosen = choose(rows, settings.top, settings.others)
    seeds = full_seeds(study.protocol, settings.seeds)
    epochs = settings.epochs or EPOCHS_FACTOR * study.protocol.epochs
    files.check_folder(folder)
    from nas.replicate import Replicator  # torch, once the cheap mistakes are ruled out

    splits = splits_of(study, settings.data)
    trainer = _trainer(study, splits, settings.device)
    train = Replicator(trainer, study.store, splits.test)
    say(f"{len(chosen)} architectures, trained {len(seeds)} times each for {epochs} epochs")
    found, failures = _train_all(
        chosen, seeds, partial(attempt, study, lambda architecture, seed: train(architecture, seed, epochs)), say
    )
    best = recommend(rows).row.trial
    entries = [
        trust.Entry(row=row, recommended=row.trial == best, replicates=tuple(found[row.trial]))
        for row in chosen
        if found[row.trial]
    ]
    if len(entries) < 2:
        raise EvaluationError(f"fewer than two architectures could be trained; the first failure: {failures[0]}")
    result = trust.assess(entries, settings.top)
    facts = {
        "Study": f"{study.name}, {len(rows)} finished trials; the proxy trains for {study.protocol.epochs} epochs",
        "Full training": f"{epochs} epochs, otherwise as the proxy{_start_words(study.protocol, trainer.protocol)}; "
        f"of each architecture {len(seeds)}, with seeds that the search did not use",
        "Test split": f"{len(splits.test)} images that the search never saw (validation: {len(splits.val)})",
        "Device": f"{trainer.protocol.device}; {trainer.protocol.software}",
    }
    if stopped := len(study.stopped()):
        facts["Stopped"] = f"{stopped} trainings before their end; none of these is among the dominated here"
    text = trust.report(result, title=f"Can {study.name} be trusted?", facts=facts, failures=failures)
    files.replace(Path(folder) / "verify.md", text.encode())
    files.replace(Path(folder) / "verify.csv", trust.csv_text(result).encode())
    return text


def _start_words(proxy: Protocol, full: Protocol) -> str:
    """Return in words from where full trainings start, if not from where the proxy does."""
    if not proxy.warm_epochs:
        return ""
    words = f", but from {full.weights or 'fresh weights'} instead of the warm start, at {full.learning_rate:g}"
    return words + (", the backbone not frozen" if proxy.freeze_backbone else "")


def choose(rows: Sequence[Row], top: int, others: int) -> list[Row]:
    """Return the rows to train, in the order of their trials.

    The bare backbone and the recommended one always; the ``top`` most accurate members of the front; and ``others``
    dominated ones, each from the middle of one of as many equal slices of their order of accuracy. Where the front has
    fewer members than ``top``, more of the dominated ones.

    Raises:
        ValueError: If that makes fewer than :data:`nas.ranking.FEWEST` rows.
    """
    rule = f"at least {FEWEST} architectures must be compared"
    if len(rows) < FEWEST:
        raise ValueError(f"{rule}, but the study has {len(rows)} finished trials; search on with a larger --budget")
    always = {recommend(rows).row.trial} | {row.trial for row in [bare_row(rows)] if row is not None}
    ordered = sorted(rows, key=most_accurate)
    members = [row for row in ordered if row.on_front][:top]
    dominated = [row for row in ordered if not row.on_front and row.trial not in always]
    count = min(top + others - len(members), len(dominated))
    spread = [dominated[(2 * slot + 1) * len(dominated) // (2 * count)] for slot in range(count)]
    numbers = always | {row.trial for row in (*members, *spread)}
    if len(numbers) < FEWEST:
        raise ValueError(f"{rule}, but top={top} and others={others} choose {len(numbers)}")
    return [row for row in rows if row.trial in numbers]


def _train_all(
    rows: Sequence[Row],
    seeds: Sequence[int],
    train: Callable[[Architecture, int], Replicate | str],
    say: Callable[[str], None],
) -> tuple[dict[int, list[Replicate]], list[str]]:
    """Train every row with every seed, seed by seed; return the replicates by trial, and why others failed."""
    found: dict[int, list[Replicate]] = {row.trial: [] for row in rows}
    failures: list[str] = []
    jobs = [(row, seed) for seed in seeds for row in rows]
    for number, (row, seed) in enumerate(jobs, 1):
        name = f"trial {row.trial} with seed {seed}"
        replicate = train(row.architecture, seed)
        if isinstance(replicate, str):
            failures.append(f"{name}: {replicate}")
            say(f"{number}/{len(jobs)} {failures[-1]}")
            continue
        found[row.trial].append(replicate)
        test = f"{replicate.test_accuracy:.2%} on test" if replicate.test_accuracy is not None else ""
        say(f"{number}/{len(jobs)} {name}: {test}, {replicate.accuracy:.2%} on val, {replicate.train_seconds:.1f} s")
    return found, failures


def splits_of(study: Study, place: str | None = None) -> Splits:
    """Load the data of a study, the test split among them, and check that they are the same.

    Args:
        study: The study, which says how its data were asked for.
        place: The folder where they lie now; None for where they lay.

    Raises:
        ValueError: If they are not, or nobody noted how they had been asked for.
    """
    from nas import data

    inputs = inputs_of(study)
    asked: dict[str, Any] = {name: inputs[name] for name in ("data_dir", "limit", "resolution", "seed")}
    source = inputs["data"]
    if place is not None and asked["data_dir"] is not None:
        asked["data_dir"] = place  # a timm name stays; its folder has moved
    elif place is not None:
        source = place
    splits = data.load(source, **asked)
    if splits.hash != study.protocol.data_hash:
        raise ValueError(
            f"the data {asked['data_dir'] or source} have the hash {splits.hash}, but study {study.name!r} was made on "
            f"{study.protocol.data_hash}; give the place of those with --data"
        )
    return splits


def inputs_of(study: Study) -> dict[str, Any]:
    """Return how the study's data and trained weights were asked for.

    Raises:
        ValueError: If nobody noted that.
    """
    if study.inputs is None:
        raise ValueError(
            f"study {study.name!r} does not say where its data lie; resume it once with the settings it was made with"
        )
    return study.inputs


def _trainer(study: Study, splits: Splits, device_name: str) -> Trainer:
    """Return what trains fully: as the study's trials are trained, but without a warm start."""
    from nas import placement, proxy
    from nas.evaluate import software
    from nas.latency import device_words
    from nas.trainer import Trainer

    protocol, inputs = study.protocol, inputs_of(study)
    (backbone,) = study.space["backbones"]
    device = proxy.select_device(device_name)
    weights = None
    if inputs["pretrained"] or inputs["checkpoint"]:
        weights = placement.pretrained(
            backbone,
            num_classes=protocol.num_classes,
            in_channels=protocol.channels,
            model_kwargs=protocol.model_kwargs,
            checkpoint=inputs["checkpoint"],
        )
    if protocol.warm_epochs:
        if weights is not None and not protocol.weights.endswith(f", from {weights.words}"):
            raise ValueError(f"study {study.name!r} started from {protocol.weights}, but found {weights.words}")
        # A full training is what one would do with the answer: the whole network, from where the warm start began.
        protocol = dataclasses.replace(
            protocol,
            weights=weights.words if weights is not None else "",
            learning_rate=protocol.warm_learning_rate or protocol.learning_rate,
            warm_epochs=0,
            warm_learning_rate=0.0,
            freeze_backbone=False,
        )
    trainer = Trainer(splits.search(), protocol, device, weights)
    # What trains now is what the replicates are kept under.
    return trainer.under(device=device_words(device), software=software())

"""Search the table instead of a machine: a training is looked up, and costs its epochs all the same."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from attnbench.space import SPACE
from attnbench.table import PACKED, Header, Part, read

from nas.architecture import NONE, Architecture, Placement
from nas.front import non_dominated
from nas.rungs import Rungs, Stop, Training, judge
from nas.space import ResolvedSpace
from nas.study.sampler import Known, propose

Point = tuple[float, float]
"""Accuracy, and latency over that of the bare backbone."""


def resolve() -> ResolvedSpace:
    """Return the space of the table."""
    from nas import placement

    (backbone,) = SPACE.backbones
    model = placement.create(backbone, num_classes=10, in_channels=1)
    return SPACE.resolve({backbone: placement.stages(model)})


class Table:
    """Every architecture of a space, with what its trainings and its latency were."""

    def __init__(self, part: Part, space: ResolvedSpace) -> None:
        """Sort the trainings.

        Raises:
            ValueError: If the table is of another space, or lacks one of its architectures.
        """
        if part.header.space != space.hash:
            raise ValueError("the table is of another space: the program has changed since it was made")
        self.header: Header = part.header
        self.space = space
        self.images = part.header.images
        self.epochs: int = part.header.protocol["epochs"]
        self.controls = [control.architecture.id for control in space.controls()]
        self.inside = [architecture.id for architecture in space.enumerate()]
        self.bare = self.controls[0]
        self.curves: dict[tuple[str, int], tuple[float, ...]] = {}
        """Validation accuracy after each epoch, by architecture and seed; empty where the training failed."""
        self.tests: dict[tuple[str, int], float] = {}
        """Test accuracy, by architecture and seed: 0 where the training failed."""
        self.ratios: dict[str, float] = {}
        self.nominal: dict[str, float] = {}
        for row in part.rows:
            key = (row.architecture, row.seed)
            self.curves[key] = tuple(right / self.images["val"] for right in row.curve)
            self.tests[key] = (row.test or 0) / self.images["test"]
            if row.ratio and row.nominal_ms is not None:
                self.ratios[row.architecture], self.nominal[row.architecture] = row.ratio[0], row.nominal_ms
        known = {key for key, _ in self.curves}
        missing = [key for key in {*self.inside, *self.controls} if key not in known or key not in self.ratios]
        if missing:
            raise ValueError(f"the table lacks {len(missing)} of its {len(self.inside)} architectures")
        every = sorted({seed for _, seed in self.curves})
        self.seeds = [seed for seed in every if all((key, seed) in self.curves for key in self.inside)]
        """Seeds with which every architecture was trained."""

    @classmethod
    def load(cls, path: Path = PACKED) -> Table:
        """Read the packed table."""
        return cls(read(path), resolve())

    def truth(self, architecture: str, seed: int) -> Point:
        """Return what an architecture is worth to a search that saw one seed: its test accuracy with the others."""
        others = [self.tests[architecture, each] for each in self.seeds if each != seed]
        return sum(others) / len(others), self.ratios[architecture]

    def front(self, seed: int) -> list[str]:
        """Return the architectures on the front of the truth, from the fastest to the slowest."""
        flags = non_dominated([self.truth(key, seed) for key in self.inside])
        return sorted((key for key, on in zip(self.inside, flags, strict=True) if on), key=self.ratios.__getitem__)


@dataclass(frozen=True)
class Trial:
    """A step of a search."""

    architecture: str
    epochs: int
    """What it cost."""
    accuracy: float | None
    """Validation accuracy at the end; None where it was stopped, failed, or was known already."""
    stop: Stop | None = None
    duplicate: bool = False
    """Whether the search had trained it before."""


Searcher = Callable[[Table, int, int], Iterator[Trial]]
"""From a table, the seed of the trainings and that of the search to the trials, without end."""


def ours(sampler: str = "auto", rungs: Rungs | None = None, coin: float | None = None) -> Searcher:
    """Return our search: its proposals, its controls first, its rungs.

    Args:
        sampler: As ``--sampler``.
        rungs: As ``--rungs`` and ``--risk``; None for none.
        coin: Stop with this probability at the first rung, whatever the curve says: what the rungs are held against.
    """

    def search(table: Table, seed: int, number: int) -> Iterator[Trial]:
        known: list[Known] = []
        trainings: list[Training] = []
        outside = set(table.controls) - set(table.inside)
        generator = random.Random(number)
        while (proposal := propose(table.space, known, sampler=sampler, seed=number)) is not None:
            key = proposal.architecture.id
            curve, ratio = table.curves[key, seed], table.ratios[key]
            stop = None
            if rungs is not None and curve and not proposal.control:
                ready = len(trainings) >= 8 and generator.random() < (coin or 0)
                if coin is not None:
                    stop = _at_first(curve, rungs) if ready else None
                else:
                    stop = _stop(Training(ratio=ratio, curve=curve), trainings, rungs, table)
            epochs = stop.rung if stop is not None else table.epochs
            if curve:
                trainings.append(Training(ratio=ratio, curve=curve[:epochs]))
            accuracy = curve[-1] if curve and stop is None else None
            known.append(_known(proposal.params, key, accuracy, stop, table.nominal[key], key in outside))
            yield Trial(key, epochs, accuracy, stop)

    return search


def _known(params: Any, key: str, accuracy: float | None, stop: Stop | None, nominal: float, outside: bool) -> Known:
    return Known(
        id=key,
        params={} if outside else params,
        values=None if accuracy is None else (accuracy, nominal),
        nominal_ms=nominal if stop is not None else None,
        forecast=None if stop is None else (stop.forecast.accuracy, stop.forecast.deviation),
    )


def _stop(whole: Training, others: Sequence[Training], rungs: Rungs, table: Table) -> Stop | None:
    for rung in rungs.epochs:
        begun = Training(ratio=whole.ratio, curve=whole.curve[:rung])
        stop = judge(begun, others, rungs, epochs=table.epochs, images=table.images["val"])
        if stop is not None:
            return stop
    return None


def _at_first(curve: Sequence[float], rungs: Rungs) -> Stop:
    from nas.rungs import Forecast

    accuracy = curve[rungs.epochs[0] - 1]
    forecast = Forecast(accuracy=accuracy, deviation=0.5)
    return Stop(rung=rungs.epochs[0], accuracy=accuracy, rival=accuracy, chance=0.5, forecast=forecast)


def uniform(table: Table, seed: int, number: int) -> Iterator[Trial]:
    """All architectures in random order, each as likely as the others."""
    order = list(table.inside)
    random.Random(number).shuffle(order)
    for key in order:
        curve = table.curves[key, seed]
        yield Trial(key, table.epochs, curve[-1] if curve else None)


Encoding = Callable[[ResolvedSpace, optuna.Trial], Architecture]


def conditional(space: ResolvedSpace, trial: optuna.Trial) -> Architecture:
    """Our own questions: which stages, then the block of each, then its options."""
    return space.sample(trial.suggest_categorical)


def slots(space: ResolvedSpace, trial: optuna.Trial) -> Architecture:
    """As one would write it without us: for each block that may stand a stage, or none, and one of all settings."""
    (backbone,) = space.sites
    offered: dict[int, list[Placement]] = {each[0].stage: each for each in space.by_stage(backbone)}
    placed: dict[int, Placement] = {}
    for slot in range(space.most(backbone)):
        stage = trial.suggest_categorical(f"stage of block {slot}", [NONE, *map(str, offered)])
        choices = len(next(iter(offered.values())))
        setting = trial.suggest_categorical(f"setting of block {slot}", list(range(choices)))
        if stage != NONE:
            placed.setdefault(int(stage), offered[int(stage)][setting])
    return Architecture(backbone=backbone, placements=tuple(placed.values()))


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "tpe multivariate": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
"""Optuna's samplers as they come."""


def plain(sampler: str, encoding: Encoding) -> Searcher:
    """Return a plain Optuna search with two objectives. What it asks for twice is trained twice, with equal results."""

    def search(table: Table, seed: int, number: int) -> Iterator[Trial]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=SAMPLERS[sampler](number))
        seen: set[str] = set()
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = study.ask()
                key = encoding(table.space, trial).id
            curve = table.curves[key, seed]
            if curve:
                study.tell(trial, [curve[-1], table.ratios[key]])
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            again = key in seen
            seen.add(key)
            yield Trial(key, table.epochs, curve[-1] if curve else None, duplicate=again)

    return search

"""Search the table instead of a machine: a training is looked up, and costs its epochs all the same."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from attnbench.space import SPACE
from attnbench.table import PACKED, Header, Part, read

from nas.architecture import NONE, Architecture, Placement
from nas.front import Point, non_dominated
from nas.rungs import FEWEST, Rungs, Training, judge
from nas.space import ResolvedSpace
from nas.study.sampler import Known, Proposal, goes_on, propose, resolve_sampler


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
        needed = {*self.inside, *self.controls}
        missing = [key for key in needed if key not in known or key not in self.ratios]
        if missing:
            raise ValueError(f"the table lacks {len(missing)} of {len(needed)} architectures, the controls included")
        every = sorted({seed for _, seed in self.curves})
        self.seeds = [seed for seed in every if all((key, seed) in self.curves for key in needed)]
        """Seeds with which every architecture was trained, and every control."""

    @classmethod
    def load(cls, path: Path = PACKED) -> Table:
        """Read the packed table."""
        return cls(read(path), resolve())

    def truth(self, architecture: str, seed: int) -> Point:
        """Return what one is worth to a search that saw one seed: test accuracy with the others, and ratio."""
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
    """Validation accuracy at the end; None where it was stopped or failed."""
    stopped: bool = False
    """Whether it was stopped at a rung."""
    duplicate: bool = False
    """Whether the search had trained it before."""
    resumed: bool = False
    """Whether it went on with one that was stopped: it cost the rest alone."""


Searcher = Callable[[Table, int, int], Iterator[Trial]]
"""From a table, the seed of the trainings and that of the search to the trials, as long as there are any left."""


@dataclass(frozen=True)
class Coin:
    """Stops by chance, whatever the curve says: what rungs are held against."""

    rung: int
    """Epoch after which it stops."""
    share: float
    """How often."""


def ours(sampler: str = "auto", rungs: Rungs | None = None, coin: Coin | None = None) -> Searcher:
    """Return our search: its proposals, its controls first, its rungs.

    Args:
        sampler: As ``--sampler``.
        rungs: As ``--rungs`` and ``--risk``; None for none. What is taken up again costs the rest alone.
        coin: What stops instead of rungs.
    """
    by_model = rungs is not None and resolve_sampler(sampler) == "additive"

    def search(table: Table, seed: int, number: int) -> Iterator[Trial]:
        known: list[Known] = []
        whole: list[Training] = []
        paid: dict[str, int] = {}
        generator = random.Random(number)
        while True:
            proposal = propose(table.space, known, sampler=sampler, seed=number)
            if proposal is None:
                return
            key = proposal.architecture.id
            training = Training(ratio=table.ratios[key], curve=table.curves[key, seed])
            stopped = None
            if training.curve and not proposal.control and not proposal.resumes:
                if coin is not None and len(whole) >= FEWEST and generator.random() < coin.share:
                    stopped = coin.rung
                elif by_model:
                    begun = _entry(proposal, table, training.curve[: rungs.epochs[0]], whole=False)
                    if not goes_on(table.space, [*known, begun], key, seed=number):
                        stopped = rungs.epochs[0]
                elif rungs is not None:
                    stopped = _stopped(training, whole, rungs, table)
            if training.curve and stopped is None:
                whole.append(training)
            known.append(_entry(proposal, table, training.curve[:stopped], whole=stopped is None))
            before, paid[key] = paid.get(key, 0), stopped or table.epochs
            accuracy = training.curve[-1] if training.curve and stopped is None else None
            yield Trial(key, paid[key] - before, accuracy, stopped=stopped is not None, resumed=proposal.resumes)

    return search


def _entry(proposal: Proposal, table: Table, curve: Sequence[float], *, whole: bool) -> Known:
    """Return what is known of what was proposed once it has a curve, of a whole training or not; none if it failed."""
    nominal = table.nominal[proposal.architecture.id]
    return Known(
        id=proposal.architecture.id,
        params=proposal.params,
        values=(curve[-1], nominal) if curve and whole else None,
        nominal_ms=nominal if curve and not whole else None,
        curve=curve,
    )


def _stopped(training: Training, whole: Sequence[Training], rungs: Rungs, table: Table) -> int | None:
    """Return the rung at which a training is stopped, None if it is not."""
    for rung in rungs.epochs:
        begun = Training(ratio=training.ratio, curve=training.curve[:rung])
        if judge(begun, whole, rungs, epochs=table.epochs, images=table.images["val"]) is not None:
            return rung
    return None


def uniform(table: Table, seed: int, number: int) -> Iterator[Trial]:
    """All architectures in random order, each as likely as the others."""
    order = list(table.inside)
    random.Random(number).shuffle(order)
    for key in order:
        curve = table.curves[key, seed]
        yield Trial(key, table.epochs, curve[-1] if curve else None)


optuna.logging.set_verbosity(optuna.logging.ERROR)  # each proposal of one of its samplers takes a study of its own

Encoding = Callable[[ResolvedSpace, optuna.Trial], Architecture]


def conditional(space: ResolvedSpace, trial: optuna.Trial) -> Architecture:
    """Our own questions: which stages, then the block of each, then its options."""
    return space.sample(trial.suggest_categorical)


def slots(space: ResolvedSpace, trial: optuna.Trial) -> Architecture:
    """As one would write it without us: for each block that may stand a stage, or none, and one of all settings."""
    (backbone,) = space.sites
    offered: dict[int, list[Placement]] = {each[0].stage: each for each in space.by_stage(backbone)}
    if len({len(each) for each in offered.values()}) > 1:
        raise ValueError("slots need as many settings at each stage as at the others")
    placed: dict[int, Placement] = {}
    for slot in range(space.most(backbone)):
        stage = trial.suggest_categorical(f"stage of block {slot}", [NONE, *map(str, offered)])
        choices = len(next(iter(offered.values())))
        setting = trial.suggest_categorical(f"setting of block {slot}", list(range(choices)))
        if stage != NONE:
            placed.setdefault(int(stage), offered[int(stage)][setting])
    return Architecture(backbone=backbone, placements=tuple(placed.values()))


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "tpe multivariate": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
"""Optuna's samplers as they come; but for NSGA-II, whose usual population of 50 is a random one all the time."""


def plain(sampler: str, encoding: Encoding) -> Searcher:
    """Return a plain Optuna search with two objectives. What it asks for twice is trained twice, with equal results."""

    def search(table: Table, seed: int, number: int) -> Iterator[Trial]:
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

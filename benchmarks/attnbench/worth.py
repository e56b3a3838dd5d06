"""What searches on a table are worth: of what they would hand over, by trainings that they did not see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from attnbench.replay import Searcher, Table, Trial
from numpy.typing import NDArray
from scipy import stats

from nas.front import Point, dominated_area, non_dominated

COST = 50
"""Full trainings after which searches are compared."""
LONGEST = 400
"""Full trainings after which random search is given up: the cost at which it reaches ours is then beyond that."""
ENDLESS = 4
"""So many times the cost in trials, a search that keeps training the same is given up."""
LIMITS = 100
"""So many limits of latency the regret is the mean over."""
Floats = NDArray[np.float64]


class Judge:
    """What a search is worth that saw one seed."""

    def __init__(self, table: Table, seed: int) -> None:
        """Look up the truth, which is what the other seeds say.

        Raises:
            ValueError: If nothing is better than the bare backbone.
        """
        self._truth = {key: table.truth(key, seed) for key in table.inside}
        self._ratios = table.ratios
        self._bare = table.bare
        bare = table.curves[table.bare, seed]
        self._everybody = {table.bare: bare[-1]} if bare else {}
        front = [self._truth[key] for key in table.front(seed)]
        self.reference = (self._truth[table.bare][0], front[-1][1])
        self._whole = dominated_area(front, self.reference)
        if self._whole <= 0:
            raise ValueError("nothing in the table is better than the bare backbone: there is nothing to find")
        self._limits = np.linspace(1.0, front[-1][1], LIMITS)
        fastest = front[0][1]
        self._best = np.array([max(a for a, ratio in front if ratio <= max(limit, fastest)) for limit in self._limits])

    def __call__(self, seen: dict[str, float]) -> tuple[float, float]:
        """Return area and regret of what is handed over, of the validation accuracies that were seen."""
        known = self._everybody | {key: accuracy for key, accuracy in seen.items() if key in self._truth}
        flags = non_dominated([(accuracy, self._ratios[key]) for key, accuracy in known.items()])
        handed = [key for key, on in zip(known, flags, strict=True) if on] or [self._bare]
        area = dominated_area([self._truth[key] for key in handed], self.reference) / self._whole
        order = sorted(handed, key=self._ratios.__getitem__)
        ratios = np.array([self._ratios[key] for key in order])
        accuracies = np.array([self._truth[key][0] for key in order])
        # Of those within a limit the slowest is the best by looks: they are a front.
        chosen = np.maximum(np.searchsorted(ratios, self._limits, side="right") - 1, 0)
        return area, float(100 * (self._best - accuracies[chosen]).mean())


@dataclass
class Searches:
    """Many searches of one kind: area and regret after each trial, against the epochs that were spent."""

    name: str
    spent: list[Floats]
    """Epochs after each trial, of each search."""
    distinct: list[Floats]
    """The same without trainings that the search had done before, as if it had kept them."""
    area: list[Floats]
    regret: list[Floats]
    trials: list[list[Trial]]
    seeds: list[int]
    """The seed that each search saw."""

    def at(self, epochs: float, what: str = "area", *, again_is_free: bool = False) -> Floats:
        """Return the figure of each search at a cost; 0 of the area, nan of the regret, before the first trial."""
        found = []
        for spent, values in zip(self.distinct if again_is_free else self.spent, getattr(self, what), strict=True):
            paid = int(np.searchsorted(spent, epochs, side="right"))
            found.append(values[paid - 1] if paid else (0.0 if what == "area" else math.nan))
        return np.array(found)

    def within(self, epochs: float) -> list[list[Trial]]:
        """Return the trials that each search has paid for at a cost."""
        pairs = zip(self.trials, self.spent, strict=True)
        return [row[: int(np.searchsorted(spent, epochs, side="right"))] for row, spent in pairs]

    def duplicates(self, epochs: float) -> float:
        """Return how many trials of a search trained again what it had trained before, at a cost, in the mean."""
        pairs = zip(self.trials, self.spent, strict=True)
        found = [
            sum(trial.duplicate for trial in row[: np.searchsorted(spent, epochs, "right")]) for row, spent in pairs
        ]
        return sum(found) / len(found)


def replay(
    table: Table, name: str, searcher: Searcher, searches: int, first: int, cost: int, distinct: int = 0
) -> Searches:
    """Run searches until each has spent as much as so many full trainings, and so many without those done again."""
    judges = {seed: Judge(table, seed) for seed in table.seeds}
    result = Searches(name, [], [], [], [], [], [])
    for number in range(first, first + searches):
        seed = table.seeds[number % len(table.seeds)]
        seen: dict[str, float] = {}
        trials: list[Trial] = []
        figures: list[tuple[float, float, float, float]] = []
        spent = new = 0
        for trial in searcher(table, seed, number):
            spent += trial.epochs
            new += 0 if trial.duplicate else trial.epochs
            if spent > cost * table.epochs and (new > distinct * table.epochs or len(trials) >= ENDLESS * cost):
                break
            trials.append(trial)
            if trial.accuracy is not None:
                seen[trial.architecture] = trial.accuracy
            figures.append((spent, new, *(judges[seed](seen) if seen else (0.0, math.nan))))
        for column, values in zip(
            (result.spent, result.distinct, result.area, result.regret), np.array(figures).T, strict=True
        ):
            column.append(values)
        result.trials.append(trials)
        result.seeds.append(seed)
    return result


def joined(parts: Sequence[Searches]) -> Searches:
    """Return searches of one kind that were run in parts."""
    columns = ("spent", "distinct", "area", "regret", "trials", "seeds")
    return Searches(parts[0].name, *([each for part in parts for each in getattr(part, name)] for name in columns))


def entering(trials: Sequence[Trial], ratios: Mapping[str, float]) -> list[bool]:
    """Tell of each trial whether it was on the front of its search when it ended."""
    found: list[bool] = []
    ended: list[Point] = []
    for trial in trials:
        point = (-1.0 if trial.accuracy is None else trial.accuracy, ratios[trial.architecture])
        found.append(all(non_dominated([point, other])[0] for other in ended) and trial.accuracy is not None)
        ended.append(point)
    return found


def wrong_stops(table: Table, trials: Sequence[Trial], seed: int, own: bool) -> tuple[int, int, int]:
    """Return how many of a search's architectures stayed stopped, how many are on a front, and how many are both.

    Args:
        table: The table.
        trials: The trials.
        seed: The seed that the search saw.
        own: Whether it is the front that the search itself would have had, had it stopped nothing; else the true one.
    """
    stayed = {trial.architecture: trial.stopped for trial in trials}  # the last one says
    keys = list(stayed)
    if own:
        ends = [(table.curves[key, seed][-1:] or (-1.0,))[0] for key in keys]
        flags = non_dominated([(end, table.ratios[key]) for end, key in zip(ends, keys, strict=True)])
    else:
        front = set(table.front(seed))
        flags = [key in front for key in keys]
    stopped = list(stayed.values())
    return sum(stopped), sum(flags), sum(a and b for a, b in zip(stopped, flags, strict=True))


def interval(values: Floats) -> tuple[float, float]:
    """Return mean and half width of its 95 % interval, by Student's t."""
    if len(values) < 2:
        return float(values.mean()), math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1)) * error


def words(values: Floats, digits: int = 3) -> str:
    """Return mean and half width of the interval in words."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} +- {half:.{digits}f}"


def cost_factor(
    mine: Searches, other: Searches, epochs: int, cost: int = COST, draws: int = 300, longest: int = LONGEST
) -> tuple[float, float, float]:
    """Return how much more another search costs to reach our mean area at a cost for the first time, with its interval.

    The interval is that of the bootstrap over the searches of both, 95 %. Both means are noisy, and the first of many
    costs at which one passes the other comes early for that alone: :func:`cost_factor` of searches and themselves, or
    others like them, says by how much.
    """
    ours_now, generator = mine.at(cost * epochs), np.random.default_rng(0)
    curves = np.array([other.at(paid * epochs) for paid in range(1, longest + 1)])

    def factor(level: float, mean: Floats) -> float:
        above = np.flatnonzero(mean >= level)
        return (above[0] + 1) / cost if len(above) else math.inf

    found = []
    for _ in range(draws):
        level = generator.choice(ours_now, len(ours_now)).mean()
        found.append(factor(level, curves[:, generator.integers(curves.shape[1], size=curves.shape[1])].mean(axis=1)))
    low, high = np.quantile(found, (0.025, 0.975), method="nearest")
    return factor(ours_now.mean(), curves.mean(axis=1)), float(low), float(high)

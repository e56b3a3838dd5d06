"""Is the search better than random, and than plain Optuna? Whole searches, replayed on a table of trainings.

    python benchmarks/search.py                        # all, 50 searches each
    python benchmarks/search.py --searches 10 --only ours,uniform
    python benchmarks/search.py --rungs 1,3 --risk 0.3 # other rungs than the usual ones
    python benchmarks/search.py --plot search.html

Every search sees the validation accuracies of one seed, as a real one does. It is judged by what it would hand over: by
those accuracies the front of what it has trained to the end and of the bare backbone, which everybody knows. Of these
architectures the truth counts: the test accuracy with the seeds that the search did not see, and the latency. Controls
that the space lacks are paid for, and left out: no other search could find them.

area    what the handed-over architectures dominate beyond the bare backbone's accuracy, up to the latency of the
        slowest on the true front, as a share of what the true front dominates there
regret  by how much what looks best of these within a limit of latency is less accurate than the best of the space
        within it, in percentage points: the mean over a hundred limits from the bare backbone's latency to that one

Ranges are 95 % intervals of the mean over the searches; the half of them that sees one seed is judged by the other.
Cost is in epochs, and told in full trainings; a figure at a cost is that of the last trial that was paid for by then.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from attnbench.replay import Coin, Searcher, Table, Trial, conditional, ours, plain, slots, uniform
from numpy.typing import NDArray
from scipy import stats

from nas.front import dominated_area, non_dominated
from nas.rungs import FEWEST, RISK, Rungs, usual

COST = 50
"""Full trainings after which searches are compared."""
LONGEST = 400
"""Full trainings after which random search is given up: the cost at which it reaches ours is then beyond that."""
PATIENT = ("random", "uniform")
"""How the names begin of the searches that go on for so long."""
LIMITS = 100
Floats = NDArray[np.float64]


class Judge:
    """What a search is worth that saw one seed."""

    def __init__(self, table: Table, seed: int) -> None:
        self._truth = {key: table.truth(key, seed) for key in table.inside}
        self._ratios = table.ratios
        self._bare = table.bare
        bare = table.curves[table.bare, seed]
        self._everybody = {table.bare: bare[-1]} if bare else {}
        front = [self._truth[key] for key in table.front(seed)]
        self.reference = (self._truth[table.bare][0], front[-1][1])
        self._whole = dominated_area(front, self.reference)
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
    area: list[Floats]
    regret: list[Floats]
    trials: list[list[Trial]]
    seeds: list[int]
    """The seed that each search saw."""

    def at(self, epochs: float, what: str = "area") -> Floats:
        """Return the figure of each search at a cost; 0 of the area, nan of the regret, before the first trial."""
        found = []
        for spent, values in zip(self.spent, getattr(self, what), strict=True):
            paid = int(np.searchsorted(spent, epochs, side="right"))
            found.append(values[paid - 1] if paid else (0.0 if what == "area" else math.nan))
        return np.array(found)

    def after(self, trials: int, what: str = "area") -> Floats:
        """Return the figure of each search after so many trials."""
        return np.array([values[min(trials, len(values)) - 1] for values in getattr(self, what)])

    @property
    def duplicates(self) -> int:
        return sum(trial.duplicate for trials in self.trials for trial in trials)


def replay(table: Table, name: str, searcher: Searcher, searches: int, first: int, cost: int) -> Searches:
    """Run searches until each has spent as much as so many full trainings."""
    judges = {seed: Judge(table, seed) for seed in table.seeds}
    result = Searches(name, [], [], [], [], [])
    for number in range(first, first + searches):
        seed = table.seeds[number % len(table.seeds)]
        seen: dict[str, float] = {}
        trials: list[Trial] = []
        figures: list[tuple[float, float, float]] = []
        spent = 0
        for trial in searcher(table, seed, number):
            spent += trial.epochs
            if spent > cost * table.epochs:
                break
            trials.append(trial)
            if trial.accuracy is not None:
                seen[trial.architecture] = trial.accuracy
            figures.append((spent, *(judges[seed](seen) if seen else (0.0, math.nan))))
        columns = np.array(figures).T
        result.spent.append(columns[0])
        result.area.append(columns[1])
        result.regret.append(columns[2])
        result.trials.append(trials)
        result.seeds.append(seed)
    return result


def interval(values: Floats) -> tuple[float, float]:
    """Return mean and half width of its 95 % interval, by Student's t."""
    if len(values) < 2:
        return float(values.mean()), math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1)) * error


def words(values: Floats, digits: int = 3) -> str:
    mean, half = interval(values)
    return f"{mean:.{digits}f} +- {half:.{digits}f}"


def cost_factor(mine: Searches, other: Searches, epochs: int, draws: int = 300) -> tuple[float, float, float]:
    """Return how much more another search costs to reach our area at :data:`COST`, with its 95 % interval.

    The interval is that of the bootstrap over the searches of both.
    """
    ours_now, generator = mine.at(COST * epochs), np.random.default_rng(0)
    curves = np.array([other.at(cost * epochs) for cost in range(1, LONGEST + 1)])

    def factor(level: float, mean: Floats) -> float:
        above = np.flatnonzero(mean >= level)
        return (above[0] + 1) / COST if len(above) else math.inf

    found = []
    for _ in range(draws):
        level = generator.choice(ours_now, len(ours_now)).mean()
        found.append(factor(level, curves[:, generator.integers(curves.shape[1], size=curves.shape[1])].mean(axis=1)))
    low, high = np.quantile(found, (0.025, 0.975), method="nearest")
    return factor(ours_now.mean(), curves.mean(axis=1)), float(low), float(high)


def print_comparison(found: Sequence[Searches], epochs: int) -> None:
    costs = (10, 20, COST, 100)
    shown = "".join(f"{f'area at {cost}':>18}" for cost in costs)
    print(f"{'search':<28}{shown}{f'regret at {COST}':>18}{'duplicates':>12}")
    for each in found:
        shown = [words(each.at(cost * epochs)) if cost <= longest(each.name) else "-" for cost in costs]
        areas = "".join(f"{figure:>18}" for figure in shown)
        print(f"{each.name:<28}{areas}{words(each.at(COST * epochs, 'regret'), 2):>18}{each.duplicates:>12}")


def print_factors(found: Sequence[Searches], epochs: int) -> None:
    mine = found[0]
    for each in found[1:]:
        if longest(each.name) == LONGEST:
            factor, low, high = cost_factor(mine, each, epochs)
            print(
                f"{each.name} reaches the area of {mine.name} at {COST} trainings at {factor:.2f} [{low:.2f}, "
                f"{high:.2f}] times the cost (inf: not within {LONGEST} trainings)"
            )


def print_rungs(table: Table, plain_ours: Searches, ruled: Sequence[Searches]) -> None:
    """Say what rungs save and what they cost: searches of the same seeds, with as many trials."""
    print(f"\n{'rungs':<28}{'epochs':>8}{'stopped':>9}{'area, difference':>20}{'wrong stops':>13}{'front lost':>12}")
    whole = plain_ours.after(COST)
    for each in ruled:
        trials = [row[:COST] for row in each.trials]
        share = np.mean([sum(trial.epochs for trial in row) / (table.epochs * len(row)) for row in trials])
        stopped = np.mean([sum(trial.stopped for trial in row) / len(row) for row in trials])
        wrong, lost = _wrong(table, trials, each.seeds)
        gap = words(each.after(COST) - whole)
        print(f"{each.name:<28}{share:>8.3f}{stopped:>9.3f}{gap:>20}{wrong:>13.3f}{lost:>12.3f}")
    print(
        f"of {COST} trials each, against the same searches without rungs. wrong stops: share of the stopped\n"
        "that is on the true front; front lost: share of the true front's members that came up and were stopped"
    )


def _wrong(table: Table, searches: Sequence[Sequence[Trial]], seeds: Sequence[int]) -> tuple[float, float]:
    """Return the share of the stopped that are on the true front, and of the front's members that were stopped."""
    fronts = {seed: set(table.front(seed)) for seed in table.seeds}
    stopped = members = both = 0
    for seed, trials in zip(seeds, searches, strict=True):
        front = fronts[seed]
        stopped += sum(trial.stopped for trial in trials)
        members += sum(trial.architecture in front for trial in trials)
        both += sum(trial.stopped and trial.architecture in front for trial in trials)
    return both / max(1, stopped), both / max(1, members)


def kinds(rungs: Rungs) -> dict[str, Searcher]:
    """Return all kinds of searches; the first is ours as it comes."""
    found: dict[str, Searcher] = {
        "ours": ours(),
        "uniform random": uniform,
        "random (stages first)": ours("random"),
        "ours with rungs": ours(rungs=rungs),
        "random with rungs": ours("random", rungs=rungs),
    }
    for sampler in ("tpe", "tpe multivariate", "nsga2", "gp"):
        found[f"plain {sampler}, slots"] = plain(sampler, slots)
        found[f"plain {sampler}, conditional"] = plain(sampler, conditional)
    return found


def longest(name: str) -> int:
    """Return the cost, in full trainings, that is replayed of a kind of search."""
    if "rungs" in name:
        return COST
    return LONGEST if name.startswith(PATIENT) else 2 * COST


def coin_like(ruled: Searches) -> Coin:
    """Return a coin that stops as often, at the rung that stopped most."""
    trials = [trial for row in ruled.trials for trial in row[FEWEST:COST]]
    rungs = [trial.epochs for trial in trials if trial.stopped]
    return Coin(rung=max(set(rungs), key=rungs.count) if rungs else 1, share=len(rungs) / max(1, len(trials)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=50, help="searches of each kind (default: 50)")
    parser.add_argument("--first", type=int, default=1000, help="seed of the first search (default: 1000)")
    parser.add_argument("--only", help="kinds that begin with one of these words, with commas between them")
    parser.add_argument("--rungs", help="epochs, with commas between them (default: the usual ones)")
    parser.add_argument("--risk", type=float, default=RISK)
    parser.add_argument("--table", type=Path, help="packed table (default: the one that comes along)")
    parser.add_argument("--plot", type=Path, help="write area and regret against cost as a page")
    arguments = parser.parse_args()
    try:
        table = Table.load(*([arguments.table] if arguments.table else []))
    except (OSError, ValueError) as error:
        sys.exit(f"search.py: {error}")
    if len(table.seeds) < 2:
        sys.exit("the table needs two seeds: one that a search sees, one that judges it")
    epochs = tuple(int(word) for word in arguments.rungs.split(",")) if arguments.rungs else usual(table.epochs)
    rungs = Rungs(epochs=epochs, risk=arguments.risk)
    rungs.check(table.epochs)
    print(
        f"{len(table.inside)} architectures, seeds {table.seeds}, {table.epochs} epochs; "
        f"{arguments.searches} searches of each kind, from seed {arguments.first}\n"
    )
    found: list[Searches] = []
    chosen = tuple(arguments.only.split(",")) if arguments.only else ("",)
    for name, searcher in kinds(rungs).items():
        if name.startswith(chosen):
            found.append(replay(table, name, searcher, arguments.searches, arguments.first, longest(name)))
            print(f"{name}: {words(found[-1].at(COST * table.epochs))} at {COST}", file=sys.stderr, flush=True)
    if not found:
        parser.error(f"--only must be beginnings of: {'; '.join(kinds(rungs))}")
    print_comparison(found, table.epochs)
    if found[0].name == "ours":
        print()
        print_factors(found, table.epochs)
        ruled = [each for each in found if each.name == "ours with rungs"]
        if ruled:
            chance = replay(
                table, "ours with a coin", ours(coin=coin_like(ruled[0])), arguments.searches, arguments.first, COST
            )
            print_rungs(table, found[0], [*ruled, chance])
    if arguments.plot:
        plot(found, table.epochs, arguments.plot)


def plot(found: Sequence[Searches], epochs: int, path: Path) -> None:
    """Draw area and regret against cost, each with the 95 % interval of the mean."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, subplot_titles=("area, share of the true front's", "regret, points"))
    colours = ("#0072B2", "#000000", "#9A9A9A", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7")
    costs = np.arange(1, 101)
    for number, each in enumerate(found):
        colour = colours[number % len(colours)]
        dash = "solid" if number < len(colours) else "dot"
        for column, what in enumerate(("area", "regret"), 1):
            rows = [interval(each.at(cost * epochs, what)) for cost in costs]
            mean, half = np.array(rows).T
            style = {"x": costs, "legendgroup": each.name, "mode": "lines"}
            line = {"color": colour, "dash": dash, "width": 2}
            figure.add_trace(
                go.Scatter(**style, y=mean, line=line, name=each.name, showlegend=column == 1), row=1, col=column
            )
            band = {"color": colour, "width": 0}
            figure.add_trace(
                go.Scatter(**style, y=mean - half, line=band, showlegend=False, hoverinfo="skip"), row=1, col=column
            )
            red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
            fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.12)"}
            figure.add_trace(
                go.Scatter(**style, y=mean + half, line=band, showlegend=False, hoverinfo="skip", **fill),
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="cost, full trainings")
    figure.update_layout(template="plotly_white", width=1200, height=520, legend={"orientation": "h", "y": -0.2})
    figure.write_html(path, include_plotlyjs=True)


if __name__ == "__main__":
    main()

"""Do the effect map's intervals hold what they should, and is it closer to the truth than what is simpler?

    python benchmarks/effects.py                 # made-up studies, whose truth is known: some minutes
    python benchmarks/effects.py --table         # searches on the table of trained architectures (benchmarks/attnbench)

A made-up study is 10 blocks with options on 4 stages, searched at random or by changing what was best so far, with 400
validation images and a standard deviation of 1 point between seeds. Its truth is a sum in log-odds, a sum in accuracy,
or saturates and has interactions. Printed are how often the 95 % intervals hold the truth - what the block alone does
to the bare backbone - their median width, and the root mean square error of the effects over that of ordinary least
squares on the same rows (cells as dummies; of all solutions the shortest) and over that of marginal means (rows with
the cell minus rows without). "Pairs" are the intervals of the mean over matched pairs, held against the true one.

On the table nothing is made up: a search sees one seed on the validation images, and the truth is the other seed on the
test images. That has noise of its own, so it is also told how often intervals hold it that are widened by as much. The
true latencies are least squares over all of the table, as one timing alone is off by some points.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from nas.architecture import Architecture, Placement
from nas.effects import EffectMap, effects
from nas.evaluation import wilson_interval
from nas.front import BARE, Row
from nas.likeness import Floats, tried

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from made_studies import SEARCHES, TRUTHS, Truth, alone, least_squares, marginal, study, true_pairs

if TYPE_CHECKING:
    from attnbench.replay import Table

BETWEEN_SEEDS = 0.025
"""Standard deviation of the test accuracy between seeds on the table, see its README."""


@dataclasses.dataclass
class Tally:
    """Errors, coverage and widths of many cells, of one figure."""

    errors: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    held: list[bool] = dataclasses.field(default_factory=list)
    widths: list[float] = dataclasses.field(default_factory=list)
    paired: list[bool] = dataclasses.field(default_factory=list)
    ranks: list[float] = dataclasses.field(default_factory=list)

    def add(self, rows: Sequence[Row], found: EffectMap, what: str, true: Floats) -> None:
        """Add the cells of one study: ``true`` are their effects, in the order of the map."""
        estimates = [getattr(each, what) for each in found.effects]
        values = np.array([row.accuracy if what == "accuracy" else row.latency_ratio for row in rows])
        for name, guess in (
            ("map", np.array([each.value for each in estimates])),
            ("least squares", least_squares(rows, values)),
            ("marginal means", marginal(rows, values)),
        ):
            self.errors.setdefault(name, []).extend(guess - true)
        self.held += [each.low <= one <= each.high for each, one in zip(estimates, true, strict=True)]
        self.widths += [each.high - each.low for each in estimates]
        if len(true) > 2:
            self.ranks.append(float(stats.spearmanr([each.value for each in estimates], true).statistic))

    def rmse(self, name: str) -> float:
        return float(np.mean(np.square(self.errors[name]))) ** 0.5

    def words(self) -> str:
        mine, plain, means = (self.rmse(name) for name in ("map", "least squares", "marginal means"))
        pairs = f", pairs hold {np.mean(self.paired):.1%}" if self.paired else ""
        return (
            f"holds {np.mean(self.held):.1%} of {len(self.held)}, width {100 * np.median(self.widths):.1f}, "
            f"rmse {100 * mine:.2f} points = {mine / plain:.2f} of least squares, {mine / means:.2f} of marginal means"
            f", rank correlation {np.mean(self.ranks):.2f}{pairs}"
        )


def simulated(kind: str, search: str, count: int, studies: int, known_seeds: bool = True) -> tuple[Tally, Tally]:
    """Return accuracy and latency of made-up studies."""
    accuracy, latency = Tally(), Tally()
    for number in range(studies):
        truth = Truth(kind, number)
        rows = study(truth, search, count, number, known_seeds)
        found = effects(rows)
        gains, costs = alone(rows, truth)
        accuracy.add(rows, found, "accuracy", gains)
        latency.add(rows, found, "latency", costs)
        for what, tally, figure in (("pair_accuracy", accuracy, 0), ("pair_latency", latency, 1)):
            for cell, differences in true_pairs(rows, truth, figure).items():
                estimate = next(getattr(e, what) for e in found.effects if (e.stage, e.block, e.position) == cell)
                tally.paired.append(estimate.low <= np.mean(differences) <= estimate.high)
    return accuracy, latency


def table(counts: Sequence[int], searches: int) -> None:
    """Print how close the map of searches on the table of trained architectures is to the table.

    Of the truth's noise the cells of a search share that of the bare backbone.
    """
    from attnbench.replay import Table, ours, uniform
    from attnbench.table import PACKED, read

    part, known = read(PACKED), Table.load()
    costs = _costs(known)
    timed = {row.architecture: row.ratio for row in part.rows if row.ratio}
    everything = [*known.space.enumerate(), *(each.architecture for each in known.space.controls())]
    by_id = {one.id: one for one in everything}
    for name, searcher in (("uniform random", uniform), ("ours", ours())):
        tallies = {count: (Tally(), Tally(), Tally()) for count in counts}
        for number in range(searches):
            seed = known.seeds[number % len(known.seeds)]
            other = next(each for each in known.seeds if each != seed)
            seen, told = {known.bare: known.curves[known.bare, seed][-1]}, 0
            for trial in searcher(known, seed, number):
                if trial.accuracy is not None:
                    seen.setdefault(trial.architecture, trial.accuracy)
                if len(seen) > max(counts):
                    break
                if len(seen) in counts and len(seen) > told:
                    told = len(seen)
                    rows = [
                        _row(i, by_id[key], share, timed[key], known) for i, (key, share) in enumerate(seen.items())
                    ]
                    _judge(rows, known, other, costs, tallies[len(seen)])
        for count, (accuracy, wide, latency) in tallies.items():
            print(f"{name}, {count} rows")
            print(f"    accuracy {accuracy.words()}; widened by the truth's noise holds {np.mean(wide.held):.1%}")
            print(f"    latency  {latency.words()}", flush=True)


def _row(number: int, one: Architecture, share: float, ratio: Sequence[float], known: Table) -> Row:
    low, high = wilson_interval(share, known.images["val"])
    return Row(
        trial=number,
        architecture=one,
        control="" if one.placements else BARE,
        accuracy=share,
        accuracy_low=low,
        accuracy_high=high,
        latency_ms=ratio[0],
        latency_ratio=ratio[0],
        ratio_low=ratio[1],
        ratio_high=ratio[2],
        parameters=1,
        macs=1,
    )


def _costs(known: Table) -> dict[Placement, float]:
    """Return what each placement takes, by least squares over the table: one timing alone is off by some points."""
    everything = list(known.space.enumerate())
    index = {placement: number for number, placement in enumerate({p: None for a in everything for p in a.placements})}
    holds = np.zeros((len(everything), len(index) + 1))
    for row, one in zip(holds, everything, strict=True):
        row[[index[placement] for placement in one.placements]] = 1
        row[-1] = len(one.placements) == 2  # two share something
    extra = np.array([known.ratios[one.id] - 1 for one in everything])
    found = np.linalg.lstsq(holds, extra, rcond=None)[0]
    return {placement: float(found[number]) for placement, number in index.items()}


def _judge(
    rows: Sequence[Row], known: Table, seed: int, truth: dict[Placement, float], tallies: tuple[Tally, Tally, Tally]
) -> None:
    found = effects(rows)
    accuracy, wide, latency = tallies
    images, between = known.images["test"], BETWEEN_SEEDS**2
    bare = known.tests[known.bare, seed]
    gains, errors, costs = [], [], []
    for placements in tried([row.architecture for row in rows]).values():
        keys = [dataclasses.replace(rows[0].architecture, placements=(each,)).id for each in placements]
        if any(key not in known.ratios for key in keys):  # a setting that only a control has
            keys = [key for key in keys if key in known.ratios] or [known.bare]
        share = float(np.mean([known.tests[key, seed] for key in keys]))
        gains.append(share - bare)
        costs.append(float(np.mean([truth[each] for each in placements if each in truth])))
        noise = (share * (1 - share) / images + between) / len(keys) + bare * (1 - bare) / images + between
        errors.append(1.96 * noise**0.5)
    accuracy.add(rows, found, "accuracy", np.array(gains))
    latency.add(rows, found, "latency", np.array(costs))
    for each, gain, error in zip(found.effects, gains, errors, strict=True):
        a = each.accuracy
        low, high = a.value - np.hypot(a.value - a.low, error), a.value + np.hypot(a.high - a.value, error)
        wide.held.append(low <= gain <= high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=40, metavar="N", help="studies of each kind (default: 40)")
    parser.add_argument("--rows", type=int, nargs="+", default=[25, 60, 150], metavar="N", help="finished trials")
    parser.add_argument("--table", action="store_true", help="the table of trained architectures instead")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    if arguments.table:
        table(arguments.rows, arguments.studies)
    else:
        for kind in TRUTHS:
            for search in SEARCHES:
                for count in arguments.rows:
                    for known in (True, False):
                        found = simulated(kind, search, count, arguments.studies, known)
                        print(f"{kind}, {search}, {count} rows, noise of seeds {'known' if known else 'unknown'}")
                        for name, tally in zip(("accuracy", "latency"), found, strict=True):
                            print(f"    {name:9}{tally.words()}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

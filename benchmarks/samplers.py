"""Which sampler finds most of the front, on spaces whose every accuracy is known? Nothing is trained.

    python benchmarks/samplers.py                                   # random, additive; 10 worlds, 50 trials
    python benchmarks/samplers.py --samplers random,additive,gp --budget 30,50
    python benchmarks/samplers.py --effects 0.3 --interactions 3    # hardly anything adds up
    python benchmarks/samplers.py --noise 0.02                      # the training seed as loud as the blocks
    python benchmarks/samplers.py --times 50,200,1000               # how long a proposal takes instead

A world draws effects of the blocks, of the stages, of blocks at stages and of option values, and what each pair of
placed blocks does to each other; the accuracy is bent, so that more brings less and less. Latencies add up. The
sampler is told accuracies with noise and exact latencies. Printed is the area that is dominated, as a share of what a
long search with the true figures dominates: of the trials that look like a front by their noisy accuracies, valued at
their true ones; and of all trials. Ranges are standard errors over the worlds; all samplers see the same worlds.

With ``--times``: milliseconds of CPU time that a proposal takes (the median of a few, the first one left out, which
also pays for what is kept), by the number of trials that are known, with its ratio to ``random`` in the same run. What
is known are the controls and random architectures of the first world; the lines "stopped" have every second one of
these stopped half way. A training that is looked at half way takes one proposal more.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nas.architecture import Architecture
from nas.front import Point, dominated_area, non_dominated
from nas.space import ResolvedSpace
from nas.study.encoding import Encoding
from nas.study.sampler import Known, propose

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "study"))

BLOCKS = ("se", "eca", "coord", "cbam", "bam", "shuffle", "psa", "sge", "gam", "simam")


class World:
    """A space with planted effects."""

    def __init__(self, seed: int, arguments: argparse.Namespace) -> None:
        import toy

        self.seed = seed
        self.arguments = arguments
        self.space: ResolvedSpace = toy.space(BLOCKS)
        self._drawn: dict[object, tuple[float, float]] = {}

    def _draw(self, *key: object) -> tuple[float, float]:
        """Return a normal and a uniform number that belong to a key."""
        if key not in self._drawn:
            words = [self.seed, *repr(key).encode()]
            generator = np.random.default_rng(words)
            self._drawn[key] = (float(generator.standard_normal()), float(generator.random()))
        return self._drawn[key]

    def truth(self, architecture: Architecture) -> Point:
        """Return the true accuracy and latency of an architecture."""
        total, latency = 0.0, 1.0
        placed = architecture.placements
        for number, one in enumerate(placed):
            where = (one.block, one.stage)
            effect = 0.5 * self._draw(one.block)[0] + 0.5 * self._draw(one.stage)[0] + 0.6 * self._draw(where)[0]
            cost = 0.03 + 0.1 * self._draw(one.block)[1] * (0.6 + 0.8 * self._draw(where)[1])
            for option in one.options.items():
                effect += 0.3 * self._draw(one.block, option)[0] + 0.2 * self._draw(where, option)[0]
                cost *= 0.85 + 0.3 * self._draw(one.block, option)[1]
            total += 0.5 + self.arguments.effects * effect
            latency += cost
            for other in placed[:number]:
                pair = self._draw(where, other.block, other.stage)[0]
                total += 0.3 * self.arguments.interactions * pair - 0.15
        return 0.7 + 0.04 * math.tanh(total / 3), latency

    def best(self) -> list[Point]:
        """Return the front of a long search that sees the true figures: random draws, then neighbours of the front."""
        encoding, generator = Encoding(self.space), np.random.default_rng(0)
        vectors = np.concatenate([encoding.draw(300, empty, generator) for empty in (0.2, 0.5, 0.8)])
        found = {vector.tobytes(): (self.truth(encoding.architecture(vector)), vector) for vector in vectors}
        for _ in range(12):
            members = set(front([point for point, _ in found.values()]))
            for _, vector in [entry for entry in found.values() if entry[0] in members][:25]:
                near = encoding.neighbours(vector)
                for other in near[generator.permutation(len(near))[:30]]:
                    if other.tobytes() not in found:
                        found[other.tobytes()] = (self.truth(encoding.architecture(other)), other)
        return front([point for point, _ in found.values()])


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other dominates, by latency."""
    kept = {point for point, on_front in zip(points, non_dominated(points), strict=True) if on_front}
    return sorted(kept, key=lambda point: point[1])


def search(world: World, sampler: str, budgets: Sequence[int]) -> tuple[list[float], float]:
    """Return the share of the best area at each budget, by looks and of all trials, and the seconds of a proposal."""
    best = world.best()
    bare = world.truth(Architecture(backbone="toy"))
    reference = (min(bare[0], best[0][0]) - 0.002, 1.1 * best[-1][1])
    known: list[Known] = []
    true: list[Point] = []
    shares: list[float] = []
    spent = 0.0
    for number in range(max(budgets)):
        started = time.perf_counter()
        proposal = propose(world.space, known, sampler=sampler, seed=world.seed)
        spent += time.perf_counter() - started
        assert proposal is not None
        accuracy, latency = world.truth(proposal.architecture)
        noise = world.arguments.noise * np.random.default_rng([world.seed, number]).standard_normal()
        values = (float(accuracy + noise), latency)
        known.append(Known(id=proposal.architecture.id, params=proposal.params, values=values))
        true.append((accuracy, latency))
        if len(known) in budgets:
            seen = {entry.values: point for entry, point in zip(known, true, strict=True) if entry.values}
            for points in ([seen[point] for point in front(list(seen))], true):
                shares.append(dominated_area(points, reference) / dominated_area(best, reference))
    return shares, spent / max(budgets)


def trials(world: World, count: int) -> list[Known]:
    """Return so many finished trials: the controls, then random architectures."""
    generator = random.Random(world.seed)
    found: dict[str, Known] = {}

    def add(architecture: Architecture, params: dict[str, object]) -> None:
        accuracy, latency = world.truth(architecture)
        noise = world.arguments.noise * np.random.default_rng([world.seed, len(found)]).standard_normal()
        values = (float(accuracy + noise), latency)
        found.setdefault(architecture.id, Known(id=architecture.id, params=params, values=values))

    for control in world.space.controls():
        add(control.architecture, dict(control.choices))
    while len(found) < count:
        params: dict[str, object] = {}

        def choose(name: str, options: Sequence[object], params: dict[str, object] = params) -> object:
            params[name] = generator.choice(list(options))
            return params[name]

        add(world.space.sample(choose), params)
    return list(found.values())


def milliseconds(world: World, known: Sequence[Known], sampler: str, count: int = 5) -> float:
    """Return the median CPU time in ms of a proposal, given what is known."""
    spent = []
    for seed in range(count + 1):
        started = time.process_time()
        assert propose(world.space, known, sampler=sampler, seed=seed) is not None
        spent.append(1e3 * (time.process_time() - started))
    return statistics.median(spent[1:])


def print_times(world: World, samplers: Sequence[str], counts: Sequence[int]) -> None:
    """Print how long each sampler's proposals take, by the number of known trials."""
    print(f"{'sampler':<10}{'trials':>7}   CPU time a proposal   of random")
    for count in counts:
        known = trials(world, count)
        reference = milliseconds(world, known, "random")
        for sampler in samplers:
            took = reference if sampler == "random" else milliseconds(world, known, sampler)
            print(f"{sampler:<10}{count:>7}   {took:>16.1f} ms   {took / reference:8.1f}", flush=True)
            if sampler == "additive":
                took = milliseconds(world, half_stopped(known), sampler)
                print(f"{'  stopped':<10}{count:>7}   {took:>16.1f} ms   {took / reference:8.1f}", flush=True)


def half_stopped(known: Sequence[Known]) -> list[Known]:
    """Return the same trials with every second one stopped half way, but for the controls."""
    found = []
    for number, entry in enumerate(known):
        assert entry.values is not None
        accuracy, latency = entry.values
        if number >= 4 and number % 2:
            found.append(replace(entry, values=None, nominal_ms=latency, curve=(accuracy - 0.1,)))
        else:
            found.append(replace(entry, curve=(accuracy - 0.1, accuracy)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default="random,additive", help="names, with commas between them")
    parser.add_argument("--budget", default="50", help="numbers of trials, with commas between them")
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.006, help="standard deviation of an accuracy's noise")
    parser.add_argument("--effects", type=float, default=1.0, help="how much effects add up")
    parser.add_argument("--interactions", type=float, default=1.0, help="how much blocks do to each other")
    parser.add_argument("--times", metavar="COUNTS", help="time proposals given so many trials, commas between them")
    arguments = parser.parse_args()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if arguments.times:
        counts = sorted(int(count) for count in arguments.times.split(","))
        print_times(World(0, arguments), arguments.samplers.split(","), counts)
        return
    budgets = sorted(int(budget) for budget in arguments.budget.split(","))
    print(f"{'sampler':<10}{'trials':>7}   of what looks best   of all trials")
    for sampler in arguments.samplers.split(","):
        results = [search(World(seed, arguments), sampler, budgets) for seed in range(arguments.worlds)]
        shares = np.array([shares for shares, _ in results])
        errors = shares.std(axis=0, ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else np.zeros(shares.shape[1])
        milliseconds = 1e3 * float(np.mean([seconds for _, seconds in results]))
        for column, budget in enumerate(budgets):
            looks, every = (f"{shares[:, k].mean():.3f} +- {errors[k]:.3f}" for k in (2 * column, 2 * column + 1))
            print(f"{sampler:<10}{budget:>7}   {looks:<18}   {every:<15} {milliseconds:6.0f} ms a proposal", flush=True)


if __name__ == "__main__":
    main()

"""A table whose every figure is known, of the space of the real one, and searches on it."""

from __future__ import annotations

import copy
import itertools
import math
from functools import cache

import numpy as np
import toy
from attnbench import replay
from attnbench.replay import Table, Trial
from attnbench.table import Header, Part, Training
from attnbench.worth import LONGEST, Searches
from attnbench.worth import replay as searches

from nas.rungs import Rungs
from nas.space import ResolvedSpace, SearchSpace

EPOCHS, IMAGES = 9, {"train": 100, "val": 500, "test": 1000}
RUNGS = Rungs(epochs=(1, 3), risk=0.3)


@cache
def the_space() -> ResolvedSpace:
    return replay.resolve()


@cache
def the_part() -> Part:
    return make_part(the_space())


@cache
def the_table() -> Table:
    return Table(the_part(), the_space())


def make_part(resolved: ResolvedSpace) -> Part:
    """Return two trainings of every architecture: accuracies and latencies are sums of what each placement brings."""
    generator = np.random.default_rng(0)
    brought = {
        placement: (generator.uniform(-0.02, 0.06), generator.uniform(0.01, 0.1))
        for placements in resolved.by_stage("test_resnet")
        for placement in placements
    }
    inside = {architecture.id: architecture for architecture in resolved.enumerate()}
    everything = inside | {control.architecture.id: control.architecture for control in resolved.controls()}
    rows = []
    for number, (key, architecture) in enumerate(everything.items()):
        if key in inside:
            gain, cost = np.sum([brought[each] for each in architecture.placements] or [(0.0, 0.0)], axis=0)
        else:
            gain, cost = 0.19, 0.005  # better and faster than all that a search can find
        for seed in (0, 1):
            noise = generator.normal(0, 0.004, size=2) if architecture.placements else (0.0, 0.0)
            end = 0.8 + gain + noise[0]
            curve = tuple(round(500 * end * (1 - 0.5 * math.exp(-epoch))) for epoch in range(EPOCHS - 1))
            found = {"curve": (*curve, round(500 * end)), "test": round(1000 * (0.8 + gain + noise[1]))}
            if number % 97 == 13 and key in inside:
                found = {"failure": "non-finite loss in epoch 2"}
            ratio = (1 + cost, cost, 2 + cost)
            timed = {"ratio": ratio, "bare_ms": 0.5, "nominal_ms": 1 + 0.9 * cost} if seed == 0 else {}
            rows.append(Training(key, seed, "one", **found, **timed))
    header = Header(protocol={"epochs": EPOCHS}, space=resolved.hash, images=IMAGES, machines=["one"])
    return Part(header, rows)


def run(table: Table, searcher: replay.Searcher, cost: int, number: int = 0) -> Searches:
    return searches(table, "one", searcher, 1, number, cost)


def with_failures(table: Table) -> Table:
    """Return a table of which nothing but the controls can be trained."""
    failing = copy.copy(table)
    failing.curves = {key: curve if key[0] in table.controls else () for key, curve in table.curves.items()}
    return failing


def with_weak_controls(table: Table) -> Table:
    """Return a table whose controls are as accurate as the bare backbone: they leave a search something to find."""
    weak = copy.copy(table)
    of_bare = {seed: table.curves[table.bare, seed] for seed in table.seeds}
    weak.curves = {key: of_bare[key[1]] if key[0] in table.controls else curve for key, curve in table.curves.items()}
    return weak


def tiny(figures: list[tuple[float, float, float]]) -> tuple[Table, list[str]]:
    """Return a table of four architectures of given latency, validation and test accuracy, and their ids.

    The first of them is the bare backbone.
    """
    blocks = {"se": {"reduction": (4, 8, 16)}}
    resolved = SearchSpace(backbones=("toy",), blocks=blocks, stages=(3,)).resolve({"toy": toy.STAGES})
    inside = [architecture.id for architecture in resolved.enumerate()]
    assert len(inside) == 4
    keys = [*inside, *(each.architecture.id for each in resolved.controls() if each.architecture.id not in inside)]
    rows = []
    for key, (ratio, seen, true) in itertools.zip_longest(keys, figures, fillvalue=(1.0, 0.99, 0.99)):
        for seed in (0, 1):
            timed = {"ratio": (ratio, 0.9, 2.0), "nominal_ms": ratio} if seed == 0 else {}
            rows.append(Training(key, seed, "one", (round(500 * seen),), test=round(1000 * true), **timed))
    header = Header(protocol={"epochs": 1}, space=resolved.hash, images=IMAGES, machines=["one"])
    return Table(Part(header, rows), resolved), inside


def steps(*reached: float, count: int = LONGEST) -> Searches:
    """Return searches of ``count`` trainings whose area is 1 from a given training on, and 0 before."""
    numbers = np.arange(1.0, count + 1)
    area = [(numbers >= one).astype(float) for one in reached]
    spent = [EPOCHS * numbers for _ in reached]
    trials = [[Trial("a", EPOCHS, 0.5)] * count for _ in reached]
    return Searches("steps", spent, spent, area, [1 - each for each in area], trials, [0] * len(reached))

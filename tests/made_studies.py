"""Made-up studies whose truth is known, and what is simpler than the effect map."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from nas.architecture import Architecture, Placement
from nas.evaluation import wilson_interval
from nas.front import BARE, Row
from nas.likeness import Cell, Floats, cell_of, tried

STAGES = (1, 2, 3, 4)
BLOCKS: dict[str, tuple[str, tuple[object, ...]]] = {
    "se": ("reduction", (4, 8, 16)),
    "eca": ("kernel_size", (3, 5, 7)),
    "cbam": ("kernel_size", (3, 7)),
    "coord": ("reduction", (8, 16)),
    "bam": ("reduction", (8, 16)),
    "sge": ("groups", (8, 16)),
    "shuffle": ("groups", (8,)),
    "simam": ("lambda_", (1e-4, 0.1)),
    "gc": ("reduction", (4, 8)),
    "mhsa": ("heads", (2, 4)),
}
TRUTHS = ("log-odds", "accuracy", "saturating")
SEARCHES = ("random", "adaptive")
IMAGES, SEED_SD = 400, 0.01


class Figures(NamedTuple):
    """The truth of one architecture."""

    accuracy: float
    extra: float
    """Latency beyond that of the bare backbone, as a share of it."""


class Truth:
    """What architectures are really worth."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind = kind
        draw = np.random.default_rng(seed)
        self._bare = draw.uniform(0.5, 0.8)
        self._cap = draw.uniform(0.9, 0.97)
        block, site = draw.normal(0.15, 0.3, len(BLOCKS)), draw.normal(0, 0.2, len(STAGES))
        self.gain: dict[Placement, float] = {}
        self.cost: dict[Placement, float] = {}
        for row, (name, (option, values)) in enumerate(BLOCKS.items()):
            dear = draw.lognormal(-2.5, 0.6)
            for column, stage in enumerate(STAGES):
                cell, here = block[row] + site[column] + draw.normal(0, 0.3), dear * draw.lognormal(0, 0.3)
                for value in values:
                    placement = Placement(stage=stage, block=name, options={option: value})
                    self.gain[placement] = cell + draw.normal(0, 0.1)
                    self.cost[placement] = here * draw.lognormal(0, 0.1)
        self.choices = {stage: [each for each in self.gain if each.stage == stage] for stage in STAGES}
        self._pairs: dict[frozenset[Cell], float] = {}
        self._draw = np.random.default_rng(seed + 10**6)

    def __call__(self, architecture: Architecture) -> Figures:
        placements = architecture.placements
        total, extra = sum(self.gain[each] for each in placements), sum(self.cost[each] for each in placements)
        if self._kind == "saturating":
            cells = [cell_of(each) for each in placements]
            for number, one in enumerate(cells):
                for other in cells[:number]:
                    key = frozenset((one, other))
                    if key not in self._pairs:
                        self._pairs[key] = self._draw.normal(0, 0.15)
                    total += self._pairs[key]
                    extra += 0.05 * self._pairs[key]
            room = self._cap - self._bare if total > 0 else self._bare
            accuracy = self._bare + room * np.tanh(1.2 * total * self._bare * (1 - self._bare) / room)
        elif self._kind == "accuracy":
            accuracy = self._bare + 0.08 * total
        else:
            accuracy = special.expit(special.logit(self._bare) + total)
        return Figures(float(np.clip(accuracy, 0.01, 0.999)), extra)


def study(truth: Truth, search: str, count: int, seed: int, known_seeds: bool = True) -> list[Row]:
    """Return the rows of a made-up study: the bare backbone, two controls, and what a search finds."""
    draw, measured = random.Random(seed), np.random.default_rng(seed)
    everywhere = [
        Architecture(backbone="made_up", placements=tuple(each for each in truth.gain if each in chosen))
        for chosen in (
            [],
            *([next(p for p in truth.choices[s] if p.block == b) for s in STAGES] for b in ("se", "eca")),
        )
    ]
    rows = [make_row(truth, one, number, measured, known_seeds) for number, one in enumerate(everywhere)]
    rows[0] = dataclasses.replace(rows[0], control=BARE)
    while len(rows) < count:
        if search == "adaptive" and len(rows) > 12 and draw.random() < 0.8:
            value = sorted(rows, key=lambda row: row.latency_ratio * 0.1 - row.accuracy)
            parts = {each.stage: each for each in draw.choice(value[:6]).architecture.placements}
            stage = draw.choice(STAGES)
            parts.pop(stage, None)
            if draw.random() < 0.7:
                parts[stage] = draw.choice(truth.choices[stage])
        else:
            parts = {stage: draw.choice(truth.choices[stage]) for stage in STAGES if draw.random() < 0.5}
        one = Architecture(backbone="made_up", placements=tuple(parts.values()))
        if all(one != row.architecture for row in rows):
            rows.append(make_row(truth, one, len(rows), measured, known_seeds))
    return rows


def make_row(truth: Truth, one: Architecture, number: int, draw: np.random.Generator, known_seeds: bool) -> Row:
    """Measure an architecture."""
    accuracy, extra = truth(one)
    seen = draw.binomial(IMAGES, np.clip(accuracy + draw.normal(0, SEED_SD), 0, 1)) / IMAGES
    low, high = wilson_interval(seen, IMAGES)
    error = 0.01 * (1 + extra) if extra else 0.0  # the bare backbone's is 1 by definition
    ratio = max(0.5, 1 + extra + draw.normal(0, error))
    return Row(
        trial=number,
        architecture=one,
        accuracy=seen,
        accuracy_low=low,
        accuracy_high=high,
        latency_ms=ratio,
        latency_ratio=ratio,
        ratio_low=ratio - 1.96 * error,
        ratio_high=ratio + 1.96 * error,
        parameters=1,
        macs=1,
        seed_error=SEED_SD if known_seeds else None,
        seed_degrees=8 if known_seeds else 0,
    )


def least_squares(rows: Sequence[Row], values: Floats) -> Floats:
    """Return the effect of each cell by ordinary least squares, the shortest of all solutions."""
    holds = holding(rows)
    design = np.hstack([np.ones((len(rows), 1)), holds])
    found: Floats = np.linalg.lstsq(design, values, rcond=None)[0][1:]
    return found


def marginal(rows: Sequence[Row], values: Floats) -> Floats:
    """Return the mean of the rows with each cell minus the mean of those without."""
    holds = holding(rows)
    found: Floats = holds.T @ values / holds.sum(0) - (1 - holds).T @ values / (1 - holds).sum(0)
    return found


def holding(rows: Sequence[Row]) -> Floats:
    cells = tried([row.architecture for row in rows])
    return np.array([[float(cell in {*map(cell_of, row.architecture.placements)}) for cell in cells] for row in rows])


def true_pairs(rows: Sequence[Row], truth: Truth, figure: int) -> dict[Cell, list[float]]:
    """Return the true differences of the matched pairs of each cell that has any."""
    known = {row.architecture for row in rows}
    found: dict[Cell, list[float]] = {}
    for one in known:
        for placement in one.placements:
            rest = tuple(each for each in one.placements if each != placement)
            without = dataclasses.replace(one, placements=rest)
            if without in known:
                found.setdefault(cell_of(placement), []).append(truth(one)[figure] - truth(without)[figure])
    return found


def alone(rows: Sequence[Row], truth: Truth) -> tuple[Floats, Floats]:
    """Return what each cell truly does to the bare backbone, in accuracy and latency: mean over the settings tried."""
    bare = truth(Architecture(backbone="made_up"))
    found = np.array(
        [
            np.mean([truth(Architecture(backbone="made_up", placements=(each,))) for each in placements], axis=0)
            for placements in tried([row.architecture for row in rows]).values()
        ]
    )
    return found[:, 0] - bare.accuracy, found[:, 1]

"""The effect map: what each block brings at each stage against nothing there, in accuracy and in latency.

Where a stage may hold one of many blocks, each with options of its own, or none, the importance of a parameter says
little, as most parameters do not apply to most trials. So each cell of the map, a block at a stage, gets a gain and a
cost, in two ways. Pairs of architectures that differ in nothing else are compared as they are; there are few. And all
architectures together decide on a sum of effects (:mod:`nas.additive`) in which a cell that was seen once borrows from
the block elsewhere, and from the stage: such shrunken estimates are closer to the truth on the whole than each mean by
itself. Source: B. Efron and C. Morris, "Data analysis using Stein's estimator and its generalizations", JASA 70 (1975).

What its 95 % intervals hold was measured with benchmarks/effects.py, on 40 made-up studies of each of 36 kinds: 94 to
99.6 % of the true gains, but 91.5 to 92.2 % after an adaptive search of 150 trials where blocks saturate and get in
each other's way; 95 to 98 % of the true costs. Where timings differ by more than their own intervals say, as in a table
of 1,604 architectures, those of the costs held 88 to 98 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from nas.additive import TINY, Additive, Data, Fit, Link
from nas.architecture import Architecture, Placement
from nas.front import Row
from nas.likeness import Cell, Floats, cell_of, tried

_Z = 1.959964
UNSTABLE = 3.0
"""By so much the error of a ratio is taken to be larger where the machine was too busy."""
TOPS = (0.1, 0.4)
"""Guesses where accuracy levels off: so far from the highest one of the rows towards 1; or at 1; or nowhere."""
LEAST = 0.01
"""Likelihood, as a share of the highest, below which such a guess is left out."""
_SLICES = (25, 100)  # equally likely parts of the bare backbone's sum, and of an effect given that


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a block does at a stage."""

    stage: int
    block: str
    position: str
    """Where in the stage, see :data:`nas.architecture.POSITIONS`."""
    n: int
    """Finished architectures that have this block there."""
    options: int
    """Distinct settings of the block among them.

    Both estimates of the model are for the mean over these, each counted once, and so are their intervals: one setting
    may lie outside."""
    accuracy: Estimate
    """By how much this block alone changes the bare backbone's accuracy (a fraction), by the model of all rows."""
    latency: Estimate
    """By how much it changes the latency as a ratio to the bare backbone's: 0.08 is 8 % of that."""
    unsure: float
    """Share of the prior variance of the effect on accuracy that the rows left, 0 to 1: at 1 they say nothing of it."""
    pairs: int
    """Pairs of finished architectures that differ in this alone: one has the block there, the other has nothing."""
    pair_accuracy: Estimate | None
    """Mean difference of accuracy over the pairs, whatever other blocks these have; None without a pair.

    As blocks get in each other's way, it can well be another figure than what the block does alone."""
    pair_latency: Estimate | None
    """The same of the latency ratio."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far the sum of effects can be trusted for one figure; in its unit, a fraction."""

    spread: float
    """Standard deviation between the architectures."""
    error: float | None
    """Root mean square of the errors when each architecture is predicted from all others; None below three."""
    explained: float | None
    """Share of the variance that these predictions explain, at most 1, below 0 where they are worse than the mean.

    None where there are fewer than three architectures, or no differences."""
    measurement: float
    """Standard deviation of a single measurement, with what neither effects nor meetings of blocks explain."""
    meeting: float
    """Standard deviation of what two placements do to each other beyond the sum of what each does alone."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far the sums can be trusted."""

    accuracy: Trust
    latency: Trust


@dataclass(frozen=True, kw_only=True)
class EffectMap:
    """All cells that were tried."""

    effects: tuple[Effect, ...]
    """By stage, block and position."""
    stages: tuple[int, ...]
    blocks: tuple[str, ...]
    rows: int
    """Distinct architectures that it rests on."""
    bare: Estimate | None
    """Accuracy of the bare backbone by the model; None where there is no row."""
    noise: Noise | None
    """How far it can be trusted; None where there is no row."""


def effects(rows: Iterable[Row]) -> EffectMap:
    """Return the effect of every block at every stage where a finished architecture has it.

    An accuracy has the noise of the validation images, taken as drawn anew for each architecture, which is
    conservative as all see the same; that of the seeds, as further trainings tell it and the rows confirm it; and
    whatever of it the sum does not explain. A latency has the noise of its interval and that. Rows that are beyond
    limits count as all others; ratios that were not stable count for less (:data:`UNSTABLE`). Of several rows of one
    architecture the one of the most trainings counts. Deterministic.

    Args:
        rows: Finished trials, any number of them. Effects are the same for all backbones, where there are several.
    """
    rows = _distinct(rows)
    if not rows:
        return EffectMap(effects=(), stages=(), blocks=(), rows=0, bare=None, noise=None)
    architectures = [row.architecture for row in rows]
    cells, pairs = tried(architectures), _pairs(architectures)
    gains, costs = _accuracy(rows), _latency(rows)
    found = []
    for number, (cell, placements) in enumerate(cells.items()):
        stage, block, position = cell
        matched = pairs.get(cell, [])
        effect = Effect(
            stage=stage,
            block=block,
            position=position,
            n=sum(any(cell_of(each) == cell for each in one.placements) for one in architectures),
            options=len(placements),
            accuracy=gains.estimates[number],
            latency=costs.estimates[number],
            unsure=float(gains.left[number]),
            pairs=len(matched),
            pair_accuracy=gains.paired(matched),
            pair_latency=costs.paired(matched),
        )
        found.append(effect)
    return EffectMap(
        effects=tuple(found),
        stages=tuple(sorted({cell[0] for cell in cells})),
        blocks=tuple(sorted({cell[1] for cell in cells})),
        rows=len(rows),
        bare=gains.bare,
        noise=Noise(accuracy=gains.trust, latency=costs.trust),
    )


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Return one row an architecture, the one that was trained most often: a control may be a trial as well."""
    found: dict[Architecture, Row] = {}
    for row in rows:
        known = found.get(row.architecture)
        if known is None or row.seeds > known.seeds:
            found[row.architecture] = row
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """What is said of one figure, accuracy or latency."""

    values: Floats
    """The figure of each row, (R,)."""
    fits: Sequence[tuple[float, Fit]]
    """Fits with their weights, which sum to 1."""
    estimates: list[Estimate]
    """The effect of each cell."""
    bare: Estimate
    most: float
    """No difference can be larger."""

    @property
    def noise(self) -> Floats:
        """Variance of each row as a measurement, (R,)."""
        found: Floats = np.sum([weight * fit.noise for weight, fit in self.fits], axis=0)
        return found

    @property
    def left(self) -> Floats:
        """Share of the prior variance of each effect that the data left, (C,)."""
        shares = [weight * fit.covariance.diagonal()[1:] / fit.prior for weight, fit in self.fits]
        found: Floats = np.clip(np.sum(shares, axis=0), 0, 1)
        return found

    def paired(self, pairs: Sequence[tuple[int, int]]) -> Estimate | None:
        """Return the mean difference over pairs, whose interval allows for rows that stand in several pairs."""
        if not pairs:
            return None
        shares = np.zeros(len(self.values))
        for one, other in pairs:
            shares[one] += 1 / len(pairs)
            shares[other] -= 1 / len(pairs)
        value = float(shares @ self.values)
        degrees = sum(weight * fit.degrees for weight, fit in self.fits)
        half = float(special.stdtrit(degrees, 0.975)) * float(shares**2 @ self.noise) ** 0.5
        return Estimate(value=value, low=max(-self.most, value - half), high=min(self.most, value + half))

    @property
    def trust(self) -> Trust:
        """How well rows are predicted that were left out, in the figure's own unit."""
        count, spread = len(self.values), float(self.values.std())
        errors = self.values - np.sum([weight * fit.left_out for weight, fit in self.fits], axis=0)
        alone = (
            (self.values - self.values.mean()) * count / max(count - 1, 1)
        )  # the mean of the others predicts as well
        told = count > 2 and spread > 1e-9
        meeting = 0.0
        for weight, fit in self.fits:
            slope = float(fit.link.slope(np.array(fit.bare)))
            meeting += weight * slope**2 * (fit.variances["double"] + fit.variances["crowd"])
        return Trust(
            spread=spread,
            error=float(np.mean(errors**2)) ** 0.5 if count > 2 else None,
            explained=1 - float(np.mean(errors**2) / np.mean(alone**2)) if told else None,
            measurement=float(np.median(self.noise)) ** 0.5,
            meeting=meeting**0.5,
        )


def _accuracy(rows: Sequence[Row]) -> _Figure:
    """Return the effects on accuracy: the mean over several links, by how likely each makes the rows.

    Source: J. A. Hoeting, D. Madigan, A. E. Raftery and C. T. Volinsky, "Bayesian model averaging: a tutorial",
    Statistical Science 14 (1999).
    """
    values = np.array([row.accuracy for row in rows])
    known = [row.seed_error**2 * row.seeds for row in rows if row.seed_error is not None]
    data = Data(
        architectures=[row.architecture for row in rows],
        values=values,
        errors=np.zeros(len(rows)),
        images=np.array([_images(row) for row in rows]),
        seeds=np.array([float(row.seeds) for row in rows]),
        seed_variance=float(np.mean(known)) if known else 0.0,
        seed_degrees=max(row.seed_degrees for row in rows) if known else 0,
    )
    model, highest = Additive(data), float(values.max())
    links = [Link(), Link(1.0), *(Link(highest + part * (1 - highest)) for part in TOPS if 0 < highest < 1)]
    fits = model.best(links, LEAST)
    weights = special.softmax([fit.evidence for fit in fits])
    mixed = [(float(weight), fit) for weight, fit in zip(weights, fits, strict=True)]
    points = [_points(fit) for _, fit in mixed]
    bare, *estimates = (
        _mixture([weight for weight, _ in mixed], [each[number] for each in points])
        for number in range(1 + len(fits[0].effects))
    )
    return _Figure(values=values, fits=mixed, estimates=estimates, bare=bare, most=1.0)


def _points(fit: Fit) -> list[Floats]:
    """Return equally likely values of the bare backbone's figure, then of the change of it by each effect."""
    first, then = (special.stdtrit(fit.degrees, (np.arange(count) + 0.5) / count) for count in _SLICES)
    variance = max(float(fit.covariance[0, 0]), 1e-18)
    bare = fit.bare + variance**0.5 * first
    before = np.clip(fit.link.value(bare), 0, 1)[:, None]
    found = [np.repeat(before, len(then), axis=1).ravel()]
    for number, effect in enumerate(fit.effects, start=1):
        slope = fit.covariance[0, number] / variance
        rest = max(fit.covariance[number, number] - slope**2 * variance, 0.0) ** 0.5
        after = fit.link.value((bare + effect + slope * (bare - fit.bare))[:, None] + rest * then)
        found.append((np.clip(after, 0, 1) - before).ravel())
    return found


def _mixture(weights: Sequence[float], points: Sequence[Floats]) -> Estimate:
    """Return the mean of several distributions, and its 95 % interval, of equally likely points of each."""
    every = np.concatenate(points)
    shares = np.repeat(np.array(weights) / [len(each) for each in points], [len(each) for each in points])
    order = np.argsort(every, kind="stable")
    reached = np.cumsum(shares[order]) - shares[order] / 2
    low, high = np.interp((0.025, 0.975), reached, every[order])
    return Estimate(value=float(np.clip(shares @ every, low, high)), low=float(low), high=float(high))


def _latency(rows: Sequence[Row]) -> _Figure:
    """Return the effects on the ratio beyond 1; that of the bare backbone is 0 by definition."""
    errors = np.array([(row.ratio_high - row.ratio_low) / (2 * _Z) for row in rows])
    errors *= [UNSTABLE if row.unstable else 1.0 for row in rows]
    values = np.array([row.latency_ratio - 1 if row.architecture.placements else 0.0 for row in rows])
    architectures = [row.architecture for row in rows]
    data = Data(architectures=architectures, values=values, errors=errors**2, seeds=np.ones(len(rows)), anchored=True)
    fit = Additive(data).fit(Link())
    halves = float(special.stdtrit(fit.degrees, 0.975)) * np.sqrt(np.maximum(fit.covariance.diagonal()[1:], 0.0))
    estimates = [
        Estimate(value=float(effect), low=float(effect - half), high=float(effect + half))
        for effect, half in zip(fit.effects, halves, strict=True)
    ]
    none = Estimate(value=0.0, low=0.0, high=0.0)
    return _Figure(values=values, fits=[(1.0, fit)], estimates=estimates, bare=none, most=np.inf)


def _images(row: Row) -> float:
    """Return the number of images of which the row's interval is Wilson's; a million where it has no width."""
    half, share = (row.accuracy_high - row.accuracy_low) / 2, row.accuracy
    if share in (0.0, 1.0):  # one end of the interval is the share itself
        return float(np.clip(_Z**2 * (1 / max(2 * half, TINY) - 1), 1.0, 1e6))
    # With a = z^2 / n, half (1 + a) = sqrt(a share (1 - share) + a^2 / 4).
    quadratic, linear = 0.25 - half**2, share * (1 - share) - 2 * half**2
    if quadratic <= 0:
        return 1.0
    a = (-linear + (linear**2 + 4 * quadratic * half**2) ** 0.5) / (2 * quadratic)
    return float(np.clip(_Z**2 / max(a, TINY), 1.0, 1e6))


def _pairs(architectures: Sequence[Architecture]) -> dict[Cell, list[tuple[int, int]]]:
    """Return the architectures with and without one placement and otherwise equal, by their numbers, of each cell."""
    index = {(one.backbone, frozenset(one.placements)): number for number, one in enumerate(architectures)}
    found: dict[Cell, list[tuple[int, int]]] = {}
    for number, one in enumerate(architectures):
        placements: frozenset[Placement] = frozenset(one.placements)
        for placement in one.placements:
            without = index.get((one.backbone, placements - {placement}))
            if without is not None:
                found.setdefault(cell_of(placement), []).append((number, without))
    return found

"""Who has to be trained again, and how likely each trial is on the front of the true figures: pure functions over rows.

A search shows the best of many trials, and the best of many is lucky. Further seeds of the front's members put that
right, and shrinkage says how much of an advantage is left to believe in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.front import Row

Floats = NDArray[np.float64]

DRAWS = 1000
"""Draws of all figures; the probability that they give has a standard error of at most 0.016."""
_FEWEST = 4  # of fewer means Morris' factors do not exist


def unconfirmed(rows: Iterable[Row], further: int) -> list[Row]:
    """Return the rows that ``further`` more seeds each have to confirm: the front, and what was begun.

    What has some further seeds already gets the rest even where its mean has fallen off the front meanwhile, so that
    nothing is dropped for the first of several seeds, be it that the run was interrupted there.
    """
    return [row for row in rows if (row.on_front or row.seeds > 1) and row.seeds <= further]


def shrink(means: Sequence[float], variances: Sequence[float]) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of the true accuracies, given their noisy means: parametric empirical Bayes.

    The true values are taken for normal around one common mean m with variance A, both fitted to all the means y_i: A
    by the method of moments, sum((y_i - m)^2 / (V_i + A)) = k - 1. Each mean moves towards m by its share of noise::

        B_i = (k - 3) / (k - 1) * V_i / (V_i + A)
        mean_i = y_i - B_i (y_i - m)
        variance_i = V_i (1 - (1 - w_i) B_i) + 2 / (k - 3) * B_i^2 (V + A) / (V_i + A) * (y_i - m)^2

    with w_i proportional to 1 / (V_i + A), and V the mean of the V_i with these weights. The last term is for m and A
    being estimated. With fewer than four means, nothing moves.

    Sources: C. N. Morris, "Parametric empirical Bayes inference: theory and applications", JASA 78 (1983); B. Efron and
    C. Morris, "Data analysis using Stein's estimator and its generalizations", JASA 70 (1975); A by R. C. Paule and
    J. Mandel, Journal of Research of the National Bureau of Standards 87 (1982).

    Args:
        means: Observed means y_i, (k,).
        variances: Their sampling variances V_i, (k,).
    """
    y, v = np.asarray(means, dtype=float), np.asarray(variances, dtype=float)
    k = len(y)
    if k < _FEWEST or not v.any():
        return y, np.sqrt(v)
    a = _between(y, v)
    weights = 1 / (v + a)
    weights /= weights.sum()
    centre, pooled = (weights * y).sum(), (weights * v).sum()
    b = (k - 3) / (k - 1) * v / (v + a)
    spread = 2 / (k - 3) * b**2 * (pooled + a) / (v + a) * (y - centre) ** 2
    return y - b * (y - centre), np.sqrt(v * (1 - (1 - weights) * b) + spread)


def _between(y: Floats, v: Floats) -> float:
    """Return the variance between true values by Paule and Mandel's equation; 0 where noise explains all."""

    def excess(a: float) -> float:
        weights = 1 / (v + a)
        centre = (weights * y).sum() / weights.sum()
        return float((weights * (y - centre) ** 2).sum()) - (len(y) - 1)

    smallest = 1e-9 * float(v.max())  # an exact mean among noisy ones must not divide by zero
    low, high = smallest, float(np.var(y, ddof=1)) + float(v.max())
    if excess(low) <= 0:
        return smallest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def with_probabilities(rows: Iterable[Row], *, draws: int = DRAWS, seed: int = 0) -> list[Row]:
    """Return the rows with the probability that each is on the front of the true accuracies and latency ratios.

    The share of draws in which no other row dominates it. In each draw every accuracy is normal as :func:`shrink` has
    it, with the variance of the seed over the number of seeds, and every ratio is normal with a quarter of its 95 %
    interval as standard deviation (its width / 3.92); the bare backbone's ratio is 1. The variance of the seed is one
    estimate for all, and known as well as its degrees of freedom say: one factor of a draw, degrees over a chi-square
    variable, scales all accuracies' variances. The choice of validation images is not drawn: it is the same for all.
    Rows whose seed noise is unknown stay as they are.

    Args:
        rows: All finished trials of a study.
        draws: Number of draws.
        seed: Seed of the draws.
    """
    rows = list(rows)
    errors = [row.seed_error for row in rows if row.seed_error is not None]
    if not rows or len(errors) < len(rows):
        return rows
    means, deviations = shrink([row.accuracy for row in rows], [error**2 for error in errors])
    ratios = np.array([row.latency_ratio for row in rows])
    widths = np.array([row.ratio_high - row.ratio_low if row.architecture.placements else 0.0 for row in rows]) / 3.92
    generator = np.random.default_rng(seed)
    shape = (draws, len(rows))
    degrees = rows[0].seed_degrees
    factors = np.sqrt(degrees / generator.chisquare(degrees, size=(draws, 1))) if degrees else 1.0
    accuracy = means + factors * deviations * generator.standard_normal(shape)
    ratio = ratios + widths * generator.standard_normal(shape)
    shares = on_fronts(accuracy, ratio).mean(axis=0)
    return [dataclasses.replace(row, front_probability=float(share)) for row, share in zip(rows, shares, strict=True)]


def on_fronts(accuracy: Floats, latency: Floats) -> NDArray[np.bool_]:
    """Tell for each of many draws which points no other dominates: :func:`nas.front.non_dominated`, all draws at once.

    Args:
        accuracy: (draws, points); better high.
        latency: (draws, points); better low.
    """
    order = np.lexsort((-accuracy, latency), axis=-1)
    high, low = np.take_along_axis(accuracy, order, -1), np.take_along_axis(latency, order, -1)
    best_before = np.maximum.accumulate(high, axis=-1)[:, :-1]
    survives = np.ones(order.shape, dtype=bool)
    survives[:, 1:] = high[:, 1:] > best_before
    # Equal points follow each other and share the fate of the first of them.
    first = np.tile(np.arange(order.shape[1]), (len(order), 1))
    first[:, 1:][(high[:, 1:] == high[:, :-1]) & (low[:, 1:] == low[:, :-1])] = 0
    survives = np.take_along_axis(survives, np.maximum.accumulate(first, axis=-1), -1)
    found = np.empty_like(survives)
    np.put_along_axis(found, order, survives, -1)
    return found

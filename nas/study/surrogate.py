"""A Gaussian process that knows what an architecture is made of.

An architecture's accuracy is taken for a sum of effects - of a block wherever it stands, of a block at a stage, of an
option's value - plus a smooth remainder for what they do to each other. So one trial with four blocks says something
about each of them, on every stage. The nominal latency is a sum in the same way, and without noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from nas.study.encoding import Floats, Ints

BENT = (0.3, 0.7)
"""Shares of the variance that may fall to the remainder."""
LENGTHS = (0.7, 1.5, 3.0)
"""Lengths of the remainder, in median distances between the architectures that are known."""
NOISES = (0.03, 0.1, 0.3, 1.0)
"""Variances of the noise over that of the accuracies."""
EXACT = 1e-4
"""The same where nothing but the model is wrong."""
FITTED = 200
"""So many points at most decide on those three."""


class Model:
    """What is believed of one figure, given some architectures for which it is known."""

    def __init__(self, rows: Floats, values: Floats, noises: Sequence[float] = NOISES) -> None:
        """Fit by the marginal likelihood over a grid.

        Args:
            rows: Features, (n, features).
            values: The figure, (n,).
            noises: Variances of the noise to choose from.
        """
        self._rows = rows
        self._mean, self._scale = float(values.mean()), float(values.std())
        if self._scale <= 1e-9 * max(1.0, abs(self._mean)):  # equal but for rounding
            self._scale = 1.0
        y = (values - self._mean) / self._scale
        linear = rows @ rows.T
        self._unit = float(np.diag(linear).mean()) or 1.0
        squares = _squares(rows, rows, linear)
        self._typical = float(np.median(squares[squares > 0])) if (squares > 0).any() else 1.0
        some = spread(np.arange(len(y)), FITTED)
        part = np.ix_(some, some)
        best = -np.inf
        self._bent, self._length, noise = BENT[0], LENGTHS[-1], noises[0]
        for bent, length in itertools.product(BENT, LENGTHS):
            kernel = self._mix(linear[part], squares[part], bent, length)
            for each in noises:
                likelihood = _likelihood(kernel, y[some], each)
                if likelihood > best:
                    best, self._bent, self._length, noise = likelihood, bent, length, each
        kernel = self._mix(linear, squares, self._bent, self._length)
        self._factor = cho_factor(kernel + noise * np.eye(len(y)), lower=True)
        self._weights = cho_solve(self._factor, y)
        self._size = max(float(y @ self._weights) / len(y), 1e-6) if len(y) > 3 else 1.0

    def _mix(self, linear: Floats, squares: Floats, bent: float, length: float) -> Floats:
        """Return the covariance: of a constant, of the sum of effects and of the remainder."""
        smooth = np.exp(-squares / (2 * length**2 * self._typical))
        return 1.0 + (1 - bent) * linear / self._unit + bent * smooth

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the figure without noise, (n,) each."""
        linear = rows @ self._rows.T
        kernel = self._mix(linear, _squares(rows, self._rows, linear), self._bent, self._length)
        mean = kernel @ self._weights
        own = 1.0 + (1 - self._bent) * np.einsum("ij,ij->i", rows, rows) / self._unit + self._bent
        half = solve_triangular(self._factor[0], kernel.T, lower=True, check_finite=False)
        variance = own - np.einsum("ij,ij->j", half, half)
        deviation = np.sqrt(self._size * np.maximum(variance, 1e-9))
        return self._mean + self._scale * mean, self._scale * deviation


def spread(numbers: Ints, count: int) -> Ints:
    """Return so many of the numbers at most, evenly spread over their order."""
    chosen: Ints = numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), count)).astype(int)]
    return chosen


def _squares(a: Floats, b: Floats, products: Floats) -> Floats:
    """Return the squared distances between rows, (len(a), len(b)), given their inner products."""
    found = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)[None] - 2 * products
    distances: Floats = np.maximum(found, 0.0)
    return distances


def _likelihood(kernel: Floats, y: Floats, noise: float) -> float:
    """Return the logarithm of the marginal likelihood with the best scale of kernel and noise, but for a constant."""
    factor = cho_factor(kernel + noise * np.eye(len(y)), lower=True)
    size = float(y @ cho_solve(factor, y)) / len(y)
    return float(-0.5 * len(y) * np.log(max(size, 1e-12)) - np.log(np.diag(factor[0])).sum())

"""A Gaussian process that knows what an architecture is made of.

An architecture's accuracy is taken for a sum of effects - of a block wherever it stands, of a block at a stage, of an
option's value - plus a smooth remainder for what they do to each other. So one trial with four blocks says something
about each of them, on every stage. The nominal latency is a sum in the same way, and without noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import LinAlgError, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotrs

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
STEADY = 3.0
"""Sum of squared log-odds by which a slope of 1 is believed in before any training went on past a rung."""


class Model:
    """What is believed of one figure, given some architectures for which it is known."""

    def __init__(self, rows: Floats, values: Floats, noises: Sequence[float] = NOISES) -> None:
        """Fit by the marginal likelihood over a grid.

        Args:
            rows: Features, (n, features).
            values: The figure, (n,).
            noises: Variances of the noise to choose from.

        Raises:
            ValueError: If a value is not a finite number.
            scipy.linalg.LinAlgError: If a covariance is not positive definite.
        """
        self.rows = rows
        if not np.isfinite(values).all():  # LAPACK would not mind
            raise ValueError(f"values must be finite numbers, but got {values!r}")
        self._mean, self._scale = float(values.mean()), float(values.std())
        if self._scale <= 1e-9 * max(1.0, abs(self._mean)):  # equal but for rounding
            self._scale = 1.0
        y = (values - self._mean) / self._scale
        products, self._norms = rows @ rows.T, _norms(rows)
        self._unit = float(self._norms.mean()) or 1.0
        some = spread(np.arange(len(y)), FITTED)
        part, norms = products[np.ix_(some, some)], self._norms[some]
        squares = norms[:, None] + norms - 2 * part
        distant = squares[squares > 1e-9 * self._unit]  # equal but for rounding
        self._typical = float(np.median(distant)) if len(distant) else 1.0
        best = -np.inf
        self._bent, self._length, noise = BENT[0], LENGTHS[-1], noises[0]
        for bent, length in itertools.product(BENT, LENGTHS):
            kernel = self._mix(part, norms, norms, bent, length)
            for each in noises:
                likelihood = _likelihood(kernel, y[some], each)
                if likelihood > best:
                    best, self._bent, self._length, noise = likelihood, bent, length, each
        kernel = self._mix(products, self._norms, self._norms, self._bent, self._length)
        self._factor, self._weights = _solve(kernel, y, noise)
        self._size = max(float(y @ self._weights) / len(y), 1e-6) if len(y) > 3 else 1.0

    def _mix(self, products: Floats, mine: Floats, others: Floats, bent: float, length: float) -> Floats:
        """Return the covariance: of a constant, of the sum of effects and of the remainder.

        Args:
            products: Inner products of rows, (n, m).
            mine: Squared norms of the first ones, (n,).
            others: Squared norms of the second ones, (m,).
            bent: Share of the variance that falls to the remainder.
            length: The remainder's length, in typical distances.
        """
        rate = 0.5 / (length**2 * self._typical)
        # In place: with many architectures, temporary matrices take longer than what is computed.
        found = (2 * rate) * products
        found += (math.log(bent) - rate * mine)[:, None]
        found -= rate * others
        np.exp(found, out=found)
        found += ((1 - bent) / self._unit) * products
        found += 1.0
        return found

    def mean(self, rows: Floats) -> Floats:
        """Return the mean of the figure, (n,): without its deviation, which takes most of the time."""
        kernel = self._mix(rows @ self.rows.T, _norms(rows), self._norms, self._bent, self._length)
        mean: Floats = self._mean + self._scale * (kernel @ self._weights)
        return mean

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the figure without noise, (n,) each."""
        return self.predict_from(rows @ self.rows.T, _norms(rows))

    def predict_from(self, products: Floats, norms: Floats) -> tuple[Floats, Floats]:
        """Do the same without the rows themselves.

        Args:
            products: Inner products of the rows with :attr:`rows`, (n, known).
            norms: Squared norms of the rows, (n,).
        """
        kernel = self._mix(products, norms, self._norms, self._bent, self._length)
        mean = kernel @ self._weights
        own = 1.0 + (1 - self._bent) * norms / self._unit + self._bent
        half = solve_triangular(self._factor, kernel.T, lower=True, check_finite=False)
        variance = own - np.einsum("ij,ij->j", half, half)
        deviation = np.sqrt(self._size * np.maximum(variance, 1e-9))
        return self._mean + self._scale * mean, self._scale * deviation


class Chain:
    """What is believed of the log-odds of the accuracy at the end, from those at a rung, too.

    All trainings passed the rung, and only some went on. So there are two models, of what holds there and of what the
    rest of a training adds, and a line between them::

        z_end = a + b z_rung + d,

    where z_rung and d are Gaussian processes of the architecture, and a and b follow from those that went on. Source:
    M. C. Kennedy and A. O'Hagan, "Predicting the output from a complex computer code when fast approximations are
    available", Biometrika 87(1), 2000, section 2.1.
    """

    def __init__(self, rows: Floats, early: Floats, end: Floats) -> None:
        """Fit both models.

        Args:
            rows: Features, (n, features).
            early: Log-odds at the rung, (n,).
            end: Log-odds at the end, (n,); nan for those that were stopped, which must not be all.
        """
        self.rows = rows
        self._whole = np.isfinite(end)
        x, y = early[self._whole], end[self._whole]
        # As if some had shown already that what is ahead at the rung stays as far ahead: four are too few for a slope.
        centred = x - x.mean()
        self._slope = max(float(centred @ (y - y.mean()) + STEADY) / float(centred @ centred + STEADY), 0.0)
        self._intercept = float(y.mean() - self._slope * x.mean())
        self.early = Model(rows, early)
        self._rest = Model(rows[self._whole], y - self._intercept - self._slope * x)

    def mean(self, rows: Floats) -> Floats:
        """Return the mean at the end, (n,)."""
        return self._intercept + self._slope * self.early.mean(rows) + self._rest.mean(rows)

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation at the end without noise, (n,) each."""
        return self.predict_from(rows @ self.rows.T, _norms(rows))

    def predict_from(self, products: Floats, norms: Floats) -> tuple[Floats, Floats]:
        """Do the same without the rows themselves, as :meth:`Model.predict_from`."""
        mean, deviation = self.early.predict_from(products, norms)
        added, doubt = self._rest.predict_from(products[:, self._whole], norms)
        return self._intercept + self._slope * mean + added, np.hypot(self._slope * deviation, doubt)


def spread(numbers: Ints, count: int) -> Ints:
    """Return so many of the numbers at most, evenly spread over their order."""
    chosen: Ints = numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), count)).astype(int)]
    return chosen


def _norms(rows: Floats) -> Floats:
    """Return the squared norms of rows, (n,)."""
    norms: Floats = np.einsum("ij,ij->i", rows, rows)
    return norms


def _solve(kernel: Floats, y: Floats, noise: float) -> tuple[Floats, Floats]:
    """Return the lower Cholesky factor of kernel + noise I, (n, n), and this matrix' inverse times y, (n,).

    Of the factor's upper triangle nothing is to be read. LAPACK is called directly: of the small matrices of a search's
    first trials there are many, and scipy's own checks take longer than their factors.

    Raises:
        scipy.linalg.LinAlgError: If the matrix is not positive definite.
    """
    noisy = kernel.copy()
    noisy.flat[:: len(y) + 1] += noise
    factor, fault = dpotrf(noisy.T, lower=1, clean=0, overwrite_a=1)  # symmetric; transposed it is in LAPACK's order
    if fault:
        raise LinAlgError(f"the covariance of {len(y)} values must be positive definite, but its minor {fault} is not")
    return factor, dpotrs(factor, y, lower=1)[0]


def _likelihood(kernel: Floats, y: Floats, noise: float) -> float:
    """Return the logarithm of the marginal likelihood with the best scale of kernel and noise, but for a constant."""
    factor, weights = _solve(kernel, y, noise)
    size = float(y @ weights) / len(y)
    return float(-0.5 * len(y) * np.log(max(size, 1e-12)) - np.log(np.diag(factor)).sum())

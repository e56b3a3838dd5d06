"""A sum of shrunken effects, fitted to a figure of architectures: what each placement adds to the bare backbone.

The figure of architecture i follows from a sum,

    sum_i = bare + over its placements (block + site + block at stage + options) + doubles_i + rest_i,

through a straight line or a logistic curve (:class:`Link`), with noise on top. Every kind of effect is normal around 0
with a variance of its own (a mixed model). What placements do to each other is anchored at the bare backbone:
``double`` is a deviation for every two placements that meet, ``crowd`` one that each further placement of an
architecture brings. Both are nothing where there is one placement, so an effect is what the placement does alone, and
an architecture of several placements says less about each of them, by as much as sums are wrong in these data.

The variances are the mode of their posterior, whose weak priors keep them off 0, found by majorisation; the curve is
followed by its tangents, as in penalised quasi-likelihood; effects are best linear predictions, with quantiles of
Student's t as the variances are estimates.

Sources: G. K. Robinson, "That BLUP is a good thing: the estimation of random effects", Statistical Science 6 (1991);
N. E. Breslow and D. G. Clayton, "Approximate inference in generalized linear mixed models", JASA 88 (1993); Y. Chung,
S. Rabe-Hesketh, V. Dorie, A. Gelman and J. Liu, "A nondegenerate penalized likelihood estimator for variance parameters
in multilevel models", Psychometrika 78 (2013); H. Zhou, L. Hu, J. Zhou and K. Lange, "MM algorithms for variance
components models", Journal of Computational and Graphical Statistics 28 (2019); H. Rabitz and O. F. Alis, "General
foundations of high-dimensional model representations", Journal of Mathematical Chemistry 25 (1999), for the anchor.

Shapes: R architectures, C cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.special import expit, logit

from nas.architecture import Architecture
from nas.likeness import EFFECTS, Floats, Ints, Likeness

FITTED = 120
"""So many architectures at most decide on the variances."""
TANGENTS, ROUNDS = 4, 7
"""How often the curve gets new tangents, and steps of the majorisation for each."""
GAINS = dict(zip((*EFFECTS, "rest"), (0.05, 0.2, 0.2, 0.4, 0.03, 0.3, 0.3, 0.01), strict=True))
"""Mode of the prior of each kind's variance, as a share of the variance of the sums; ``rest`` is of each training."""
COSTS = dict(zip((*EFFECTS, "rest"), (0.2, 0.2, 0.02, 0.03, 0.005, 0.005, 0.01, 0.02), strict=True))
"""The same of a figure that is 0 without any placement, as a share of its mean square: costs nearly add up."""
WIDE = 100.0
"""Prior variance of the bare backbone's sum around the mean of the sums, as a multiple of their variance."""
STEEP = 4.0
"""Sums beyond which, on either side, the logistic curve's tangent is taken to fall no further."""
TINY = 1e-8
"""Least variance of a measurement as a share of that of the sums: rounding stays below it."""


@dataclass(frozen=True)
class Link:
    """How a figure follows from a sum of effects: as it is, or by the logistic curve up to a top."""

    top: float | None = None
    """What the figure tends to where ever more is added, with 0 at the other end; None for a straight line."""

    def value(self, total: Floats) -> Floats:
        """Return the figure of sums."""
        return total if self.top is None else self.top * np.asarray(expit(total))

    def slope(self, total: Floats) -> Floats:
        """Return by how much the figure rises with the sum."""
        share = np.asarray(expit(np.clip(total, -STEEP, STEEP)))
        return np.ones_like(total) if self.top is None else self.top * share * (1 - share)

    def total(self, value: Floats) -> Floats:
        """Return sums to begin with: figures near or beyond an end are taken to be 2 % of the way from it."""
        return value if self.top is None else np.asarray(logit(np.clip(value / self.top, 0.02, 0.98)))


@dataclass(frozen=True, kw_only=True)
class Data:
    """One figure of architectures."""

    architectures: Sequence[Architecture]
    values: Floats
    """The figure, (R,)."""
    errors: Floats
    """Known variance of each value, (R,)."""
    images: Floats | None = None
    """Images of which each value is the share that is right, whose chance comes on top, (R,); None where it is not."""
    seeds: Floats
    """Trainings that each value is the mean of, (R,)."""
    seed_variance: float = 0.0
    """Estimate of the variance between trainings of one architecture, in the middle of the figures."""
    seed_degrees: int = 0
    """Its degrees of freedom; 0 where there is none."""
    anchored: bool = False
    """Whether the bare backbone's figure is 0 by definition, as that of a latency relative to it."""

    def known(self, true: Floats, some: Ints) -> Floats:
        """Return the known variance of some measurements, given the true figures."""
        if self.images is None:
            return self.errors[some]
        return self.errors[some] + _binomial(true, self.images[some]) / self.images[some]

    def of_seeds(self, true: Floats, some: Ints) -> Floats:
        """Return the share of some measurements in the variance between seeds: as the images' it falls to the ends."""
        if self.images is None:
            return 1 / self.seeds[some]
        middle = float(np.median(_binomial(self.values, self.images)))
        return _binomial(true, self.images[some]) / middle / self.seeds[some]


def _binomial(true: Floats, images: Floats) -> Floats:
    share = np.clip(true, 0.5 / images, 1 - 0.5 / images)
    found: Floats = share * (1 - share)
    return found


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is believed of the bare backbone's sum and of the cells' effects on it."""

    link: Link
    evidence: float
    """Logarithm of the likelihood of the figures, at the mode of the variances."""
    bare: float
    """Sum of the bare backbone: posterior mean."""
    effects: Floats
    """Posterior mean of each cell's effect, (C,)."""
    covariance: Floats
    """Posterior covariance of the bare backbone's sum and the effects, (1 + C, 1 + C)."""
    prior: Floats
    """Prior variance of each effect, (C,)."""
    degrees: float
    """Degrees of freedom of Student's t."""
    variances: dict[str, float]
    """Estimated variance of each kind, the keys of :data:`GAINS`, in units of the sums; and ``seed`` of figures."""
    left_out: Floats
    """Prediction of each figure from all others, (R,)."""
    noise: Floats
    """Estimated variance of each figure as a measurement of its architecture, (R,)."""


class Additive:
    """The model of one figure, which can be fitted with one link or another."""

    def __init__(self, data: Data) -> None:
        """Find out what the architectures have in common.

        Raises:
            ValueError: If there is no architecture, or a value is not a finite number.
        """
        if not len(data.values) or not np.isfinite(data.values).all():
            raise ValueError(f"the values must be finite numbers, at least one, but got {data.values!r}")
        self._data, count = data, len(data.values)
        self._likeness = Likeness(data.architectures)
        self._every = np.arange(count)
        self._some = np.linspace(0, count - 1, min(count, FITTED)).astype(np.int64)

    def fit(self, link: Link) -> Fit:
        """Fit with one link."""
        return self.best([link], 1.0)[0]

    def best(self, links: Sequence[Link], least: float) -> list[Fit]:
        """Fit with each link, but for those whose likelihood is below a share of the highest.

        The effect of a cell is the mean over the distinct placements of it that the data have.
        """
        modes = [self._mode(link) for link in links]
        highest = max(mode.evidence for mode in modes)
        return [self._posterior(mode) for mode in modes if mode.evidence >= highest + np.log(least)]

    def _mode(self, link: Link) -> _Mode:
        """Return the variances at the mode of their posterior."""
        data, some = self._data, self._some
        totals = link.total(data.values)
        noise = float(np.mean(data.known(data.values, self._every) / link.slope(totals) ** 2))
        scale = max(float(np.mean(totals**2) if data.anchored else totals.var()) + noise, TINY)
        prior = (0.0, 0.0) if data.anchored else (float(totals.mean()), WIDE * scale)
        typical = {kind: share * scale for kind, share in (COSTS if data.anchored else GAINS).items()}
        if data.seed_degrees:
            typical["seed"] = max(data.seed_variance, TINY * scale)
        found, totals = dict(typical), totals[some]
        for _ in range(TANGENTS):
            tangent = _Tangent(data, self._likeness, link, totals, some, prior)
            for _ in range(ROUNDS):
                tangent.solve(found)
                for kind, old in found.items():
                    degrees = data.seed_degrees if kind == "seed" else None
                    found[kind] = _step(old, *tangent.trace_and_square(kind), typical[kind], degrees)
            tangent.solve(found)
            totals = tangent.totals
        return _Mode(link, found, prior, tangent.evidence)

    def _posterior(self, mode: _Mode) -> Fit:
        variances, (offset, wide), totals = mode.variances, mode.prior, mode.link.total(self._data.values)
        straight = mode.link.top is None and self._data.images is None
        for _ in range(1 if straight else TANGENTS):
            tangent = _Tangent(self._data, self._likeness, mode.link, totals, self._every, mode.prior)
            tangent.solve(variances)
            totals = tangent.totals
        inverse = tangent.inverse
        cells = len(self._likeness.features["cell"][1])
        across, prior = np.zeros((len(self._every), 1 + cells)), np.zeros((1 + cells, 1 + cells))
        across[:, 0], prior[0, 0] = wide * self._likeness.same.mean(1), wide * self._likeness.same.mean()
        for kind, (rows, of_cells) in self._likeness.features.items():
            across[:, 1:] += variances[kind] * rows @ of_cells.T
            prior[1:, 1:] += variances[kind] * of_cells @ of_cells.T
        mean = across.T @ tangent.weights
        covariance = prior - across.T @ inverse @ across
        # The trace of what smooths the values is the number of parameters in effect.
        smooth = len(self._every) - float(inverse.diagonal() @ tangent.noise)
        slopes = tangent.link.slope(tangent.at)
        return Fit(
            link=tangent.link,
            evidence=mode.evidence,
            bare=offset + float(mean[0]),
            effects=mean[1:],
            covariance=(covariance + covariance.T) / 2,
            prior=prior.diagonal()[1:],
            degrees=max(3.0, len(self._every) - smooth + self._data.seed_degrees),
            variances=variances,
            left_out=tangent.link.value(tangent.aims - tangent.weights / inverse.diagonal()),
            noise=tangent.noise * slopes**2,
        )


@dataclass(frozen=True)
class _Mode:
    """Where the posterior of the variances is highest with a link."""

    link: Link
    variances: dict[str, float]
    prior: tuple[float, float]
    """Prior mean and variance of the bare backbone's sum."""
    evidence: float


class _Tangent:
    """The model where the link is replaced by its tangents: linear in the sums, with normal noise."""

    def __init__(
        self, data: Data, likeness: Likeness, link: Link, at: Floats, some: Ints, prior: tuple[float, float]
    ) -> None:
        slopes, true = link.slope(at), link.value(at)
        self.link, self.at, self._slopes = link, at, slopes
        self.aims = at + (data.values[some] - true) / slopes
        """What the sums seem to be, (R,)."""
        self._fixed = data.known(true, some) / slopes**2 + TINY * max(float(self.aims.var()), TINY)
        self._offset, wide = prior
        self._wide = wide * likeness.same[np.ix_(some, some)]
        rest = likeness.count[some] if data.anchored else np.ones(len(some))
        self._single = {"rest": rest, "seed": data.of_seeds(true, some) / slopes**2}
        self._between = {kind: likeness.between(kind, some) for kind in EFFECTS}

    def solve(self, variances: dict[str, float]) -> None:
        """Find the inverse of the covariance of the aims, (R, R), and that times the aims, (R,)."""
        self.noise = self._fixed + sum(variances.get(kind, 0.0) * each for kind, each in self._single.items())
        total = self._wide.copy()
        for kind, each in self._between.items():
            total += variances[kind] * each
        total.flat[:: len(self.aims) + 1] += self.noise
        factor, fault = dpotrf(total, lower=1)
        if fault:
            raise ValueError(f"the covariance of {len(total)} values must be positive definite, but it is not: {fault}")
        self._log_root = float(np.log(factor.diagonal()).sum())
        lower = np.tril(dpotri(factor, lower=1)[0])
        self.inverse = lower + np.tril(lower, -1).T
        self.weights = self.inverse @ (self.aims - self._offset)

    def trace_and_square(self, kind: str) -> tuple[float, float]:
        """Return tr(S^-1 K) and a' S^-1 K S^-1 a, with S the covariance of the aims a, K that of one kind."""
        single = self._single.get(kind)
        if single is not None:
            return float(self.inverse.diagonal() @ single), float(self.weights**2 @ single)
        between = self._between[kind]
        return float(np.vdot(self.inverse, between)), float(self.weights @ between @ self.weights)

    @property
    def totals(self) -> Floats:
        """The sums without noise: posterior mean, (R,)."""
        found: Floats = self.aims - self.noise * self.weights
        return found

    @property
    def evidence(self) -> float:
        """The logarithm of the likelihood of the figures, but for a constant."""
        return (
            -0.5 * float((self.aims - self._offset) @ self.weights) - self._log_root - float(np.log(self._slopes).sum())
        )


def _step(old: float, trace: float, square: float, typical: float, seed_degrees: int | None) -> float:
    """Return where the surrogate of one variance v is least.

    Minus twice the logarithm of the posterior is at most trace v + old^2 square / v and its prior, up to a constant:
    for effects v / typical - log v, which is least at ``typical``; for the seeds what replicates say of their variance,
    d (log v + typical / v) with d degrees of freedom.
    """
    linear, log, inverse = trace + 1 / typical, -1.0, old**2 * square
    if seed_degrees is not None:
        linear, log, inverse = trace, float(seed_degrees), old**2 * square + seed_degrees * typical
    root = (log**2 + 4 * linear * inverse) ** 0.5
    return max(float(2 * inverse / (root + log) if log > 0 else (root - log) / (2 * linear)), 1e-300)

"""The next architecture: the one by which the dominated area is expected to grow most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.front import non_dominated
from nas.study.encoding import Encoding, Floats, Ints
from nas.study.surrogate import EXACT, FITTED, Model, spread

STARTUP = 5
"""So many architectures are known before the model is asked; until then each shows as much that is new as it can.

The model is asked at once where an architecture was beyond the limits: what shows most also costs most.
"""
DRAWN = 400
"""Random architectures among the candidates."""
CHANGED = 600
"""Candidates that differ from a good architecture in one or two stages, or are crossed from two."""
CLIMBED = 5
"""Candidates whose neighbours are looked at as well, twice."""
MARGIN = 0.1
"""How far beyond the front's ends the area reaches, as a share of the front's extent."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What is known of the architectures of a space: one row each."""

    vectors: Ints
    """Their vectors, (n, stages)."""
    pending: NDArray[np.bool_]
    """Whether each is in work: (n,). One that is neither in work nor has an accuracy failed, or was not trained."""
    accuracy: Floats
    """Log-odds of the accuracy, nan where none is known; what is foretold of one that was stopped early: (n,)."""
    doubts: Floats
    """Standard deviation of each beyond the noise that all have, more than 0 where it is foretold: (n,)."""
    nominal_ms: Floats
    """Nominal latency in ms, nan where none is known: (n,)."""
    excess: Floats
    """How far each is beyond each limit, nan where that is not known: (n, limits)."""

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether each was trained to the end: (n,)."""
        found: NDArray[np.bool_] = np.isfinite(self.accuracy) & (self.doubts == 0)
        return found


def suggest(encoding: Encoding, observed: Observed, seed: int) -> Ints | None:
    """Return the vector of the next architecture, or None if no candidate is new.

    Args:
        encoding: The space.
        observed: What is known, without the architectures in work having an accuracy.
        seed: Seed of the candidates.
    """
    generator = np.random.default_rng(seed)
    seen = {vector.tobytes() for vector in observed.vectors}
    unlimited = not (observed.excess > 0).any()
    if not observed.finished.any() or (len(observed.vectors) < STARTUP and unlimited):
        return _showing_most(encoding, observed.vectors, _new(encoding.draw(DRAWN, 0.3, generator), seen))
    gain = Gain(encoding, observed)
    candidates = _new(_candidates(encoding, gain.good, generator), seen)
    if not len(candidates):
        return None
    values = gain(candidates)
    for _ in range(2):
        best = candidates[np.argsort(-values, kind="stable")[:CLIMBED]]
        near = _new(np.concatenate([encoding.neighbours(vector) for vector in best]), seen)
        if not len(near):
            break
        candidates, values = np.concatenate([candidates, near]), np.concatenate([values, gain(near)])
    vector: Ints = candidates[int(np.argmax(values))]
    return vector


def _new(vectors: Ints, seen: set[bytes]) -> Ints:
    """Return the distinct vectors that are not seen, in their order."""
    distinct = {vector.tobytes(): number for number, vector in reversed(list(enumerate(vectors)))}
    return vectors[sorted(number for key, number in distinct.items() if key not in seen)]


def _showing_most(encoding: Encoding, known: Ints, candidates: Ints) -> Ints | None:
    """Return the candidate with most features that no known architecture has; weighty features count for more."""
    if not len(candidates):
        return None
    shown = (encoding.rows(known) > 0).any(axis=0) if len(known) else False
    vector: Ints = candidates[int(np.argmax((encoding.rows(candidates) * ~np.asarray(shown)).sum(axis=1)))]
    return vector


def _candidates(encoding: Encoding, good: Ints, generator: np.random.Generator) -> Ints:
    """Return random vectors, and some that were made of good ones."""
    drawn = [encoding.draw(DRAWN // 2, empty, generator) for empty in (0.2, 0.6)]
    parents = good[generator.integers(len(good), size=CHANGED)]
    # A third each: one stage changed, two stages changed, crossed with another good one.
    kind = np.arange(CHANGED)[:, None] % 3
    order = generator.random(parents.shape).argsort(axis=1)
    changed = np.where(kind == 2, order < parents.shape[1] // 2, order <= kind)
    crossed = good[generator.integers(len(good), size=CHANGED)]
    source = np.where(kind == 2, crossed, encoding.draw(CHANGED, 0.35, generator))
    children = np.where(changed, source, parents)
    return np.concatenate([*drawn, encoding.bounded(children, generator)])


class Gain:
    """Expected growth of the area between the front and a reference point, times the probability to be within limits.

    With the front's accuracies a_1 < a_2 < ... < a_n (their means under the model, so that no lucky training counts as
    progress), h_i the latency of the quickest member that is at least as accurate as a_i, and the reference point at
    accuracy a_0 and latency h_(n+1), above an accuracy of which a_(n+1) = infinity has no member::

        gain = sum_i (E[(A - a_(i-1))+] - E[(A - a_i)+]) E[(h_i - L)+]

    over i = 1 ... n + 1, for an architecture whose accuracy A and latency L are independent and normal: the area's
    integral over accuracy, cut at the members of the front. E[(X - t)+] = s (z ndtr(z) + phi(z)) with z = (m - t) /
    s.

    What was stopped early says something about the accuracies of its like, but nobody would use it: it is no member.
    """

    def __init__(self, encoding: Encoding, observed: Observed) -> None:
        """Fit the models, and find the front."""
        self._encoding = encoding
        rows = encoding.rows(observed.vectors)
        timed = np.isfinite(observed.nominal_ms)
        some = spread(np.flatnonzero(timed), FITTED)  # enough for what is counted: nearly a sum, and without noise
        self._latency = Model(rows[some], observed.nominal_ms[some], (EXACT,))
        told = np.isfinite(observed.accuracy)
        self._accuracy = Model(rows[told], observed.accuracy[told], doubts=observed.doubts[told])
        # Those in work are taken to turn out as the model says, so that the next one is not the same again.
        waiting = observed.pending & ~told
        if waiting.any():
            accuracy, doubts, taken = observed.accuracy.copy(), np.where(waiting, 0.0, observed.doubts), told | waiting
            accuracy[waiting] = self._accuracy.mean(rows[waiting])
            self._accuracy = Model(rows[taken], accuracy[taken], doubts=doubts[taken])
        limits = [
            Model(rows[known], column[known], (EXACT, *NOISY))
            for column in observed.excess.T
            if (known := np.isfinite(column)).sum() > 1 and (column[known] > 0).any()
        ]
        self._models = [self._accuracy, self._latency, *limits]
        self._projected = [encoding.projected(model.rows) for model in self._models]
        latency = observed.nominal_ms.copy()
        latency[~timed] = self._latency.mean(rows[~timed])
        members = observed.finished | waiting
        self._find_front(observed.vectors[members], self._accuracy.mean(rows[members]), latency[members])

    def _find_front(self, vectors: Ints, accuracy: Floats, latency: Floats) -> None:
        members = np.flatnonzero(non_dominated(list(zip(accuracy.tolist(), latency.tolist(), strict=True))))
        members = members[np.argsort(latency[members], kind="stable")]
        self.good = vectors[members]
        a, h = accuracy[members], latency[members]  # both ascend
        low = a[0] - MARGIN * (max(np.ptp(a), np.std(accuracy)) or 1.0)
        # Half way to the slowest one at least: a front that is short so far, as where only the bare backbone is on it,
        # would leave no room in which what costs some latency and brings some accuracy could gain anything.
        slow = max(h[-1] + MARGIN * np.ptp(h), (h[0] + latency.max()) / 2)
        self._edges = np.r_[low, a, np.inf]
        self._heights = np.r_[h, slow]

    def __call__(self, vectors: Ints) -> Floats:
        """Return the expected gain of each vector, (n,)."""
        norms = self._encoding.norms(vectors)
        beliefs = [
            model.predict_from(self._encoding.products(vectors, projected), norms)
            for model, projected in zip(self._models, self._projected, strict=True)
        ]
        (mean, deviation), (nominal, doubt), *limits = beliefs
        over = _expected_excess(mean, deviation, self._edges[:-1])
        over = over - np.c_[over[:, 1:], np.zeros(len(over))]
        gain: Floats = (over * _expected_excess(-nominal, doubt, -self._heights)).sum(axis=1)
        for excess, deviation in limits:
            gain = gain * ndtr(-excess / deviation)
        return gain


NOISY = (0.01, 0.1)
"""Variances of the noise of what a clock says, over that of the figure."""


def _expected_excess(mean: Floats, deviation: Floats, thresholds: Floats | Sequence[float]) -> Floats:
    """Return E[(X - t)+] of normal X, (n, thresholds)."""
    z = (mean[:, None] - np.asarray(thresholds)[None]) / deviation[:, None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    excess: Floats = deviation[:, None] * (z * ndtr(z) + density)
    return excess

"""The next architecture: the one by which the dominated area is expected to grow most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.front import non_dominated
from nas.study.encoding import Encoding, Floats, Ints
from nas.study.surrogate import EXACT, FITTED, Chain, Model, spread

STARTUP = 10
"""So many architectures are known before the model is asked; until then each shows as much that is new as it can.

With fewer, a block that helps at one stage alone may never be tried there: what was seen looks alike then, and the
model takes that for all there is. The model is asked at once where an architecture was beyond the limits: what shows
most also costs most.
"""
DRAWN = 400
"""Random architectures among the candidates."""
CHANGED = 600
"""Candidates that differ from a good architecture in one or two stages, or are crossed from two."""
CLIMBED = 5
"""Candidates whose neighbours are looked at as well, twice."""
PAIRS = 4
"""Fewer trainings to the end do not say how sure the rest of a training is."""
MARGIN = 0.1
"""How far beyond the front's ends the area reaches, as a share of the front's extent."""
STEP = 0.5
"""So far in log-odds accuracy is taken to be a straight line of them."""
REACH = 4.0
"""So far in log-odds the area reaches beyond the front's best: there 98 % of its errors are gone."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What is known of the architectures of a space: one row each."""

    vectors: Ints
    """Their vectors, (n, stages)."""
    pending: NDArray[np.bool_]
    """Whether each is in work: (n,). One that is neither in work nor has an accuracy failed, or was not trained."""
    accuracy: Floats
    """Accuracy at the end of the training, 0 to 1, nan where none is known: (n,)."""
    early: Floats
    """Accuracy at the rung at which trainings are stopped, nan where none is known: (n,)."""
    rest: Floats
    """Share of its training that is left of each that was stopped, nan of the others: (n,)."""
    nominal_ms: Floats
    """Nominal latency in ms, nan where none is known: (n,)."""
    excess: Floats
    """How far each is beyond each limit, nan where that is not known: (n, limits)."""

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether each was trained to the end: (n,)."""
        return np.isfinite(self.accuracy)

    @property
    def stopped(self) -> NDArray[np.bool_]:
        """Whether the training of each was stopped and may be taken up again: (n,)."""
        return np.isfinite(self.rest)


def suggest(encoding: Encoding, observed: Observed, seed: int, startup: int = STARTUP) -> Ints | None:
    """Return the vector of what to train next, or None if there is nothing to train.

    That is a new architecture, or one whose training was stopped and is worth more now than all others: per epoch, of
    which it needs only those that are left.

    Args:
        encoding: The space.
        observed: What is known, without the architectures in work having an accuracy.
        seed: Seed of the candidates.
        startup: So many architectures are known before the model is asked.
    """
    generator = np.random.default_rng(seed)
    seen = {vector.tobytes() for vector in observed.vectors}
    unlimited = not (observed.excess > 0).any()
    if not observed.finished.any() or (len(observed.vectors) < startup and unlimited):
        drawn = _new(encoding.draw(DRAWN, 0.3, generator), seen)
        shown = _showing_most(encoding, observed.vectors, seen, drawn)
        if shown is not None or not observed.finished.any():
            return shown
    gain = Gain(encoding, observed)
    best, most = _most(encoding, gain, _new(_candidates(encoding, gain.good, generator), seen), seen)
    begun = observed.vectors[observed.stopped]
    if len(begun):
        values = gain(begun) / observed.rest[observed.stopped]
        if best is None or values.max() > most:
            best = begun[int(np.argmax(values))]
    return best


def _most(encoding: Encoding, gain: Gain, candidates: Ints, seen: set[bytes]) -> tuple[Ints | None, float]:
    """Return the new vector that gains most, and how much: of the candidates, and of the neighbours of the best."""
    if not len(candidates):
        return None, 0.0
    values = gain(candidates)
    for _ in range(2):
        best = candidates[np.argsort(-values, kind="stable")[:CLIMBED]]
        near = _new(np.concatenate([encoding.neighbours(vector) for vector in best]), seen)
        if not len(near):
            break
        candidates, values = np.concatenate([candidates, near]), np.concatenate([values, gain(near)])
    number = int(np.argmax(values))
    return candidates[number], float(values[number])


def _new(vectors: Ints, seen: set[bytes]) -> Ints:
    """Return the distinct vectors that are not seen, in their order."""
    distinct = {vector.tobytes(): number for number, vector in reversed(list(enumerate(vectors)))}
    return vectors[sorted(number for key, number in distinct.items() if key not in seen)]


def _showing_most(encoding: Encoding, known: Ints, seen: set[bytes], candidates: Ints) -> Ints | None:
    """Return a vector with as many features as can be that no known architecture has; weighty ones count for more.

    It is the best one of the candidates, changed at one stage after the other as long as that shows more.
    """
    if not len(candidates):
        return None
    new: Floats = np.where((encoding.rows(known) > 0).any(axis=0), 0.0, encoding.weights)

    def show(vectors: Ints) -> Floats:
        found: Floats = (encoding.rows(vectors) > 0) @ new
        return found

    best: Ints = candidates[int(np.argmax(show(candidates)))]
    for _ in encoding.stages:
        near = np.concatenate([best[None], _new(encoding.neighbours(best), seen)])
        best = near[int(np.argmax(show(near)))]
    return best


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

    The model believes in effects on log-odds: what a block brings is rather a share of the answers that are still wrong
    than so many points whatever the accuracy. The area is one of accuracy all the same, because that is what counts in
    the end. With the log-odds of the front's accuracies z_1 < z_2 < ... < z_n (their means under the model, so that no
    lucky training counts as progress), h_i the latency of the quickest member that is at least as accurate as z_i, and
    the reference point at z_0 and latency h_(n+1), above an accuracy of which z_(n+1) has no member::

        gain = sum_i (E[(Z - z_(i-1))+] - E[(Z - z_i)+]) c_i E[(h_i - L)+]

    over i = 1 ... n + 1, for an architecture whose log-odds Z and latency L are independent and normal: the area's
    integral over log-odds, cut at the members of the front, where c_i is the rise of the accuracy from z_(i-1) to z_i
    over their distance. Where that is beyond :data:`STEP`, it is cut once more. E[(X - t)+] = s (z ndtr(z) + phi(z))
    with z = (m - t) / s.

    What was stopped early says something about the accuracies of its like (:class:`nas.study.surrogate.Chain`), but
    nobody would use it: it is no member of the front.
    """

    def __init__(self, encoding: Encoding, observed: Observed) -> None:
        """Fit the models, and find the front."""
        self._encoding = encoding
        rows = encoding.rows(observed.vectors)
        timed = np.isfinite(observed.nominal_ms)
        some = spread(np.flatnonzero(timed), FITTED)  # enough for what is counted: nearly a sum, and without noise
        self._latency = Model(rows[some], observed.nominal_ms[some], (EXACT,))
        odds, early = log_odds(observed.accuracy), log_odds(observed.early)
        self._odds = _model(rows, odds, early)
        # Those in work are taken to turn out as the model says, so that the next one is not the same again.
        waiting = observed.pending & ~observed.finished
        if waiting.any():
            odds[waiting] = self._odds.mean(rows[waiting])
            if isinstance(self._odds, Chain):
                missing = waiting & np.isnan(early)
                early[missing] = self._odds.early.mean(rows[missing])
            self._odds = _model(rows, odds, early)
        limits = [
            Model(rows[known], column[known], (EXACT, *NOISY))
            for column in observed.excess.T
            if (known := np.isfinite(column)).sum() > 1 and (column[known] > 0).any()
        ]
        self._models: list[Model | Chain] = [self._odds, self._latency, *limits]
        self._projected = [encoding.projected(model.rows) for model in self._models]
        latency = observed.nominal_ms.copy()
        latency[~timed] = self._latency.mean(rows[~timed])
        members = np.isfinite(odds)
        self._find_front(observed.vectors[members], self._odds.mean(rows[members]), latency[members])

    def _find_front(self, vectors: Ints, odds: Floats, latency: Floats) -> None:
        members = np.flatnonzero(non_dominated(list(zip(odds.tolist(), latency.tolist(), strict=True))))
        members = members[np.argsort(latency[members], kind="stable")]
        self.good = vectors[members]
        z, h = odds[members], latency[members]  # both ascend
        low = z[0] - MARGIN * (max(np.ptp(z), np.std(odds)) or 1.0)
        # Half way to the slowest one at least: a front that is short so far, as where only the bare backbone is on it,
        # would leave no room in which what costs some latency and brings some accuracy could gain anything.
        slow = max(h[-1] + MARGIN * np.ptp(h), (h[0] + latency.max()) / 2)
        ends = np.r_[low, z, z[-1] + REACH]
        parts = [np.linspace(a, b, 1 + max(1, math.ceil((b - a) / STEP))) for a, b in itertools.pairwise(ends)]
        self._edges = np.r_[low, np.concatenate([part[1:] for part in parts])]
        self._starts = np.cumsum([0, *(len(part) - 1 for part in parts[:-1])])
        widths, rises = np.diff(self._edges), np.diff(1 / (1 + np.exp(-self._edges)))
        self._slopes = np.divide(rises, widths, out=np.zeros_like(rises), where=widths > 0)  # two as good as each other
        self._heights = np.r_[h, slow]

    def __call__(self, vectors: Ints) -> Floats:
        """Return the expected gain of each vector, (n,)."""
        norms = self._encoding.norms(vectors)
        beliefs = [
            model.predict_from(self._encoding.products(vectors, projected), norms)
            for model, projected in zip(self._models, self._projected, strict=True)
        ]
        (mean, deviation), (nominal, doubt), *limits = beliefs
        over = _expected_excess(mean, deviation, self._edges)
        above = np.add.reduceat((over[:, :-1] - over[:, 1:]) * self._slopes, self._starts, axis=1)
        gain: Floats = (above * _expected_excess(-nominal, doubt, -self._heights)).sum(axis=1)
        for excess, deviation in limits:
            gain = gain * ndtr(-excess / deviation)
        return gain


def _model(rows: Floats, odds: Floats, early: Floats) -> Model | Chain:
    """Return what is believed of the log-odds at the end, of those there and of those at the rung, nan for unknown."""
    told = np.isfinite(odds)
    both = told & np.isfinite(early)
    if both.sum() < PAIRS or np.array_equal(np.isfinite(early), both):  # none was stopped
        return Model(rows[told], odds[told])
    short = np.isfinite(early)
    return Chain(rows[short], early[short], odds[short])


def log_odds(accuracy: Floats) -> Floats:
    """Return accuracies as log-odds; nan stays nan.

    None or all right would be infinite: an accuracy is taken to be at least half as far from both ends as the nearest
    one that is not there.
    """
    shares = np.r_[accuracy, 1 - accuracy]
    least = np.min(shares, where=shares > 0, initial=1.0) / 2  # nan is not above 0
    inner = np.clip(accuracy, least, 1 - least)
    odds: Floats = np.log(inner / (1 - inner))
    return odds


NOISY = (0.01, 0.1)
"""Variances of the noise of what a clock says, over that of the figure."""


def _expected_excess(mean: Floats, deviation: Floats, thresholds: Floats | Sequence[float]) -> Floats:
    """Return E[(X - t)+] of normal X, (n, thresholds)."""
    z = (mean[:, None] - np.asarray(thresholds)[None]) / deviation[:, None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    excess: Floats = deviation[:, None] * (z * ndtr(z) + density)
    return excess

"""The next architecture: the one by which the dominated area is expected to grow most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from nas.front import non_dominated
from nas.study.encoding import Encoding, Floats, Ints
from nas.study.surrogate import EXACT, Model

STARTUP = 5
"""So many architectures are known before the model is asked; until then each shows as much that is new as it can."""
DRAWN = 400
"""Random architectures among the candidates."""
CHANGED = 600
"""Candidates that differ from a good architecture in one or two stages, or are crossed from two."""
CLIMBED = 5
"""Candidates whose neighbours are looked at as well, twice."""
TIMED = 200
"""So many latencies are enough to know them all: they are sums without noise."""
MARGIN = 0.1
"""How far beyond the front's ends the area reaches, as a share of the front's extent."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What is known of the architectures of a space: one row each."""

    vectors: Ints
    """Their vectors, (n, 1 + stages)."""
    accuracy: Floats
    """Accuracy, nan where none is known: (n,)."""
    nominal_ms: Floats
    """Nominal latency in ms, nan where none is known: (n,)."""
    excess: Floats
    """How far each is beyond each limit, nan where that is not known: (n, limits)."""


Entry = tuple[Ints, tuple[float, float] | None, float | None, Mapping[str, float]]
"""Vector; accuracy and nominal latency of a finished one; nominal latency of one that was not trained; its excesses."""


def observe(encoding: Encoding, entries: Sequence[Entry]) -> Observed:
    """Put together what is known."""
    names = sorted({name for *_, excess in entries for name in excess})
    return Observed(
        vectors=np.array([vector for vector, *_ in entries], dtype=np.int64).reshape(-1, encoding.length + 1),
        accuracy=np.array([values[0] if values else np.nan for _, values, _, _ in entries]),
        nominal_ms=np.array(
            [values[1] if values else np.nan if nominal is None else nominal for _, values, nominal, _ in entries]
        ),
        excess=np.array([[excess.get(name, np.nan) for name in names] for *_, excess in entries]).reshape(
            len(entries), len(names)
        ),
    )


def suggest(encoding: Encoding, observed: Observed, seed: int) -> Ints | None:
    """Return the vector of the next architecture, or None if no candidate is new.

    Args:
        encoding: The space.
        observed: What is known, without the architectures in work having an accuracy.
        seed: Seed of the candidates.
    """
    generator = np.random.default_rng(seed)
    seen = {vector.tobytes() for vector in observed.vectors}
    finished = np.isfinite(observed.accuracy)
    if len(observed.vectors) < STARTUP or finished.sum() < 3:
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
    other = encoding.draw(CHANGED, 0.35, generator)
    other[:, 0] = parents[:, 0]
    for number in range(len(encoding.backbones)):
        mine = np.flatnonzero(parents[:, 0] == number)
        for stage in range(len(encoding.stages[number])):
            other[mine, stage + 1] = encoding.draw_stage(number, stage, len(mine), 0.35, generator)
    # A third each: one stage changed, two stages changed, crossed with another good one.
    crossed = good[generator.integers(len(good), size=CHANGED)]
    crossed = np.where((crossed[:, :1] == parents[:, :1]), crossed, parents)
    kind = np.arange(CHANGED) % 3
    order = generator.random((CHANGED, encoding.length)).argsort(axis=1)
    changed = np.where(kind[:, None] == 2, order < encoding.length // 2, order <= kind[:, None])
    source = np.where(kind[:, None] == 2, crossed, other)[:, 1:]
    children = parents.copy()
    children[:, 1:] = np.where(changed, source, parents[:, 1:])
    return np.concatenate([*drawn, children])


class Gain:
    """Expected growth of the area between the front and a reference point, times the probability to be within limits.

    With the front's accuracies a_1 < a_2 < ... (their means under the model, so that no lucky training counts as
    progress) and h_i the latency of the quickest member that is at least as accurate as a_i::

        gain = sum_i (E[(A - a_(i-1))+] - E[(A - a_i)+]) E[(h_i - L)+]

    for an architecture whose accuracy A and latency L are independent and normal: the area's integral over accuracy,
    cut at the members of the front. E[(X - t)+] = s (z ndtr(z) + phi(z)) with z = (m - t) / s.
    """

    def __init__(self, encoding: Encoding, observed: Observed) -> None:
        """Fit the models, and find the front."""
        self._encoding = encoding
        rows = encoding.rows(observed.vectors)
        timed = np.isfinite(observed.nominal_ms)
        some = np.flatnonzero(timed)[:TIMED]
        self._latency = Model(rows[some], observed.nominal_ms[some], (EXACT,))
        done = np.isfinite(observed.accuracy)
        first = Model(rows[done], observed.accuracy[done])
        # Those in work are taken to turn out as the model says, so that the next one is not the same again.
        waiting = ~done & ~(observed.excess > 0).any(axis=1)
        accuracy = np.where(waiting, first.predict(rows)[0], observed.accuracy)
        believed = np.isfinite(accuracy)
        self._accuracy = first if not waiting.any() else Model(rows[believed], accuracy[believed])
        self._limits = [
            Model(rows[known], column[known], (EXACT, *NOISY))
            for column in observed.excess.T
            if (known := np.isfinite(column)).sum() > 1 and (column[known] > 0).any()
        ]
        latency = np.where(timed, observed.nominal_ms, self._latency.predict(rows)[0])
        self._find_front(observed.vectors[believed], self._accuracy.predict(rows[believed])[0], latency[believed])

    def _find_front(self, vectors: Ints, accuracy: Floats, latency: Floats) -> None:
        members = np.flatnonzero(non_dominated(list(zip(accuracy.tolist(), latency.tolist(), strict=True))))
        members = members[np.argsort(latency[members], kind="stable")]
        self.good = vectors[members]
        a, h = accuracy[members], latency[members]  # both ascend
        low = a[0] - MARGIN * (max(np.ptp(a), np.std(accuracy)) or 1.0)
        slow = max(h[-1] + MARGIN * np.ptp(h), float(np.quantile(latency, 0.75)))
        self._edges = np.r_[low, a, np.inf]
        self._heights = np.r_[h, slow]

    def __call__(self, vectors: Ints) -> Floats:
        """Return the expected gain of each vector, (n,)."""
        rows = self._encoding.rows(vectors)
        mean, deviation = self._accuracy.predict(rows)
        over = _expected_excess(mean, deviation, self._edges[:-1])
        over = over - np.c_[over[:, 1:], np.zeros(len(over))]
        nominal, doubt = self._latency.predict(rows)
        gain: Floats = (over * _expected_excess(-nominal, doubt, -self._heights)).sum(axis=1)
        for model in self._limits:
            excess, spread = model.predict(rows)
            gain = gain * ndtr(-excess / spread)
        return gain


NOISY = (0.01, 0.1)
"""Variances of the noise of what a clock says, over that of the figure."""


def _expected_excess(mean: Floats, deviation: Floats, thresholds: Floats | Sequence[float]) -> Floats:
    """Return E[(X - t)+] of normal X, (n, thresholds)."""
    z = (mean[:, None] - np.asarray(thresholds)[None]) / deviation[:, None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    excess: Floats = deviation[:, None] * (z * ndtr(z) + density)
    return excess

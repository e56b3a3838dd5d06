"""Intervals for what a clock says: of the median of samples, and of the centre of rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median by order statistics, which assumes nothing about the distribution.

    The interval reaches from the k-th smallest to the k-th largest sample with the largest k for which
    P(Binomial(n, 1/2) < k) <= 0.025. Source: H. A. David and H. N. Nagaraja, "Order Statistics" (2003), section 7.1.
    Fewer than six samples cannot give 95 %; their smallest and largest are returned.

    Raises:
        ValueError: If there are no samples.
    """
    if not samples:
        raise ValueError("samples must not be empty")
    ordered = sorted(samples)
    rank = max(1, _interval_rank(len(ordered)))
    return ordered[rank - 1], ordered[-rank]


@cache
def _interval_rank(n: int) -> int:
    """Return the largest k with P(Binomial(n, 1/2) < k) <= 0.025, in exact integers; 0 if there is none."""
    term, total, rank = 1, 1, 0  # C(n, 0) and P(X < 1) * 2^n
    while 40 * total <= 2**n:
        rank += 1
        term = term * (n - rank + 1) // rank
        total += term
    return rank


TRIMMED = 0.2
"""Share of the rounds that is left out at either end."""


def trimmed_mean_interval(rounds: Sequence[float]) -> tuple[float, float, float]:
    """Return the trimmed mean of what rounds found, and its 95 % interval.

    With g = floor(0.2 n) values left out at either end and h = n - 2g kept, the mean of those kept has the standard
    error s_w / (0.6 sqrt(n)), where s_w is the standard deviation with the values left out replaced by the nearest one
    kept, and Student's distribution with h - 1 degrees of freedom. A plain mean is moved by one bad round, and a
    percentile bootstrap over so few rounds is too narrow. Source: J. W. Tukey and D. H. McLaughlin, "Less vulnerable
    confidence and significance procedures for location based on a single sample", Sankhya A 25 (1963).

    Raises:
        ValueError: If there are fewer than three rounds.
    """
    if len(rounds) < 3:
        raise ValueError(f"an interval takes at least 3 rounds, but got {len(rounds)}")
    ordered = sorted(rounds)
    out = int(TRIMMED * len(ordered))
    kept = ordered[out : len(ordered) - out]
    winsorised = [kept[0]] * out + kept + [kept[-1]] * out
    centre = statistics.fmean(kept)
    half = _t975(len(kept) - 1) * statistics.stdev(winsorised) / ((1 - 2 * TRIMMED) * math.sqrt(len(ordered)))
    return centre, centre - half, centre + half


@cache
def _t975(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))

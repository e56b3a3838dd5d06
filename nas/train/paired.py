"""Whether one network classifies the same images better than another: the paired difference and its interval.

Plain statistics: needs neither torch nor Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.evaluation import wilson_interval
from nas.train.settings import counted


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much more of the same images one network classifies correctly than another."""

    difference: float
    """Accuracy of the first minus that of the second, -1 to 1; the mean over the seeds."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    images: int
    """Number of images, the same for both."""
    seeds: int
    """Trainings of each of the two."""
    only_first: int
    """Images, summed over the seeds, that the first alone classifies correctly."""
    only_second: int
    """Images, summed over the seeds, that the second alone classifies correctly."""

    @property
    def is_everywhere_alike(self) -> bool:
        """Whether the two agree on each image in each seed, so that nothing shows how seeds differ."""
        return not self.only_first and not self.only_second

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high

    def sentence(self) -> str:
        """Return the difference, its interval and what it means."""
        figures = f"{100 * self.difference:+.2f} points [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"
        counts = f"{self.only_first} right with the blocks only, {self.only_second} right without them only"
        if self.within_noise:
            verdict = "This is within noise: the blocks cannot be said to change the accuracy"
        else:
            beyond = "noise" if self.seeds > 1 else "what the choice of test images explains"
            verdict = f"The blocks {'raise' if self.difference > 0 else 'lower'} the accuracy beyond {beyond}"
        each = f"each of {self.seeds} seeds" if self.seeds > 1 else "one seed"
        if self.seeds == 1:
            known = "the interval is that of these two trainings; other seeds give others, --seeds 3 counts that in"
        elif self.is_everywhere_alike:
            known = (
                "the interval counts in the choice of images only: the two agree on each image in each seed, which "
                "does not show what other seeds do"
            )
        else:
            known = "the interval counts in both the choice of images and the seeds"
        return (
            f"Difference to the bare backbone on the same {counted(self.images, 'test image')}, {each}: {figures} "
            f"(95 %; {counts}). {verdict}; {known}."
        )


def newcombe(both: int, first: int, second: int, neither: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of the difference of two shares that were observed on the same cases (95 % at z = 1.96).

    Args:
        both: Cases in which both succeed.
        first: Cases in which the first alone succeeds.
        second: Cases in which the second alone succeeds.
        neither: Cases in which neither succeeds.
        z: Quantile of the normal distribution.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17 (1998), method 10.

    Raises:
        ValueError: If there are no cases.
    """
    n = both + first + second + neither
    if n < 1:
        raise ValueError("the difference needs at least 1 case, but got 0")
    share_1, share_2 = (both + first) / n, (both + second) / n
    low_1, high_1 = wilson_interval(share_1, n, z)
    low_2, high_2 = wilson_interval(share_2, n, z)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    product = float(both * neither - first * second)
    if product > 0:
        product = max(product - n / 2, 0.0)  # the method's continuity correction; none where the two are opposed
    phi = product / math.sqrt(margins) if margins else 0.0
    down_1, up_1, down_2, up_2 = share_1 - low_1, high_1 - share_1, share_2 - low_2, high_2 - share_2
    below = math.sqrt(max(0.0, down_1**2 - 2 * phi * down_1 * up_2 + up_2**2))
    above = math.sqrt(max(0.0, up_1**2 - 2 * phi * up_1 * down_2 + down_2**2))
    return share_1 - share_2 - below, share_1 - share_2 + above


def compare(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]]) -> Difference:
    """Return the difference of two networks that were each trained with the same seeds and tested on the same images.

    With one seed the interval is Newcombe's; with several, too, if the two agree on each image in each seed, since
    there is no variance to estimate then. Else, images and seeds are both drawn at random and crossed, so
    the variance of the mean is estimated by the analysis of variance with two random factors (J. Cornfield and J. W.
    Tukey, "Average values of mean squares in factorials", Annals of Mathematical Statistics 27, 1956), and the interval
    is Student's t with F. E. Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). It is never narrower
    than Student's t of the seeds' own means: with two seeds Satterthwaite's interval held 91 to 94 % where seeds
    differ, as those that lie close by chance make it narrow; this one held 95 % or more. Two seeds that differ give a
    wide interval: there is one degree of freedom.

    Args:
        first: For each seed, for each image, whether the first network classifies it correctly.
        second: The same of the second network.

    Raises:
        ValueError: If the two do not have the same seeds and images, or there are none.
    """
    ours, theirs = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    if ours.shape != theirs.shape or ours.ndim != 2 or not ours.size:
        raise ValueError(f"both must be tested on the same images and seeds, but got {ours.shape} and {theirs.shape}")
    seeds, images = ours.shape
    table = ours - theirs
    mean = float(table.mean())
    if seeds == 1 or not table.any():  # without any difference there is no variance to estimate
        right = (ours[0] == 1, theirs[0] == 1)
        counts = [int((right[0] == a)[right[1] == b].sum()) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
        low, high = newcombe(*counts)
    else:
        half = _half_width(table)
        low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return Difference(
        difference=mean,
        low=low,
        high=high,
        images=images,
        seeds=seeds,
        only_first=int((table == 1).sum()),
        only_second=int((table == -1).sum()),
    )


def _half_width(table: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    """Return half the 95 % interval of the mean of a table of seeds by images, both random."""
    from scipy.stats import t  # slow to import

    seeds, images = table.shape
    mean, of_seed, of_image = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - of_seed[:, None] - of_image[None, :] + mean
    between = max(1, images - 1)  # degrees of freedom between images
    # The variance of the mean as each mean square estimates it, and that mean square's degrees of freedom.
    by_seed = (float(of_seed.var(ddof=1)) / seeds, seeds - 1)
    by_image = (float((of_image - mean) @ (of_image - mean)) / between / images, between)
    by_both = (float((rest**2).sum()) / ((seeds - 1) * between) / (seeds * images), (seeds - 1) * between)
    # Seeds and images each hold the variance of their interaction, so that it is taken off once.
    total = max(by_seed[0] + by_image[0] - by_both[0], by_seed[0], by_image[0])
    degrees = total**2 / sum(variance**2 / count for variance, count in (by_seed, by_image, by_both))
    of_all = float(t.ppf(0.975, max(1.0, degrees))) * math.sqrt(total)
    of_seeds = float(t.ppf(0.975, seeds - 1)) * math.sqrt(by_seed[0])
    return max(of_all, of_seeds)

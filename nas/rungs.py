"""Whether a training is worth going on with, for accuracy against latency, as pure functions.

An architecture's latency is known before its first epoch; only its accuracy is open. So at a rung, an epoch at which
trainings are looked at, one is compared with those alone that are at most as slow as it is: with the one among them
that did best at this rung. It is stopped if it is unlikely to end above that one. Latencies are compared as they were
measured: of two that are alike within the noise either may be the other's rival.

How likely it is to end above follows from the trainings that went on to the end. On the scale of log-odds, in which a
step from 98 to 99 % is as long as one from 50 to 67 %, their final accuracies are regressed on those at the rung::

    z_final = a + b z_rung + e,   e ~ N(0, s^2)

so that the difference of two of which only the rung is known is b (z_1 - z_2) plus noise of variance 2 s^2 and that of
the slope. Both sides are forecasts, also where the other one's end is known: the best of many known ends is the
luckiest, and next to it everything would look hopeless, even at a rung that foretells nothing. At such a rung b is near
0, all differences vanish in the noise, and nothing is stopped: how much a rung may decide is learnt from the study
itself. Too few trainings to learn it from stop nothing either.

To stop a training once its curve makes it improbable to beat the best is from T. Domhan, J. T. Springenberg and F.
Hutter, "Speeding up automatic hyperparameter optimization of deep neural networks by extrapolation of learning curves",
IJCAI 2015; rungs for several objectives from R. Schmucker et al., "Multi-objective asynchronous successive halving",
arXiv 2106.12639, which ranks by layers of non-domination and stops a fixed share. The regression across architectures
and the latency that is known beforehand are our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas.evaluation import Cost

FEWEST = 8
"""So many trainings to the end are needed to learn what a rung foretells."""
RISK = 0.2
"""Probability of ending above the best of those that are as fast, below which a training is stopped."""
FACTOR = 3
"""Each of the usual rungs is so many times as long as the one before."""
LONG = 6
"""A training of fewer epochs has none unless that is asked for: half of it would be the first steps of the schedule."""


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """At which epochs to look at a training, and when to stop it."""

    epochs: tuple[int, ...]
    """Epochs, ascending, each below that of the whole training."""
    risk: float = RISK
    """Probability of ending above the best rival, below which a training is stopped: 0 stops nothing."""

    def __post_init__(self) -> None:
        if not self.epochs or any(a >= b for a, b in zip((0, *self.epochs), self.epochs, strict=False)):
            raise ValueError(f"rungs must be epochs in ascending order, from 1, but got {self.epochs!r}")
        check_risk(self.risk)

    @property
    def words(self) -> str:
        """The rungs in words."""
        plural = "s" if len(self.epochs) > 1 else ""
        return f"after epoch{plural} {', '.join(map(str, self.epochs))} at a risk of {self.risk:g}"

    def check(self, epochs: int) -> None:
        """Raise if a rung is not within a training of so many epochs.

        Raises:
            ValueError: If one is not.
        """
        if self.epochs[-1] >= epochs:
            raise ValueError(
                f"rungs must lie before the end of the training, which has {epochs} epochs, but got {self.epochs[-1]}"
            )


def check_risk(risk: float) -> None:
    """Raise unless a number can be a risk.

    Raises:
        ValueError: If it cannot.
    """
    if not 0 <= risk <= 0.5:
        raise ValueError(f"the risk must be between 0 and 0.5, at which half a chance is not enough, but got {risk!r}")


def usual(epochs: int) -> tuple[int, ...]:
    """Return the usual rungs of a training of so many epochs: 1, 3, 9 and so on; none where it has one epoch."""
    found = []
    rung = 1
    while rung < epochs:
        found.append(rung)
        rung *= FACTOR
    return tuple(found)


def check_asked(asked: str | tuple[int, ...], *, once: bool) -> None:
    """Raise unless something can be meant as rungs.

    Args:
        asked: Epochs, or ``none``, or ``auto``, or ``usual``.
        once: Whether trainings are looked at once, as by a model that knows the space.

    Raises:
        ValueError: If it cannot.
    """
    if once and asked == "usual":
        raise ValueError("the default sampler takes one rung: auto is half of the epochs; usual is for the others")
    if asked not in ("auto", "usual", "none") and len(Rungs(epochs=_numbers(asked)).epochs) > 1 and once:
        raise ValueError(f"the default sampler takes one rung, half of the epochs for example, but got {asked!r}")


def resolve(asked: str | tuple[int, ...], epochs: int, *, risk: float, once: bool) -> Rungs | None:
    """Return the rungs that are asked for, in a training of so many epochs; None for none.

    ``auto`` is half of the epochs where trainings are looked at once, if they are at least :data:`LONG`, and else none.
    The other arguments are those of :func:`check_asked`.

    Raises:
        ValueError: If one lies beyond the training.
    """
    chosen: tuple[int, ...]
    if asked == "auto":
        chosen = (epochs // 2,) if once and epochs >= LONG else ()
    elif asked == "usual":
        chosen = usual(epochs)
    else:
        chosen = () if asked == "none" else _numbers(asked)
    if not chosen:
        return None
    rungs = Rungs(epochs=chosen, risk=risk)
    rungs.check(epochs)
    return rungs


def _numbers(asked: str | tuple[int, ...]) -> tuple[int, ...]:
    """Return the epochs that are asked for."""
    if isinstance(asked, tuple):
        return asked
    try:
        return tuple(int(word) for word in asked.split(","))
    except ValueError as error:
        raise ValueError(f"rungs must be auto, usual, none, or epochs such as 1,3,9, but got {asked!r}") from error


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training: how slow the architecture is, and the learning curve as far as it goes."""

    ratio: float
    """Latency over that of the bare backbone."""
    curve: Sequence[float]
    """Validation accuracy after each epoch, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a learning curve foretells."""

    accuracy: float
    """Median of the final accuracy, 0 to 1."""
    deviation: float
    """Standard error of the final accuracy: half the distance of what lies one of its log-odds above and below."""
    degrees: int
    """Degrees of freedom of that."""

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        from scipy.special import stdtrit

        return float(stdtrit(self.degrees, 0.975)) * self.deviation


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why a training is stopped."""

    rung: int
    """Epoch after which it is stopped."""
    accuracy: float
    """Its validation accuracy there."""
    rival: float
    """The best one there among those at most as slow."""
    chance: float
    """Probability of ending above that rival."""
    forecast: Forecast
    """Where it would have ended."""

    @property
    def reason(self) -> str:
        """The reason in words."""
        end = f"{100 * self.forecast.accuracy:.1f} ±{100 * self.forecast.half_width:.1f} %"
        return (
            f"stopped after epoch {self.rung} at {100 * self.accuracy:.1f} %: one at most as slow had "
            f"{100 * self.rival:.1f} % there, above which it would end with a probability of {self.chance:.2g}; "
            f"forecast {end}"
        )


class StoppedError(Exception):
    """A training was stopped at a rung: not a failure, and not a result."""

    def __init__(self, reason: str, curve: Sequence[float], cost: Cost) -> None:
        super().__init__(reason)
        self.reason = reason
        """Why, in words."""
        self.curve = tuple(curve)
        """Validation accuracy after each epoch that was trained."""
        self.cost = cost
        """What the architecture costs."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the accuracy at a rung says about the final one, both in log-odds."""

    intercept: float
    slope: float
    residual: float
    """Standard deviation of the final log-odds around the line."""
    slope_error: float
    """Standard error of the slope."""
    centre: float
    """Mean log-odds at the rung of those that the line was drawn through."""
    count: int
    """How many these are."""
    images: int
    """Number of validation images."""

    def forecast(self, accuracy: float) -> Forecast:
        """Return what an accuracy at the rung foretells."""
        z = log_odds(accuracy, self.images)
        end = self.intercept + self.slope * z
        spread = math.sqrt(self.residual**2 * (1 + 1 / self.count) + (self.slope_error * (z - self.centre)) ** 2)
        # Not by the slope at the end: near 0 and 1 it vanishes, and a forecast that is far off would look sure.
        deviation = (_share(end + spread) - _share(end - spread)) / 2
        return Forecast(accuracy=_share(end), deviation=deviation, degrees=self.count - 2)

    def chance(self, accuracy: float, rival: float) -> float:
        """Return the probability that one ends above another, from what both had at the rung."""
        from scipy.special import stdtr

        gap = log_odds(accuracy, self.images) - log_odds(rival, self.images)
        spread = math.sqrt(2 * self.residual**2 + (self.slope_error * gap) ** 2)
        if spread == 0:
            return 0.5 if gap == 0 else float(self.slope * gap > 0)
        return float(stdtr(self.count - 2, self.slope * gap / spread))


def log_odds(accuracy: float, images: int) -> float:
    """Return the logarithm of right over wrong answers, with half an image added to both, so that it is finite."""
    right = accuracy * images
    return math.log((right + 0.5) / (images - right + 0.5))


def _share(odds: float) -> float:
    """Return the accuracy of log-odds, however large they are: a steep line may say anything."""
    return 0.5 * (1 + math.tanh(odds / 2))


def line_at(rung: int, trainings: Iterable[Training], *, epochs: int, images: int) -> Line | None:
    """Draw the line through the trainings that went on to the end.

    Args:
        rung: Epoch at which they are looked at.
        trainings: Those that ended; others are left out.
        epochs: Epochs of a whole training.
        images: Number of validation images.

    Returns:
        None where there are fewer than :data:`FEWEST`, where they had only one or two different accuracies at the rung,
        so that a single one may decide how steep the line is, and where the line does not rise: the rung then says
        nothing.
    """
    whole = [training.curve for training in trainings if len(training.curve) == epochs]
    if len(whole) < FEWEST:
        return None
    x = [log_odds(curve[rung - 1], images) for curve in whole]
    y = [log_odds(curve[-1], images) for curve in whole]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    width = sum((each - mean_x) ** 2 for each in x)
    if len(set(x)) < 3:
        return None
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / width
    if slope <= 0:
        return None
    intercept = mean_y - slope * mean_x
    rest = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    residual = math.sqrt(rest / (len(x) - 2))
    return Line(
        intercept=intercept,
        slope=slope,
        residual=residual,
        slope_error=residual / math.sqrt(width),
        centre=mean_x,
        count=len(x),
        images=images,
    )


def judge(training: Training, others: Sequence[Training], rungs: Rungs, *, epochs: int, images: int) -> Stop | None:
    """Tell whether a training should be stopped after the last epoch of its curve; None lets it go on.

    Args:
        training: The one in question, with its curve so far.
        others: Those that ended. One that did well here and was stopped later is no rival: it fell behind.
        rungs: When to look, and what to stop.
        epochs: Epochs of a whole training.
        images: Number of validation images.
    """
    rung = len(training.curve)
    if rung not in rungs.epochs:
        return None
    line = line_at(rung, others, epochs=epochs, images=images)
    rivals = [other.curve[rung - 1] for other in others if other.ratio <= training.ratio and len(other.curve) >= rung]
    if line is None or not rivals:
        return None
    accuracy, rival = training.curve[-1], max(rivals)
    chance = line.chance(accuracy, rival)
    if chance >= rungs.risk:
        return None
    return Stop(rung=rung, accuracy=accuracy, rival=rival, chance=chance, forecast=line.forecast(accuracy))

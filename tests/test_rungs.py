"""When a training is stopped: what a rung foretells is learnt, latency decides who is compared with whom."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from nas.rungs import (
    FEWEST,
    LONG,
    Line,
    Rungs,
    Training,
    check_asked,
    judge,
    line_at,
    log_odds,
    resolve,
    usual,
)

IMAGES = 400
EPOCHS = 4
ONE = Rungs(epochs=(1,))
FORM = {"epochs": EPOCHS, "images": IMAGES}


def from_odds(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def training(first: float, last: float, ratio: float = 1.0) -> Training:
    """A training to the end, given by its log-odds after the first and after the last epoch."""
    return Training(ratio=ratio, curve=(from_odds(first), 0.5, 0.6, from_odds(last)))


def begun(first: float, ratio: float = 1.0) -> Training:
    return Training(ratio=ratio, curve=(from_odds(first),))


def world(count: int, noise: float, slope: float = 1.0, seed: int = 0) -> list[Training]:
    """Trainings whose final log-odds are those of the first epoch, plus 1, and noise."""
    generator = random.Random(seed)
    firsts = [generator.gauss(0, 1) for _ in range(count)]
    return [training(z, 1 + slope * z + generator.gauss(0, noise), 1 + 0.1 * generator.random()) for z in firsts]


def decide(one: Training, others: Sequence[Training], rungs: Rungs = ONE) -> bool:
    return judge(one, others, rungs, epochs=EPOCHS, images=IMAGES) is not None


class TestLine:
    def test_it_is_the_least_squares_line_of_the_log_odds(self) -> None:
        points = [(-1.0, 0.0), (0.0, 0.5), (1.0, 2.5), (2.0, 3.0)] * 2
        line = line_at(1, [training(*point) for point in points], epochs=EPOCHS, images=10**9)
        assert line is not None
        # by hand: mean x 0.5, mean y 1.5, Sxx 10, Sxy 11
        assert line.slope == pytest.approx(1.1)
        assert line.intercept == pytest.approx(1.5 - 1.1 * 0.5)
        rest = sum((y - (0.95 + 1.1 * x)) ** 2 for x, y in points)
        assert line.residual == pytest.approx(math.sqrt(rest / 6))
        assert line.slope_error == pytest.approx(math.sqrt(rest / 6 / 10))

    def test_a_forecast_is_on_the_line_and_surer_near_its_middle(self) -> None:
        line = line_at(1, world(30, 0.3), epochs=EPOCHS, images=IMAGES)
        assert line is not None
        z = line.intercept + line.slope * log_odds(0.6, IMAGES)
        assert line.forecast(0.6).accuracy == pytest.approx(from_odds(z))
        middle, far = line.forecast(0.5), line.forecast(0.99)
        odds = [each.deviation / (each.accuracy * (1 - each.accuracy)) for each in (middle, far)]
        assert odds[0] < odds[1]

    def test_however_steep_it_is_it_forecasts(self) -> None:
        ends = [(0.5, 0.6), (0.5, 0.9), (0.5, 0.7), (0.5025, 0.999), (0.505, 0.9995)] * 2
        line = line_at(1, [Training(ratio=1, curve=(first, 0.5, 0.5, last)) for first, last in ends], **FORM)
        assert line is not None
        assert line.slope > 100
        for accuracy in (0.0, 0.01, 0.5, 0.99, 1.0):
            forecast = line.forecast(accuracy)
            assert 0 <= forecast.accuracy <= 1
            assert 0 <= forecast.deviation <= 0.5

    def test_near_the_middle_a_deviation_is_that_of_the_slope(self) -> None:
        line = line_at(1, world(400, 0.02), **FORM)
        assert line is not None
        forecast = line.forecast(0.5)
        slope = forecast.accuracy * (1 - forecast.accuracy)
        assert forecast.deviation == pytest.approx(slope * line.residual * math.sqrt(1 + 1 / 400), rel=0.01)

    def test_the_chance_is_half_for_equals_and_symmetric(self) -> None:
        line = line_at(1, world(30, 0.3), epochs=EPOCHS, images=IMAGES)
        assert line is not None
        assert line.chance(0.6, 0.6) == pytest.approx(0.5)
        assert line.chance(0.5, 0.6) == pytest.approx(1 - line.chance(0.6, 0.5))
        assert line.chance(0.5, 0.7) < line.chance(0.5, 0.6) < 0.5

    def test_few_trainings_make_it_less_sure(self) -> None:
        few, many = (
            Line(intercept=0, slope=1, residual=0.3, slope_error=0.01, centre=0, count=count, images=IMAGES)
            for count in (4, 400)
        )
        # Student's t with 2 degrees of freedom: P(T < -x) = (1 - x / sqrt(2 + x^2)) / 2
        gap = log_odds(0.5, IMAGES) - log_odds(0.7, IMAGES)
        x = -gap / math.sqrt(2 * 0.3**2 + (0.01 * gap) ** 2)
        assert few.chance(0.5, 0.7) == pytest.approx((1 - x / math.sqrt(2 + x * x)) / 2)
        assert many.chance(0.5, 0.7) < few.chance(0.5, 0.7)
        assert few.forecast(0.5).half_width == pytest.approx(4.3027 * few.forecast(0.5).deviation, rel=1e-4)

    def test_a_line_without_noise_is_sure(self) -> None:
        line = Line(intercept=0, slope=1, residual=0, slope_error=0, centre=0, count=9, images=IMAGES)
        assert (line.chance(0.5, 0.6), line.chance(0.6, 0.6), line.chance(0.7, 0.6)) == (0.0, 0.5, 1.0)

    @pytest.mark.parametrize(
        "trainings",
        [
            world(FEWEST - 1, 0.1),
            [training(0.0, z / 10) for z in range(20)],
            [*(training(0.0, z / 10) for z in range(20)), training(0.01, 3.0)],
            world(20, 0.1, slope=-1.0),
            [begun(z / 10) for z in range(20)],
        ],
        ids=["too few", "one accuracy at the rung", "two", "falling", "none to the end"],
    )
    def test_there_is_none_where_the_rung_says_nothing(self, trainings: list[Training]) -> None:
        assert line_at(1, trainings, epochs=EPOCHS, images=IMAGES) is None

    def test_accuracies_of_none_and_all_have_finite_log_odds(self) -> None:
        assert log_odds(0.0, 100) == -log_odds(1.0, 100)
        assert math.isfinite(log_odds(1.0, 100))


class TestJudge:
    def test_one_far_below_is_stopped_and_one_near_is_not(self) -> None:
        others = world(30, 0.3)
        best = max(log_odds(other.curve[0], IMAGES) for other in others)
        assert decide(begun(best - 2, 2.0), others)
        assert not decide(begun(best - 0.1, 2.0), others)
        assert not decide(begun(best + 1, 2.0), others)

    def test_the_quickest_is_never_stopped(self) -> None:
        assert not decide(begun(-5.0, 0.9), world(30, 0.1))

    def test_only_those_at_most_as_slow_count(self) -> None:
        others = [*world(30, 0.1), training(9.0, 10.0, 1.5)]
        best = max(log_odds(other.curve[0], IMAGES) for other in others[:-1])
        assert not decide(begun(best, 1.49), others)
        assert decide(begun(best, 1.5), others)

    def test_the_noisier_the_rung_the_less_it_decides(self) -> None:
        below = 1.0
        stopped = []
        for noise in (0.1, 0.5, 2.0):
            others = world(40, noise)
            best = max(log_odds(other.curve[0], IMAGES) for other in others)
            stopped.append(decide(begun(best - below, 2.0), others))
        assert stopped == [True, True, False]

    def test_a_rung_that_foretells_nothing_stops_nearly_nothing_however_many_there_are(self) -> None:
        generator = random.Random(1)
        others = [training(generator.gauss(0, 1), generator.gauss(0, 1)) for _ in range(500)]
        stopped = sum(decide(begun(generator.gauss(0, 1), 2.0), others) for _ in range(200))
        assert stopped <= 10

    def test_between_rungs_nothing_is_stopped(self) -> None:
        hopeless = Training(ratio=2.0, curve=(0.01, 0.01))
        assert not decide(hopeless, world(30, 0.1))

    def test_more_risk_stops_more_and_none_stops_nothing(self) -> None:
        others, generator = world(40, 0.5), random.Random(2)
        drawn = [begun(generator.gauss(0, 1), 2.0) for _ in range(200)]
        counts = [sum(decide(one, others, Rungs(epochs=(1,), risk=risk)) for one in drawn) for risk in (0, 0.1, 0.4)]
        assert counts[0] == 0
        assert 0 < counts[1] < counts[2] < 200

    def test_the_risk_is_the_share_of_the_stopped_that_would_have_won(self) -> None:
        """Of those stopped at a chance near 0.3 about as many would have passed the rival."""
        generator = random.Random(3)
        noise, passed, chances = 0.6, [], []
        for _ in range(4000):
            others = world(40, noise, seed=generator.randrange(10**9))
            one, rival = begun(generator.gauss(0, 1), 2.0), max(others, key=lambda other: other.curve[0])
            line = line_at(1, others, epochs=EPOCHS, images=IMAGES)
            assert line is not None
            chance = line.chance(one.curve[0], rival.curve[0])
            if 0.05 < chance < 0.35:
                mine = 1 + log_odds(one.curve[0], 10**9) + generator.gauss(0, noise)
                passed.append(mine > 1 + log_odds(rival.curve[0], 10**9) + generator.gauss(0, noise))
                chances.append(chance)
        assert len(passed) > 300
        assert sum(passed) / len(passed) == pytest.approx(sum(chances) / len(chances), abs=0.05)

    def test_the_reason_says_what_was_compared(self) -> None:
        stop = judge(begun(-3.0, 2.0), world(30, 0.1), ONE, epochs=EPOCHS, images=IMAGES)
        assert stop is not None
        assert stop.reason.startswith("stopped after epoch 1 at 4.7 %: one at most as slow had ")


class TestRungs:
    @pytest.mark.parametrize(
        ("epochs", "expected"),
        [(1, ()), (2, (1,)), (3, (1,)), (4, (1, 3)), (9, (1, 3)), (10, (1, 3, 9)), (30, (1, 3, 9, 27))],
    )
    def test_the_usual_ones_triple(self, epochs: int, expected: tuple[int, ...]) -> None:
        assert usual(epochs) == expected

    @pytest.mark.parametrize("epochs", [(), (0, 1), (3, 1), (1, 1), (-1,)])
    def test_they_ascend_from_one(self, epochs: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="rungs must be epochs in ascending order"):
            Rungs(epochs=epochs)

    @pytest.mark.parametrize("risk", [-0.1, 0.51, math.nan])
    def test_the_risk_is_a_probability_below_half(self, risk: float) -> None:
        with pytest.raises(ValueError, match="the risk must be between 0 and 0.5"):
            Rungs(epochs=(1,), risk=risk)

    def test_they_lie_before_the_end(self) -> None:
        Rungs(epochs=(1, 3)).check(4)
        with pytest.raises(ValueError, match="which has 3 epochs, but got 3"):
            Rungs(epochs=(1, 3)).check(3)


class TestAsked:
    @pytest.mark.parametrize(
        ("asked", "epochs", "once", "expected"),
        [
            ("auto", 9, True, (4,)),
            ("auto", LONG, True, (LONG // 2,)),
            ("auto", LONG - 1, True, None),
            ("auto", 9, False, None),
            ("usual", 9, False, (1, 3)),
            ("usual", 1, False, None),
            ("none", 9, True, None),
            ("2", 3, True, (2,)),
            ((2,), 3, True, (2,)),
            ("1,2", 3, False, (1, 2)),
        ],
    )
    def test_what_is_asked_for_depends_on_the_training_and_on_who_looks(
        self, asked: str | tuple[int, ...], epochs: int, once: bool, expected: tuple[int, ...] | None
    ) -> None:
        check_asked(asked, once=once)
        found = resolve(asked, epochs, risk=0.3, once=once)
        assert (None if found is None else found.epochs) == expected
        assert found is None or found.risk == 0.3

    @pytest.mark.parametrize("asked", ["1,2", (1, 2), "usual"])
    def test_a_model_looks_once(self, asked: str | tuple[int, ...]) -> None:
        check_asked(asked, once=False)
        with pytest.raises(ValueError, match="the default sampler takes one rung"):
            check_asked(asked, once=True)

    @pytest.mark.parametrize("asked", ["soon", "", "1,,2", "2,1", "0", (0,), "1.5"])
    @pytest.mark.parametrize("once", [True, False])
    def test_what_is_no_rung_is_refused(self, asked: str | tuple[int, ...], once: bool) -> None:
        with pytest.raises(ValueError, match="rungs must be"):
            check_asked(asked, once=once)

    def test_a_rung_beyond_the_training_is_refused(self) -> None:
        with pytest.raises(ValueError, match="which has 9 epochs, but got 9"):
            resolve("9", 9, risk=0.2, once=True)

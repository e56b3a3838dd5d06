"""Latency: the ratio is recovered from scripted clocks; nothing here depends on how fast this machine is."""

from __future__ import annotations

import gc
import itertools
import math
import random
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nas.evaluation import Latency
from nas.latency import FEWEST_ROUNDS, measure
from nas.latency.measure import MOST_REPEATS, MOST_ROUNDS, OVERTIME, UNSTABLE, WARM_UP_SHARE

MS = 1_000_000


class FakeTime:
    """A clock in nanoseconds that only scripted models move, and the order in which they moved it."""

    def __init__(self, pace: Callable[[float], float] = lambda now_s: 1.0) -> None:
        self.now = 0.0
        self.pace = pace
        self.calls: list[str] = []
        self.log = ""  # the calls, and a bar for each look at the clock

    def __call__(self) -> int:
        self.log += "|"
        return int(self.now)


class Scripted(nn.Module):
    """A model whose pass lasts as long as the script says, times what the machine's pace makes of it."""

    def __init__(self, name: str, clock: FakeTime, cost_ms: Callable[[], float]) -> None:
        super().__init__()
        self.name, self.clock, self.cost_ms = name, clock, cost_ms
        self.inner = nn.Dropout()

    def __deepcopy__(self, _memo: object) -> Scripted:
        return self  # a copy would move a clock of its own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert not self.inner.training
        assert torch.is_inference_mode_enabled()
        assert not gc.isenabled()
        cost_ms = self.cost_ms()
        self.clock.calls.append(self.name)
        self.clock.log += self.name
        self.clock.now += cost_ms * MS * self.clock.pace(self.clock.now / 1e9)
        return x


def models(clock: FakeTime, candidate_ms: float, bare_ms: float) -> tuple[Scripted, Scripted]:
    return Scripted("A", clock, lambda: candidate_ms), Scripted("B", clock, lambda: bare_ms)


def timed(clock: FakeTime, candidate: nn.Module, bare: nn.Module, **options: object) -> Latency:
    batch = torch.zeros(2, 3, 4, 4)
    return measure(candidate, bare, batch=batch, device_words="fake", clock=clock, **options)  # type: ignore[arg-type]


def test_a_steady_machine_gives_the_exact_ratio() -> None:
    clock = FakeTime()
    result = timed(clock, *models(clock, 2.5, 2.0))
    assert (result.ratio, result.ratio_low, result.ratio_high) == pytest.approx((1.25, 1.25, 1.25))
    assert (result.median_ms, result.low_ms, result.high_ms, result.bare_ms) == (2.5, 2.5, 2.5, 2.0)
    assert (result.batch_size, result.resolution, result.device) == (2, 4, "fake")
    assert result.rounds == FEWEST_ROUNDS
    assert not result.unstable
    assert result.conditions["runtime"] == "eager"


def test_the_same_model_twice_gives_one() -> None:
    clock = FakeTime(lambda now: 1 + 0.5 * math.sin(40 * now))
    model, _ = models(clock, 1.5, 0)
    assert timed(clock, model, model, target=0.05).ratio == pytest.approx(1, abs=0.01)


def test_copies_that_differ_widen_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # a hundred times, it takes half a minute
    dice = random.Random(0)

    class Copied(Scripted):
        def __deepcopy__(self, _memo: object) -> Scripted:
            luck = dice.gauss(1, 0.01)  # of a copy, for as long as it lives
            return Scripted(self.name, self.clock, lambda: 2.0 * luck).eval()

    misses = 0
    for _ in range(100):
        clock = FakeTime()
        models = Copied("A", clock, lambda: 2.0), Copied("B", clock, lambda: 2.0)
        result = timed(clock, *models, target=0.003)
        assert (result.ratio_high - result.ratio_low) / 2 < 0.02
        misses += not result.ratio_low <= 1 <= result.ratio_high
    assert 1 <= misses <= 12


def test_drift_cancels() -> None:
    clock = FakeTime(lambda now: 1 + now)  # twice as slow after the first second
    result = timed(clock, *models(clock, 2.1, 2.0), target=0.001)
    assert result.high_ms - result.low_ms > 0.05
    assert result.ratio == pytest.approx(1.05, abs=1e-4)


def test_outliers_do_not_move_the_ratio() -> None:
    dice = random.Random(0)
    clock = FakeTime(lambda now: 20.0 if dice.random() < 0.1 else 1 + 0.02 * dice.random())
    result = timed(clock, *models(clock, 2.06, 2.0), target=0.002)
    assert result.ratio == pytest.approx(1.03, abs=0.004)
    assert result.ratio_low <= 1.03 <= result.ratio_high


def test_the_order_is_swapped_within_pairs_and_from_pair_to_pair() -> None:
    clock = FakeTime()
    timed(clock, *models(clock, 2.0, 2.0))
    assert "ABBABAABABBABAAB" in "".join(clock.calls)


def test_whatever_happens_between_pairs_favours_neither_model() -> None:
    clock = FakeTime()

    def cost() -> float:
        """A pass is slower where the caches were emptied: after the third look at the clock between two pairs."""
        return 2.2 if clock.log.endswith("|||") else 2.0

    result = timed(clock, Scripted("A", clock, cost), Scripted("B", clock, cost))
    assert clock.log.count("|||") > result.n / 2
    assert result.ratio_low <= 1 <= result.ratio_high


def test_a_quick_model_is_repeated_within_a_sample_and_both_alike() -> None:
    clock = FakeTime()
    result = timed(clock, *models(clock, 0.5, 0.25))
    runs = [(name, len(list(run))) for name, run in itertools.groupby(clock.calls)]
    assert runs[-6:] == [("B", 4), ("A", 8), ("B", 4), ("A", 4), ("B", 8), ("A", 4)]
    assert (result.median_ms, result.bare_ms, result.ratio) == pytest.approx((0.5, 0.25, 2.0))


def test_a_model_that_takes_no_time_does_not_run_for_ever() -> None:
    clock = FakeTime()
    candidate, bare = models(clock, 0.0001, 0.0001)
    result = timed(clock, candidate, bare, max_seconds=1e-3)
    assert result.n < 100
    assert len(clock.calls) <= MOST_REPEATS * (4 * result.n + 2 * result.rounds) + 100


def test_the_warm_up_lasts_until_the_models_are_warm() -> None:
    clock = FakeTime()
    cold = iter([50.0] + [20.0 - step for step in range(10)])
    candidate = Scripted("A", clock, lambda: next(cold, 3.0))
    result = timed(clock, candidate, Scripted("B", clock, lambda: 2.0))
    assert (result.ratio, result.ratio_high) == pytest.approx((1.5, 1.5))
    assert result.high_ms == 3.0


def test_the_warm_up_has_an_end() -> None:
    clock = FakeTime()
    quicker = (5 * 0.999**step for step in itertools.count())  # never settles
    candidate = Scripted("A", clock, lambda: next(quicker))
    result = timed(clock, candidate, Scripted("B", clock, lambda: 5.0), max_seconds=1)
    assert (len(clock.calls) - 4 * result.n - 2 * result.rounds) * 5 * MS <= 0.3e9


def test_it_stops_as_soon_as_the_interval_is_narrow() -> None:
    rounds = []
    for target in (0.1, 0.002, 0.0015):
        dice = random.Random(1)
        clock = FakeTime(lambda now, dice=dice: dice.uniform(0.9, 1.1))  # type: ignore[misc]
        result = timed(clock, *models(clock, 1.5, 1.5), target=target, max_seconds=60)
        assert (result.ratio_high - result.ratio_low) / 2 <= target
        assert not result.unstable
        rounds.append(result.rounds)
    assert rounds[0] == FEWEST_ROUNDS < rounds[2] <= MOST_ROUNDS


def test_an_interval_that_stays_wide_is_unstable() -> None:
    clock = noisy()
    result = timed(clock, *models(clock, 1.5, 1.5), max_seconds=1)
    assert MOST_ROUNDS < result.rounds <= OVERTIME * MOST_ROUNDS
    assert (result.ratio_high - result.ratio_low) / 2 > UNSTABLE * 0.005
    assert result.unstable


def test_time_is_added_only_for_what_would_be_unstable() -> None:
    def enough(scatter: float, spent: float, rounds: int = 20) -> bool:
        durations = [int(1e6 * (1 + scatter * (-1) ** number)) for number in range(rounds)]
        pairs = [[((each, each), (1_000_000, 1_000_000))] for each in durations]
        return module._enough(pairs, 0.005, spent)

    module = sys.modules["nas.latency.measure"]
    calm, passable, wild = 0.001, 0.02, 0.2  # half widths of about 0.001, 0.014 and 0.14
    assert [enough(calm, 0.1), enough(calm, 0.1, FEWEST_ROUNDS - 1)] == [True, False]
    assert [enough(passable, spent) for spent in (0.9, 1.0)] == [False, True]
    assert [enough(wild, spent) for spent in (1.0, 1.9, OVERTIME)] == [False, False, True]


def noisy() -> FakeTime:
    dice = random.Random(2)
    return FakeTime(lambda now: dice.uniform(0.2, 5))


def test_the_cap_on_seconds_is_respected() -> None:
    clock = noisy()
    result = timed(clock, *models(clock, 10, 10), target=1e-6, max_seconds=3)
    slack = MOST_ROUNDS * 6 * 0.05  # a pair late and two passes unclocked, each round
    assert clock.now / 1e9 <= 3 * (OVERTIME + WARM_UP_SHARE) + OVERTIME * slack
    assert result.n > result.rounds


def test_a_slow_model_still_gets_an_interval() -> None:
    clock = FakeTime()
    result = timed(clock, *models(clock, 11_000, 10_000))
    assert (result.n, result.rounds) == (FEWEST_ROUNDS, FEWEST_ROUNDS)
    assert result.ratio == pytest.approx(1.1)


def test_the_models_are_left_as_they_were() -> None:
    clock = FakeTime()
    candidate, bare = models(clock, 2, 2)
    bare.eval()
    candidate.inner.eval()
    before = [dict(vars(module)) for model in (candidate, bare) for module in model.modules()]
    timed(clock, candidate, bare)
    assert [dict(vars(module)) for model in (candidate, bare) for module in model.modules()] == before
    assert (candidate.training, candidate.inner.training, bare.training) == (True, False, False)
    assert gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_the_models_are_left_as_they_were_after_an_error() -> None:
    clock = FakeTime()
    candidate, bare = models(clock, 2, 2)

    def fail() -> float:
        raise RuntimeError("no")

    bare.cost_ms = fail
    with pytest.raises(RuntimeError, match="no"):
        timed(clock, candidate, bare)
    assert candidate.training
    assert bare.training
    assert gc.isenabled()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_real_model_in_each_precision(precision: str) -> None:
    seen = set()

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add(x.dtype)
            return x

    bare = nn.Sequential(nn.Conv2d(3, 8, 3), Watch())
    candidate = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    result = measure(
        candidate, bare, batch=torch.randn(2, 3, 16, 16), device_words="this", precision=precision, max_seconds=0.1
    )
    assert seen == {getattr(torch, precision)}
    assert result.n >= result.rounds >= FEWEST_ROUNDS
    assert 0 < result.low_ms <= result.median_ms <= result.high_ms
    assert 0 < result.ratio_low <= result.ratio <= result.ratio_high
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in candidate.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0.0}, "target must be positive, but got 0.0"),
        ({"max_seconds": -1.0}, "max_seconds must be positive, but got -1.0"),
        ({"runtime": "tflite"}, "runtime must be one of eager, compile, onnxruntime, but got 'tflite'"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, but got 'int8'"),
        ({"batch": torch.zeros(0, 3, 4, 4)}, "batch must hold at least one image, but got shape"),
        ({"batch": torch.zeros(1, 3, 4, 4, device="meta")}, "candidate and batch must be on one device"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], message: str) -> None:
    model = nn.Conv2d(3, 3, 1)
    arguments: dict[str, object] = {"batch": torch.zeros(1, 3, 4, 4), "device_words": "cpu", **options}
    with pytest.raises(ValueError, match=message):
        measure(model, model, **arguments)  # type: ignore[arg-type]

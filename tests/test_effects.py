"""The effect map: its intervals hold the truth, it is closer to it than what is simpler, and pairs are pairs."""

from __future__ import annotations

import dataclasses
import itertools
import random

import numpy as np
import pytest
from made_studies import Truth, alone, least_squares, marginal, study, true_pairs

from nas.architecture import Architecture, Placement
from nas.effects import Effect, EffectMap, Estimate, effects
from nas.evaluation import wilson_interval
from nas.front import Row

IMAGES = 400


def make(number: int, accuracy: float, extra: float, *placements: Placement, **others: object) -> Row:
    low, high = wilson_interval(accuracy, IMAGES)
    row = Row(
        trial=number,
        architecture=Architecture(backbone="made_up", placements=placements),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        latency_ms=1 + extra,
        latency_ratio=1 + extra,
        ratio_low=0.99 * (1 + extra),
        ratio_high=1.01 * (1 + extra),
        parameters=1,
        macs=1,
    )
    return dataclasses.replace(row, **others)  # type: ignore[arg-type]


def se(stage: int, reduction: int = 8, position: str = "after_stage") -> Placement:
    return Placement(stage=stage, block="se", options={"reduction": reduction}, position=position)


def eca(stage: int) -> Placement:
    return Placement(stage=stage, block="eca")


def at(found: EffectMap, stage: int, block: str, position: str = "after_stage") -> Effect:
    return next(one for one in found.effects if (one.stage, one.block, one.position) == (stage, block, position))


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


@pytest.mark.parametrize("search", ["random", "adaptive"])
@pytest.mark.parametrize("kind", ["log-odds", "saturating"])
def test_intervals_hold_the_truth_and_shrinking_comes_closer_to_it(kind: str, search: str) -> None:
    held: dict[str, list[bool]] = {"accuracy": [], "latency": [], "pair_accuracy": [], "pair_latency": []}
    errors: dict[str, list[float]] = {}
    for number in range(5):
        truth = Truth(kind, number)
        rows = study(truth, search, 45, number)
        found = effects(rows)
        for figure, (what, true) in enumerate(zip(("accuracy", "latency"), alone(rows, truth), strict=True)):
            estimates: list[Estimate] = [getattr(one, what) for one in found.effects]
            held[what] += [one.low <= real <= one.high for one, real in zip(estimates, true, strict=True)]
            values = np.array([row.accuracy if what == "accuracy" else row.latency_ratio for row in rows])
            for name, guess in (
                ("map", np.array([one.value for one in estimates])),
                ("least squares", least_squares(rows, values)),
                ("marginal means", marginal(rows, values)),
            ):
                errors.setdefault(f"{name} {what}", []).extend(guess - true)
            for cell, differences in true_pairs(rows, truth, figure).items():
                pair = getattr(at(found, *cell), f"pair_{what}")
                held[f"pair_{what}"].append(pair.low <= np.mean(differences) <= pair.high)
    assert {what: np.mean(flags) > 0.9 for what, flags in held.items()} == dict.fromkeys(held, True)
    rms = {name: float(np.sqrt(np.mean(np.square(each)))) for name, each in errors.items()}
    for what, most in (("accuracy", 0.95), ("latency", 1.15)):  # latencies have so little noise that sums do as well
        assert rms[f"map {what}"] < most * rms[f"least squares {what}"]
        assert rms[f"map {what}"] < 0.65 * rms[f"marginal means {what}"]


def test_more_rows_say_more() -> None:
    truth = Truth("log-odds", 3)
    few, many = (effects(study(truth, "random", count, 3)) for count in (25, 150))
    for what, most in (("accuracy", 0.5), ("latency", 0.4)):
        widths = [np.median([width(getattr(one, what)) for one in found.effects]) for found in (few, many)]
        assert widths[1] < most * widths[0]
    assert many.noise is not None
    assert many.noise.accuracy.explained is not None
    assert many.noise.accuracy.explained > 0.7
    assert np.median([one.unsure for one in many.effects]) < np.median([one.unsure for one in few.effects]) < 1


def test_pairs_differ_in_one_placement_alone() -> None:
    truth = Truth("saturating", 5)
    rows = study(truth, "adaptive", 80, 5)
    expected: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    for one, other in itertools.permutations(rows, 2):  # each with each, by plain comparison of what is in them
        more = [each.describe() for each in one.architecture.placements]
        less = [each.describe() for each in other.architecture.placements]
        if len(more) == len(less) + 1 and all(each in more for each in less):
            (new,) = (each for each in one.architecture.placements if each.describe() not in less)
            gains = one.accuracy - other.accuracy, one.latency_ratio - other.latency_ratio
            expected.setdefault((new.stage, new.block, new.position), []).append(gains)
    assert sum(map(len, expected.values())) > 20
    assert max(map(len, expected.values())) > 2
    for one in effects(rows).effects:
        pairs = expected.get((one.stage, one.block, one.position), [])
        assert one.pairs == len(pairs)
        assert one.n == sum(
            (one.stage, one.block) in {(p.stage, p.block) for p in r.architecture.placements} for r in rows
        )
        if not pairs:
            assert one.pair_accuracy is one.pair_latency is None
        else:
            assert one.pair_accuracy is not None
            assert one.pair_latency is not None
            gain, cost = np.mean(pairs, axis=0)
            assert one.pair_accuracy.value == pytest.approx(gain)
            assert one.pair_latency.value == pytest.approx(cost)


def test_another_setting_elsewhere_is_no_pair() -> None:
    rows = [make(0, 0.6, 0.1, se(1, 4)), make(1, 0.7, 0.2, se(1, 8), eca(2)), make(2, 0.7, 0.2, eca(3))]
    assert [one.pairs for one in effects(rows).effects] == [0, 0, 0]
    assert at(effects([*rows, make(3, 0.65, 0.1, eca(2))]), 1, "se").pairs == 1


def test_the_noise_of_a_row_in_two_pairs_counts_twice() -> None:
    rows = [make(0, 0.5, 0.0), make(1, 0.5, 0.1, se(1, 4)), make(2, 0.5, 0.1, se(1, 8))]
    pair = at(effects(rows), 1, "se").pair_accuracy
    assert pair is not None
    shared = 1.96 * (0.25 / IMAGES * (1 + 1 / 4 + 1 / 4)) ** 0.5  # were they apart: (4 / 4)
    assert shared < width(pair) / 2 < 2 * shared


@pytest.mark.parametrize("seeds", [False, True])
def test_a_block_alone_is_worth_what_it_was_seen_to_be_worth(seeds: bool) -> None:
    """Two blocks that both reach the top, and together no more: neither must get half of it."""
    figures = {"seed_error": 0.01, "seed_degrees": 20} if seeds else {}
    rows = [
        make(0, 0.6, 0.0, **figures),
        make(1, 0.92, 0.2, se(3), **figures),
        make(2, 0.92, 0.1, eca(2), **figures),
        make(3, 0.93, 0.3, se(3), eca(2), **figures),
        *(make(4 + s, 0.6, 0.1, Placement(stage=s, block="simam"), **figures) for s in (1, 2, 3)),
        *(make(8 + s, 0.61, 0.1, Placement(stage=s, block="gam"), **figures) for s in (1, 2, 3)),
    ]
    found = effects(rows)
    for one in (at(found, 3, "se"), at(found, 2, "eca")):
        assert one.accuracy.low < 0.32 < one.accuracy.high + 0.03
        assert one.accuracy.value > 0.2
    assert at(found, 1, "simam").accuracy.low < 0 < at(found, 1, "simam").accuracy.high
    assert found.bare is not None
    assert found.bare.low < 0.6 < found.bare.high
    assert at(found, 3, "se").latency.value == pytest.approx(0.2, abs=0.03)


def test_costs_that_add_up_are_found_again() -> None:
    truth = Truth("accuracy", 2)
    rows = [
        dataclasses.replace(row, latency_ratio=ratio, ratio_low=ratio, ratio_high=ratio)
        for row in study(truth, "random", 200, 2)
        for ratio in [1 + truth(row.architecture).extra]
    ]
    for one, cost in zip(effects(rows).effects, alone(rows, truth)[1], strict=True):
        assert one.latency.value == pytest.approx(cost, abs=0.012)


def test_an_unstable_ratio_counts_for_less() -> None:
    rows = [make(k, 0.6, 0.1 * len(p), *p) for k, p in enumerate([(), (se(1, 4),), (se(2),), (se(1, 4), se(2))])]
    off, unsure = (make(9, 0.6, 0.5, se(1, 8), unstable=each) for each in (False, True))
    steady, shaky = (at(effects([*rows, row]), 1, "se") for row in (off, unsure))
    assert steady.options == shaky.options == 2
    assert shaky.latency.value < steady.latency.value


def test_nothing_finished_says_nothing() -> None:
    found = effects([])
    assert found == EffectMap(effects=(), stages=(), blocks=(), rows=0, bare=None, noise=None)


def rows_of(kind: str) -> list[Row]:
    rows = study(Truth("log-odds", 7), "random", 30, 7)
    if kind == "with several backbones":
        return [
            dataclasses.replace(row, architecture=dataclasses.replace(row.architecture, backbone=f"b{row.trial % 2}"))
            for row in rows
        ]
    shares = {"all equal": [0.5], "none right": [0.0], "all right": [1.0], "one at each end": [0.0, 1.0]}.get(kind)
    if shares is not None:
        picked = itertools.cycle(shares)
        return [make(row.trial, next(picked), row.latency_ratio - 1, *row.architecture.placements) for row in rows]
    without_width = [
        dataclasses.replace(
            row,
            accuracy_low=row.accuracy,
            accuracy_high=row.accuracy,
            ratio_low=row.latency_ratio,
            ratio_high=row.latency_ratio,
        )
        for row in rows
    ]
    bare, *others = rows
    return {
        "the bare one": [bare],
        "a single one": [others[4]],
        "two": rows[:2],
        "three": rows[3:6],
        "controls": rows[:3],
        "none bare": others,
        "without width": without_width,
        "one twice": [*rows, rows[5]],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("the bare one", "a single one", "two", "three", "controls", "none bare", "without width", "one twice"),
        *("with several backbones", "all equal", "none right", "all right", "one at each end"),
    ],
)
def test_any_rows_give_a_map_in_its_bounds(kind: str) -> None:
    rows = rows_of(kind)
    found = effects(rows)
    cells = {(p.stage, p.block, p.position) for row in rows for p in row.architecture.placements}
    assert [(one.stage, one.block, one.position) for one in found.effects] == sorted(cells)
    assert found.rows == len({row.architecture for row in rows})
    assert found.bare is not None
    assert 0 <= found.bare.low <= found.bare.value <= found.bare.high <= 1
    for one in found.effects:
        assert -1 <= one.accuracy.low <= one.accuracy.value <= one.accuracy.high <= 1
        assert one.latency.low <= one.latency.value <= one.latency.high
        assert np.isfinite([one.latency.low, one.latency.high, one.unsure]).all()
    if kind in ("all equal", "none right", "all right"):
        assert all(abs(one.accuracy.value) < 0.01 for one in found.effects)
        assert found.noise is not None
        assert found.noise.accuracy.explained is None


def test_positions_of_a_stage_have_effects_of_their_own() -> None:
    inside = [make(k, 0.5, 0.3, se(s, r, "in_residual")) for k, (s, r) in enumerate(itertools.product((1, 2), (4, 8)))]
    behind = [make(9 + k, 0.9, 0.1, se(s, r)) for k, (s, r) in enumerate(itertools.product((1, 2), (4, 8)))]
    found = effects([make(99, 0.6, 0.0), *inside, *behind])
    assert [one.position for one in found.effects] == ["after_stage", "in_residual"] * 2
    for stage in (1, 2):
        good, bad = at(found, stage, "se"), at(found, stage, "se", "in_residual")
        assert good.accuracy.low > bad.accuracy.high
        assert bad.latency.low > good.latency.high


def test_the_order_of_rows_is_of_no_importance() -> None:
    rows = study(Truth("saturating", 9), "adaptive", 60, 9)
    first = effects(rows)
    assert effects(rows) == first
    random.Random(0).shuffle(rows)
    for one, other in zip(first.effects, effects(rows).effects, strict=True):
        assert dataclasses.astuple(one.accuracy) == pytest.approx(dataclasses.astuple(other.accuracy), abs=1e-5)


def test_fewer_images_say_less() -> None:
    rows = study(Truth("log-odds", 4), "random", 50, 4, known_seeds=False)
    coarse = []
    for row in rows:
        low, high = wilson_interval(row.accuracy, IMAGES // 8)
        coarse.append(dataclasses.replace(row, accuracy_low=low, accuracy_high=high))
    fine, rough = (np.median([width(one.accuracy) for one in effects(each).effects]) for each in (rows, coarse))
    assert rough > 1.2 * fine


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_rows_of_one_architecture_the_one_of_more_trainings_counts(first: int) -> None:
    twice = [make(1, 0.9, 0.3, se(1)), make(2, 0.7, 0.1, se(1), seeds=3)]
    found = effects([make(0, 0.6, 0.0), twice[first], twice[1 - first]])
    one = at(found, 1, "se")
    assert (found.rows, one.n, one.pairs) == (2, 1, 1)
    assert one.pair_accuracy is not None
    assert one.pair_accuracy.value == pytest.approx(0.1)

"""The front, the choice from it and the recommendation: hand-computed cases, and brute force on random points."""

from __future__ import annotations

import random

import pytest

from nas.architecture import Architecture, Placement
from nas.evaluation import wilson_interval
from nas.front import (
    Row,
    count_text,
    front,
    front_table,
    knee,
    mark_front,
    ms_text,
    noise,
    non_dominated,
    pick,
    recommend,
)

BARE_MS = 2.0


def make_row(trial: int, accuracy: float, latency_ms: float, control: str = "", n: int = 1000) -> Row:
    """A row whose accuracy was measured on ``n`` images; the bare backbone takes 2 ms."""
    low, high = wilson_interval(accuracy, n)
    ratio = latency_ms / BARE_MS
    block = "" if control == "bare" else control.removesuffix(" everywhere") or "se"
    placements = tuple(Placement(stage=stage, block=block) for stage in (1, 2)) if block else ()
    return Row(
        trial=trial,
        architecture=Architecture(backbone="resnet18", placements=placements),
        control=control,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        latency_ms=latency_ms,
        latency_ratio=ratio,
        ratio_low=0.99 * ratio,
        ratio_high=1.01 * ratio,
        parameters=11_176_512,
        macs=1_820_000_000,
    )


def dominated(point: tuple[float, float], points: list[tuple[float, float]]) -> bool:
    """The definition, point by point."""
    return any(other[0] >= point[0] and other[1] <= point[1] and other != point for other in points)


@pytest.mark.parametrize("seed", range(30))
def test_non_dominated_equals_the_definition(seed: int) -> None:
    choose = random.Random(seed)
    # Few distinct values, so that ties in one axis, and equal points, are frequent.
    points = [(choose.randrange(8) / 8, float(choose.randrange(1, 9))) for _ in range(choose.randrange(1, 60))]
    assert non_dominated(points) == [not dominated(point, points) for point in points]


def test_non_dominated_by_hand() -> None:
    points = [(0.9, 2.0), (0.8, 1.0), (0.9, 3.0), (0.7, 1.0), (0.9, 2.0), (0.95, 9.0)]
    assert non_dominated(points) == [True, True, False, False, True, True]
    assert non_dominated([]) == []


def test_non_dominated_refuses_nan() -> None:
    with pytest.raises(ValueError, match=r"must be numbers, but got \(nan, 1.0\)"):
        non_dominated([(float("nan"), 1.0)])


def test_row_refuses_figures_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"trial 3: latency_ms must be a positive finite number, but got 0.0"):
        make_row(3, 0.9, 0.0)
    with pytest.raises(ValueError, match="accuracy_low <= accuracy <= accuracy_high"):
        Row(**{**vars(make_row(3, 0.9, 2.0)), "accuracy_low": 0.95})


def test_front_is_sorted_and_marked() -> None:
    rows = [make_row(0, 0.9, 3.0), make_row(1, 0.8, 1.0), make_row(2, 0.7, 2.0)]
    assert [row.on_front for row in mark_front(rows)] == [True, True, False]
    assert [row.trial for row in mark_front(rows)] == [0, 1, 2]
    assert [row.trial for row in front(rows)] == [1, 0]
    assert not rows[0].on_front


def test_knee_is_the_farthest_above_the_chord() -> None:
    # Scaled to 0..1, the inner points are (latency .2, accuracy .3), (.4, .8), (.8, .9): .1, .4 and .1 above the chord.
    rows = [make_row(*figures) for figures in ((0, 0.80, 1.0), (1, 0.83, 1.2), (2, 0.88, 1.4), (3, 0.89, 1.8))]
    rows += [make_row(4, 0.90, 2.0), make_row(5, 0.50, 1.9)]
    assert knee(rows).trial == 2


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ([(7, 0.8, 1.0)], 7),
        ([(7, 0.9, 2.0), (8, 0.8, 1.0)], 8),
        ([(7, 0.8, 1.0), (8, 0.8, 1.0), (9, 0.8, 1.0)], 7),
        ([(7, 0.9, 2.0), (8, 0.81, 1.5), (9, 0.8, 1.0)], 9),
    ],
    ids=["one", "two", "equal", "hollow"],
)
def test_knee_without_a_bulge_is_the_fastest(figures: list[tuple[int, float, float]], expected: int) -> None:
    assert knee([make_row(*each) for each in figures]).trial == expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("knee", 1),
        ("accuracy", 2),
        ("fastest", 0),
        ("trial:3", 3),
        ("latency<=2.5", 1),
        ("latency <= 2.2 ms", 1),
        ("latency<=2", 0),
        ("slowdown<=10%", 1),
        ("slowdown<=0%", 0),
    ],
)
def test_pick(how: str, expected: int) -> None:
    rows = [make_row(0, 0.80, 2.0), make_row(1, 0.90, 2.2), make_row(2, 0.91, 4.0), make_row(3, 0.70, 3.0)]
    assert pick(rows, how).trial == expected


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("best", r"pick must be one of knee, accuracy, fastest, trial:N, latency<=X, slowdown<=P%.*but got 'best'"),
        ("latency<=-1", "pick must be one of"),
        ("trial:9", "no finished trial has the number 9; the nearest ones: 0, 1"),
        ("latency<=1.5", r"no trial keeps to a latency of 1.5 ms; the nearest is trial 0 with a latency of 2.1 ms"),
        ("slowdown<=2%", r"no trial keeps to a slowdown of 2 %; the nearest is trial 0 with a slowdown of 5 %"),
    ],
)
def test_pick_says_what_is_wrong(how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick([make_row(0, 0.8, 2.1), make_row(1, 0.9, 2.2)], how)


@pytest.mark.parametrize("choose", [knee, recommend, lambda rows: pick(rows, "accuracy")])
def test_nothing_can_be_chosen_from_nothing(choose) -> None:
    with pytest.raises(ValueError, match="at least one trial must have finished"):
        choose([])


def test_noise_of_two_equal_samples_is_root_two_half_widths() -> None:
    # At 50 % of 9,604 images the half width is 1.96 * sqrt(.25 / 9604) = 1 percentage point (less 0.0002 by Wilson).
    rows = make_row(0, 0.5, 2.0, n=9604), make_row(1, 0.5, 2.0, n=9604)
    assert noise(*rows) == pytest.approx(2**0.5 * 0.01, rel=1e-3)
    assert noise(make_row(0, 0.8, 2.0), make_row(1, 0.9, 2.0)) == noise(make_row(1, 0.9, 2.0), make_row(0, 0.8, 2.0))


def test_recommends_the_fastest_that_is_not_clearly_below_the_best() -> None:
    # With 1,000 images, differences near 90 % are noise below about 2.7 points.
    rows = [make_row(0, 0.85, 2.0, "bare"), make_row(1, 0.865, 2.1), make_row(2, 0.90, 2.4), make_row(3, 0.91, 3.0)]
    answer = recommend(rows)
    assert answer.row.trial == 2
    assert answer.sentence.startswith("Take trial 2 (1: se(reduction=16); 2: se(reduction=16)): 90.0 [88.0, 91.7] %")
    assert "2.400 ms, 1.200 [1.188, 1.212] times the latency of the bare backbone" in answer.sentence
    assert "5.0 percentage points more accurate than the bare backbone" in answer.sentence
    assert answer.sentence.endswith("alone explains at most 2.9 points (95 %).")


def test_recommends_nothing_within_noise() -> None:
    rows = [make_row(0, 0.90, 2.0, "bare"), make_row(1, 0.91, 2.1), make_row(2, 0.85, 3.0)]
    answer = recommend(rows)
    assert answer.row.control == "bare"
    assert answer.sentence.startswith("Add nothing: the bare backbone (trial 0) has 90.0 [88.0, 91.7] % accuracy")
    assert "trial 1 (1: se(reduction=16); 2: se(reduction=16)) with 91.0" in answer.sentence
    assert "is only 1.0 percentage points more accurate" in answer.sentence
    assert answer.sentence.endswith("the choice of validation images alone can make 2.6 points (95 %).")


def test_recommends_nothing_where_all_else_is_worse_or_missing() -> None:
    bare = make_row(0, 0.90, 2.0, "bare")
    assert recommend([bare, make_row(1, 0.89, 2.1)]).sentence.endswith("is not more accurate.")
    assert recommend([bare]).sentence.endswith("and no other trial has finished yet.")


def test_recommendation_without_the_bare_backbone_says_so() -> None:
    answer = recommend([make_row(1, 0.90, 2.1), make_row(2, 0.99, 3.0)])
    assert answer.row.trial == 2
    assert answer.sentence.endswith(
        "the bare backbone has not finished yet, so it is open whether adding a block pays."
    )


def test_gain_and_noise_never_read_the_same() -> None:
    rows = [make_row(0, 0.90, 2.0, "bare", n=1000), make_row(1, 0.9255, 2.2, n=1000)]
    assert recommend(rows).sentence.count("2.55 p") == 1
    assert "2.48 points" in recommend(rows).sentence


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_600, "1.00 M"), (11_176_512, "11.2 M"), (178_000_000, "178 M")],
)
def test_counts_are_short(count: int, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.012346, "0.01235"), (3.2144, "3.214"), (45.678, "45.68"), (12345.6, "12346")]
)
def test_times_have_four_digits(value: float, text: str) -> None:
    assert ms_text(value) == text


def test_table_lists_the_front_and_the_beaten_controls() -> None:
    rows = [make_row(0, 0.90, 2.0, "bare"), make_row(1, 0.89, 2.4, "se everywhere"), make_row(2, 0.95, 2.3)]
    rows += [make_row(3, 0.5, 3.0), make_row(4, 0.92, 2.1, "eca everywhere"), make_row(5, 0.91, 4.0, "cbam everywhere")]
    lines = front_table(rows).splitlines()
    assert lines[0].startswith("front: 3 of 6 finished trials")
    assert [line[:5].strip() for line in lines[2:6]] == ["0", "4", "", "2"]
    assert lines[2].endswith("90.0 [88.0, 91.7]         2.000  1.000 [0.990, 1.010]  11.2 M  bare backbone")
    assert "eca everywhere: 1: eca(kernel_size=None);" in lines[3]
    assert "controls that are not on the front:" in lines
    beaten = lines[lines.index("controls that are not on the front:") + 1 :]
    assert [line[:5].strip() for line in beaten if line[:5].strip()] == ["5", "1"]
    assert max(map(len, lines)) <= 120


def test_table_of_nothing() -> None:
    assert front_table([]) == "No trial has finished yet."

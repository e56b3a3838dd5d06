"""The front and the choice from it: hand-computed cases, and brute force on random points."""

from __future__ import annotations

import random

import pytest
from rows import make_row

from nas.answer import recommend
from nas.front import Point, Row, dominated_area, front, knee, mark_front, non_dominated, pick


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


def counted_area(points: list[Point], reference: Point) -> int:
    """The area of whole figures, unit square by unit square: one counts if it lies in any point's rectangle."""
    highest, fastest = max(point[0] for point in points), min(point[1] for point in points)
    squares = [
        (accuracy, latency)
        for accuracy in range(int(reference[0]), int(highest))
        for latency in range(int(fastest), int(reference[1]))
    ]
    return sum(any(p[0] >= accuracy + 1 and p[1] <= latency for p in points) for accuracy, latency in squares)


@pytest.mark.parametrize("seed", range(30))
def test_dominated_area_equals_the_counted_one(seed: int) -> None:
    choose = random.Random(seed)
    # Few distinct values, for ties and equal points; some lie outside the reference, in one figure or in both.
    points = [(float(choose.randrange(12)), float(choose.randrange(1, 13))) for _ in range(choose.randrange(1, 25))]
    reference = float(choose.randrange(0, 6)), float(choose.randrange(6, 14))
    assert dominated_area(points, reference) == counted_area(points, reference)
    assert dominated_area(points[::-1] + points, reference) == counted_area(points, reference)


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0.0),
        ([(0.75, 1.0)], 0.25 * 3),
        ([(0.75, 1.0), (1.0, 3.0)], 0.25 * 3 + 0.25 * 1),
        ([(1.0, 3.0), (0.75, 1.0), (0.875, 2.0)], 0.25 * 3 + 0.125 * 2 + 0.125 * 1),
        ([(0.75, 1.0), (0.625, 2.0)], 0.25 * 3),
        ([(0.75, 1.0), (0.75, 1.0), (0.75, 2.0), (0.625, 1.0)], 0.25 * 3),
        ([(0.75, 4.0), (0.5, 1.0), (0.25, 0.5), (1.0, 9.0)], 0.0),
        ([(0.75, float("-inf"))], float("inf")),
    ],
    ids=["none", "one", "two", "three", "dominated", "equal", "outside", "infinite"],
)
def test_dominated_area_by_hand(points: list[Point], area: float) -> None:
    assert dominated_area(points, (0.5, 4.0)) == area  # all of them sums of powers of two: exact


def test_dominated_area_refuses_what_has_no_area() -> None:
    with pytest.raises(ValueError, match=r"must be numbers, but got \(0.9, nan\)"):
        dominated_area([(0.9, float("nan"))], (0.5, 4.0))
    for reference in ((float("-inf"), 4.0), (0.5, float("inf")), (float("nan"), 4.0)):
        with pytest.raises(ValueError, match="the reference point must be finite, but got"):
            dominated_area([], reference)


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
        ("trial:9", "no finished trial has the number 9; 2 have finished, the nearest: 0, 1"),
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

"""What rows say about the blocks of an architecture: verdicts, what would settle open ones, what to do."""

from __future__ import annotations

import csv
import dataclasses
import math

import pytest
from rows import make_row

from nas.ablation import FAILED, Ablation, compare, csv_text, report, without
from nas.architecture import Architecture, Placement
from nas.front import Row
from nas.removal import IDLE, OPEN, PAYS, Removal

MANY = 1_000_000
"""Validation images whose choice makes hardly a tenth of a point."""


def row(
    trial: int,
    accuracy: float,
    ratio: float,
    stages: tuple[int, ...] = (1, 2),
    *,
    sd: float | None = None,
    seeds: int = 4,
    unstable: bool = False,
) -> Row:
    """A row with se at each of some stages, whose ratio is known to a hundredth of itself."""
    placements = tuple(Placement(stage=stage, block="se") for stage in stages)
    return dataclasses.replace(
        make_row(trial, accuracy, 2 * ratio, n=MANY),
        architecture=Architecture(backbone="resnet18", placements=placements),
        seeds=seeds,
        seed_error=None if sd is None else sd / math.sqrt(seeds),
        seed_degrees=0 if sd is None else 20,
        unstable=unstable,
    )


def difference(lost: float, saved: float, **named: object) -> Removal:
    full, other = row(1, 0.9, 1.3, **named), row(2, 0.9 - lost, 1.3 - saved, (1,), **named)  # type: ignore[arg-type]
    return Removal(full=full, other=other, comparisons=1)


@pytest.mark.parametrize(
    ("lost", "saved", "named", "verdict"),
    [
        (0.02, 0.1, {}, PAYS),
        (0.02, 0.1, {"sd": 0.005}, PAYS),
        (0.02, 0.1, {"sd": 0.05}, OPEN),
        (0.02, 0.1, {"unstable": True}, PAYS),
        (0.0005, 0.1, {}, IDLE),
        (0.0005, 0.1, {"sd": 0.05}, IDLE),  # with any number of seeds it would be within the noise of the images
        (0.0005, 0.1, {"unstable": True}, OPEN),
        (0.0005, 0.01, {}, OPEN),
        (-0.02, 0.1, {"sd": 0.05}, IDLE),
        (-0.02, 0.0, {}, IDLE),
        (-0.02, 0.0, {"unstable": True}, IDLE),
        (-0.02, -0.1, {}, OPEN),
        (0.0005, -0.1, {}, PAYS),
        (-0.02, -0.1, {"sd": 0.05}, PAYS),
    ],
)
def test_verdicts(lost: float, saved: float, named: dict[str, object], verdict: str) -> None:
    assert difference(lost, saved, **named).verdict == verdict


def test_so_many_seeds_as_are_named_would_tell_and_one_less_would_not() -> None:
    asked = difference(0.02, 0.1, sd=0.02).seeds_to_tell
    assert asked is not None
    assert asked > 4
    assert difference(0.02, 0.1, sd=0.02, seeds=asked + 1).verdict == PAYS
    assert difference(0.02, 0.1, sd=0.02, seeds=asked).verdict == OPEN


def test_where_no_number_of_seeds_tells_none_is_named() -> None:
    assert difference(0.0005, 0.1, sd=0.02).seeds_to_tell is None
    assert difference(-0.02, 0.1, sd=0.02).seeds_to_tell is None
    assert difference(0.02, 0.1).seeds_to_tell is None
    assert difference(0.002, 0.1, sd=0.3).seeds_to_tell is None


def test_several_comparisons_widen_both_intervals() -> None:
    one = difference(0.02, 0.1, sd=0.01)
    three = dataclasses.replace(one, comparisons=3)
    assert three.lost_half > one.lost_half
    # Sidak: the normal quantile for three at once, 2.3877, over that for one.
    assert three.saved_half == pytest.approx(one.saved_half * 2.3877 / 1.95996, rel=1e-4)
    assert one.saved_half == pytest.approx(0.01 * math.hypot(1.3, 1.2))


def ablation(full: Row, *others: Row, removed: tuple[int, ...] = (), reasons: dict[str, str] | None = None) -> Ablation:
    gone = [placement for placement in full.architecture.placements if placement.stage in removed]
    return compare(full, {each.architecture.id: each for each in (full, *others)}, reasons or {}, removed=gone)


def test_a_block_that_does_not_pay_is_left_out() -> None:
    found = ablation(row(7, 0.9, 1.3), row(3, 0.8995, 1.2, (1,)), row(4, 0.8, 1.1, (2,)), removed=(2,))
    assert [drop.verdict for drop in found.drops] == [PAYS, IDLE]
    assert found.comparisons == 3
    assert found.sentence.startswith("Take trial 3 (1: se(reduction=16)) instead of 7: 90.0 [")
    lacks = (
        "the 0.1 points of accuracy that it lacks are within the 0.1 that the choice of validation images alone can "
    )
    assert found.sentence.endswith(f" and 92.3 % of trial 7's; {lacks}make (95 %).")
    words = report(found, title="T", facts={"Here": "there"})
    assert "- 1: se(reduction=16) pays: without it the accuracy falls by 10.0 ±0.1 points, and the " in words
    assert "- 2: se(reduction=16) does not pay: without it " in words
    assert words.startswith("# T\n\nTake trial 3 ")
    assert words.endswith("- Here: there\n")


def test_what_is_more_accurate_without_a_block_says_so() -> None:
    found = ablation(row(7, 0.9, 1.3), row(3, 0.91, 1.2, (1,)), row(4, 0.8, 1.1, (2,)), removed=(2,))
    assert found.sentence.endswith("it is 1.0 points more accurate.")


def test_where_every_block_pays_the_architecture_is_kept() -> None:
    found = ablation(row(7, 0.9, 1.3), row(3, 0.8, 1.2, (1,)), row(4, 0.8, 1.1, (2,)))
    assert found.sentence.endswith("2: se(reduction=16)): each of its 2 blocks pays.")
    alone = ablation(row(7, 0.9, 1.3, (1,)), row(0, 0.8, 1.0, ()))
    assert alone.sentence == "Keep trial 7 (1: se(reduction=16)): its block pays."
    assert alone.comparisons == 1


def test_what_is_open_and_what_could_not_be_evaluated_is_named() -> None:
    full = row(7, 0.9, 1.3, (1, 2, 3), sd=0.02)
    left = without(full.architecture, full.architecture.placements[:1])
    found = ablation(
        full, row(4, 0.88, 1.2, (1, 3), sd=0.02), row(5, 0.7, 1.2, (1, 2), sd=0.02), reasons={left.id: "no memory"}
    )
    assert [drop.verdict for drop in found.drops] == [FAILED, OPEN, PAYS]
    assert found.sentence.endswith("no block is shown not to pay; open: 2: se; not evaluated: 1: se.")
    words = report(found, title="", facts={})
    assert "- 1: se(reduction=16) could not be removed: no memory." in words
    assert "further ones each would tell (--seeds " in words
    assert "| 1: se   | -     | -  " in words


def test_blocks_of_which_one_is_needed_are_not_both_removed() -> None:
    found = ablation(
        row(7, 0.9, 1.3),
        row(3, 0.8995, 1.2, (1,)),
        row(4, 0.8995, 1.1, (2,)),
        row(0, 0.7, 1.0, ()),
        removed=(1, 2),
    )
    assert [drop.verdict for drop in found.drops] == [IDLE, IDLE]
    assert found.sentence.startswith("Take trial 4 (2: se(reduction=16)) instead of 7")  # which saves most
    assert "Without 1: se and 2: se at once (trial 0) the accuracy falls by 20.0 ±0.1 points" in found.sentence
    assert "| 1: se + 2: se | 0 " in report(found, title="", facts={})
    better = ablation(
        row(7, 0.9, 1.3), row(3, 0.8995, 1.2, (1,)), row(4, 0.8995, 1.1, (2,)), row(0, 0.9, 1.0, ()), removed=(1, 2)
    )
    assert better.sentence.startswith("Take trial 0 (bare backbone) instead of 7: 90.0 [")
    assert better.sentence.endswith("it is as accurate.")


def test_a_pruned_one_that_failed_leaves_the_best_single_one() -> None:
    full = row(7, 0.9, 1.3)
    bare = Architecture(backbone="resnet18")
    found = ablation(
        full,
        row(3, 0.8995, 1.2, (1,)),
        row(4, 0.8995, 1.1, (2,)),
        removed=(1, 2),
        reasons={bare.id: "no memory"},
    )
    assert found.sentence.startswith("Take trial 4 ")
    assert found.sentence.endswith("What is left without 1: se and 2: se could not be evaluated: no memory.")
    assert [line["verdict"] for line in csv.DictReader(csv_text(found).splitlines())] == ["", IDLE, IDLE, FAILED]


def test_the_table_fits_a_terminal() -> None:
    placements = tuple(
        Placement(stage=stage, block="shuffle", position="in_residual") for stage in (11, 12)
    )  # nothing has a longer name
    full = dataclasses.replace(
        row(1000, 1.0, 21.3, sd=0.1), architecture=Architecture(backbone="b", placements=placements)
    )
    left = [
        dataclasses.replace(
            row(1001 + k, 0.999, 11.2, sd=0.1, unstable=True), architecture=without(full.architecture, [gone])
        )
        for k, gone in enumerate(placements)
    ]
    lines = [line for line in report(ablation(full, *left), title="", facts={}).splitlines() if line[:1] == "|"]
    assert len(lines) == 5
    assert max(map(len, lines)) <= 120


def test_the_csv_has_a_line_for_each() -> None:
    found = ablation(row(7, 0.9, 1.3), row(3, 0.8995, 1.2, (1,)), row(4, 0.8, 1.1, (2,)), removed=(2,))
    lines = list(csv.DictReader(csv_text(found).splitlines()))
    assert [line["trial"] for line in lines] == ["7", "4", "3"]
    assert [line["removed"] for line in lines] == ["", "1: se(reduction=16)", "2: se(reduction=16)"]
    assert float(lines[1]["accuracy_lost"]) == pytest.approx(0.1)
    assert float(lines[1]["ratio_saved"]) == pytest.approx(0.2)
    assert lines[2]["placements"] == "1: se(reduction=16)"


def test_what_is_left_without_all_is_not_taken_where_one_removal_gives_more() -> None:
    found = ablation(
        row(5, 0.8, 1.3), row(6, 0.9, 1.25, (1,)), row(7, 0.9, 1.2, (2,)), row(8, 0.8, 1.0, ()), removed=(1, 2)
    )
    assert found.sentence.startswith("Take trial 7 (2: se(reduction=16)) instead of 5")
    slower = ablation(
        row(5, 0.8, 1.3), row(6, 0.8, 1.2, (1,)), row(7, 0.8, 1.25, (2,)), row(8, 0.8, 1.43, ()), removed=(1, 2)
    )
    assert slower.pruned is not None
    assert slower.pruned.verdict == PAYS
    assert slower.sentence.startswith("Take trial 6 (1: se(reduction=16)) instead of 5")

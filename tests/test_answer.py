"""The answer in words: what is recommended, what it is compared with, and how figures are written."""

from __future__ import annotations

import dataclasses
import random

import pytest
from rows import make_row

from nas.answer import count_text, front_table, image_noise, legend, ms_text, noise, recommend, seed_noise
from nas.front import Row
from nas.seeds import estimate


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
    assert answer.sentence.endswith(
        "alone can make 3.5 points in the best of 3 (95 %); each was trained with one seed, whose effect comes on top."
    )


def test_recommends_nothing_within_noise() -> None:
    rows = [make_row(0, 0.90, 2.0, "bare"), make_row(1, 0.91, 2.1), make_row(2, 0.85, 3.0)]
    answer = recommend(rows)
    assert answer.row.control == "bare"
    assert answer.sentence.startswith("Add nothing: the bare backbone (trial 0) has 90.0 [88.0, 91.7] % accuracy")
    assert "trial 1 (1: se(reduction=16); 2: se(reduction=16)) with 91.0" in answer.sentence
    assert "is only 1.0 percentage points more accurate" in answer.sentence
    assert " alone can make 2.9 points in the best of 2 (95 %); each was trained with one seed" in answer.sentence


def test_recommends_nothing_where_all_else_is_worse_or_missing() -> None:
    bare = make_row(0, 0.90, 2.0, "bare")
    assert recommend([bare, make_row(1, 0.89, 2.1)]).sentence.endswith("is not more accurate.")
    assert recommend([bare]).sentence.endswith("and no other trial has finished yet.")


def test_recommendation_without_the_bare_backbone_says_so() -> None:
    answer = recommend([make_row(1, 0.90, 2.1), make_row(2, 0.99, 3.0)])
    assert answer.row.trial == 2
    assert answer.sentence.endswith("the bare backbone was not evaluated, so it is open whether adding a block pays.")


@pytest.mark.parametrize(("images", "share"), [(360, 0.93), (5000, 0.7)])
def test_equal_architectures_are_seldom_told_apart(images: int, share: float) -> None:
    generator = random.Random(0)
    fooled = 0
    for _ in range(100):
        shares = [sum(generator.random() < share for _ in range(images)) / images for _ in range(20)]
        rows = [make_row(0, shares[0], 2.0, "bare", n=images)]
        rows += [make_row(k, value, 2.0 + k / 100, n=images) for k, value in enumerate(shares[1:], 1)]
        fooled += recommend(rows).row.control != "bare"
    assert fooled <= 10


def test_what_was_stopped_might_have_been_the_luckiest_too() -> None:
    rows = [make_row(0, 0.90, 2.0, "bare", n=1000), *(make_row(k, 0.90 + k / 100, 2 + k / 10, n=1000) for k in (1, 2))]
    several = [dataclasses.replace(row, left=30) for row in rows]
    assert "in the best of 2 (95 %)" in recommend(rows).sentence
    assert "in the best of 32 (95 %)" in recommend(several).sentence
    rows[2] = make_row(2, 0.937, 2.2, n=1000)
    assert recommend(rows).row.trial == 2
    assert recommend([dataclasses.replace(row, left=300) for row in rows]).row.trial == 0


def test_noise_grows_with_the_number_of_comparisons() -> None:
    first, second = make_row(0, 0.9, 2.0), make_row(1, 0.92, 2.1)
    assert noise(first, second) < noise(first, second, 10) < noise(first, second, 50)
    # Sidak's 95 % quantile for 10 two-sided comparisons is 2.800, against 1.960 for one.
    assert noise(first, second, 10) / noise(first, second) == pytest.approx(2.800 / 1.960, rel=1e-3)


def known(row: Row, sd: float, seeds: int = 1, degrees: int = 3) -> Row:
    return dataclasses.replace(row, seed_error=sd / seeds**0.5, seed_degrees=degrees, seeds=seeds)


def test_seeds_add_to_the_noise_as_the_root_of_the_sum_of_squares() -> None:
    first, second = make_row(0, 0.9, 2.0), make_row(1, 0.92, 2.1)
    images = noise(first, second)
    assert image_noise(first, second) == images
    assert seed_noise(first, second) == 0
    # Two means of four and of one: standard error 0.01 * sqrt(1 / 4 + 1), times Student's 3.182.
    seeds = 3.1824 * 0.01 * 1.25**0.5
    first, second = known(first, 0.01, seeds=4), known(second, 0.01)
    assert seed_noise(first, second) == pytest.approx(seeds, rel=1e-3)
    assert noise(first, second) == pytest.approx((images**2 + seeds**2) ** 0.5, rel=1e-3)
    assert noise(first, second, 10) > noise(first, second)


def test_known_noise_of_the_seed_decides_and_is_said() -> None:
    rows = [make_row(0, 0.85, 2.0, "bare"), make_row(1, 0.90, 2.4)]
    assert recommend(rows).row.trial == 1
    few = recommend([known(row, 0.02) for row in rows])
    assert few.row.trial == 0
    assert few.sentence.endswith(
        "is only 5.0 percentage points more accurate. Validation images and training seeds can make 9.5 points (95 %); "
        "further seeds (--repeats, --confirm) narrow that."
    )
    many = recommend([known(row, 0.02, seeds=16, degrees=30) for row in rows])
    assert many.row.trial == 1
    assert "90.0 [88.0, 91.7] ±1.0 % accuracy" in many.sentence
    assert many.sentence.endswith("Validation images and training seeds can make 3.2 points (95 %).")


@pytest.mark.parametrize("repeats", [3, 10])
def test_equal_architectures_with_noisy_seeds_are_seldom_told_apart(repeats: int) -> None:
    generator = random.Random(0)
    fooled = 0
    for _ in range(100):
        shares = [[0.9 + generator.gauss(0, 0.02) for _ in range(1 + repeats)]]
        shares += [[0.9 + generator.gauss(0, 0.02)] for _ in range(19)]
        found = estimate(shares)
        rows = [
            known(
                make_row(k, sum(each) / len(each), 2 + k / 100, "" if k else "bare", n=10_000),
                found.sd,
                len(each),
                repeats,
            )
            for k, each in enumerate(shares)
        ]
        fooled += recommend(rows).row.control != "bare"
    assert fooled <= 10


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


def test_table_with_known_noise_of_the_seed() -> None:
    rows = [known(make_row(0, 0.90, 2.0, "bare"), 0.01), known(make_row(1, 0.95, 2.3), 0.01)]
    rows = [dataclasses.replace(row, front_probability=0.625) for row in rows]
    lines = front_table(rows).splitlines()
    assert lines[1].endswith("± for the training seed (3 degrees of freedom); on front: probability")
    assert lines[3].endswith(
        "90.0 [88.0, 91.7] ±3.2        2.000  1.000 [0.990, 1.010]      62 %  11.2 M  bare backbone"
    )
    assert max(map(len, lines)) <= 120


def test_table_of_nothing() -> None:
    assert front_table([]) == "No trial has finished yet."


def test_a_bare_backbone_beyond_the_limits_is_not_recommended() -> None:
    bare = make_row(0, accuracy=0.95, latency_ms=2.0, control="bare")
    bare = dataclasses.replace(bare, beyond="2 ms, where 1 ms are allowed")
    answer = recommend([bare])
    assert answer.row is bare
    assert answer.sentence.startswith("Nothing is within the limits: even the bare backbone (trial 0) has 2 ms, where")
    quick, slow = make_row(1, accuracy=0.90, latency_ms=0.8), make_row(2, accuracy=0.91, latency_ms=0.9)
    answer = recommend([bare, slow, quick])
    assert answer.row.trial == 1  # as accurate as the other within the noise, and faster
    assert answer.sentence.endswith("which itself is beyond the limits: 2 ms, where 1 ms are allowed.")


def test_the_legend_explains_the_signs_that_are_there() -> None:
    plain = [make_row(0, 0.85, 2.0, "bare"), make_row(1, 0.90, 2.4)]
    assert legend(plain) == ""
    unstable = [plain[0], dataclasses.replace(plain[1], unstable=True)]
    assert legend(unstable) == "?: the machine was too busy to time it well"
    both = legend([known(row, 0.02) for row in unstable])
    assert both.startswith("accuracy: [low, high] for the validation images, ± for the training seed (3 degrees")
    assert both.endswith("on front: probability; ?: the machine was too busy to time it well")
    assert legend(unstable) in front_table(unstable)

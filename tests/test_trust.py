"""The trust report from full trainings that are made up: its verdicts, its figures, its table."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence

import pytest
from rows import make_row

from nas.front import mark_front
from nas.seeds import Replicate
from nas.trust import CSV_COLUMNS, PROXY, Entry, assess, csv_text, report

NOISE = (-0.002, 0.0, 0.002)


def entry(trial: int, proxy: float, tests: Sequence[float], latency_ms: float = 2.0, **row: object) -> Entry:
    made = dataclasses.replace(make_row(trial, proxy, latency_ms), **{"parameters": 1000 + trial, **row})
    runs = tuple(
        Replicate(
            architecture=made.architecture.id,
            seed=1000 + k,
            epochs=15,
            accuracy=test + 0.01,
            val_images=400,
            test_accuracy=test,
            test_images=500,
            curve=(),
            train_seconds=1.0,
            versions={},
        )
        for k, test in enumerate(tests)
    )
    return Entry(row=made, recommended=False, replicates=runs)


def study(proxies: Sequence[float], fulls: Sequence[float], noise: Sequence[float] = NOISE) -> list[Entry]:
    """Ten architectures of growing latency; the one with the highest proxy accuracy is recommended."""
    entries = [
        entry(trial, proxy, [full + each for each in noise], 2 + trial / 10)
        for trial, (proxy, full) in enumerate(zip(proxies, fulls, strict=True))
    ]
    best = max(range(len(entries)), key=lambda k: proxies[k])
    marked = mark_front([each.row for each in entries])
    return [
        dataclasses.replace(each, row=row, recommended=k == best)
        for k, (each, row) in enumerate(zip(entries, marked, strict=True))
    ]


FULLS = [0.80 + 0.01 * k for k in range(10)]
SHUFFLED = [0.52, 0.50, 0.54, 0.51, 0.56, 0.53, 0.58, 0.55, 0.59, 0.57]
"""The squared differences of the ranks from a rising sequence sum to 34: Spearman's correlation is 1 - 6 * 34 / 990."""


def test_a_proxy_that_ranks_well_is_reliable() -> None:
    found = assess(study([value - 0.3 for value in FULLS], FULLS), top=5)
    assert found.sentence.startswith("The proxy is reliable: Spearman's correlation of its ranking with that of full ")
    assert "over 10 architectures, surely above 0.5." in found.sentence
    assert found.recalls == {1: 1, 3: 3, 5: 5}
    assert found.regret.value == 0
    assert [each.row.trial for each in found.entries] == list(range(9, -1, -1))


def test_a_proxy_that_is_better_than_chance_is_weak() -> None:
    found = assess(study(SHUFFLED, FULLS), top=5)
    spearman, _ = found.scores[PROXY]
    assert spearman.value == pytest.approx(1 - 6 * 34 / 990)
    assert 0 < spearman.low < 0.5
    assert found.sentence.startswith("The proxy is weak: ")
    # Latency and parameters rise as the full accuracies do; the first of equals is named.
    assert found.sentence.endswith("surely above 0.5; parameters alone would rank them with 1.00.")


def test_a_proxy_that_ranks_the_wrong_way_round_is_not_usable() -> None:
    found = assess(study(FULLS[::-1], FULLS), top=5)
    assert found.sentence.startswith("The proxy is not usable here: ")
    assert found.recalls == {1: 0, 3: 0, 5: 0}
    assert found.regret.value == pytest.approx(0.09)
    assert found.regret.low < 0.09 < found.regret.high


def test_architectures_that_are_alike_leave_nothing_to_rank() -> None:
    found = assess(study(SHUFFLED, [0.9] * 10), top=5)
    assert found.ceiling == 0
    assert found.sentence.endswith("hardly differ by more than seeds do, so there is little to rank.")


def test_a_proxy_to_which_all_look_the_same_is_not_usable() -> None:
    found = assess(study([0.9] * 10, FULLS), top=5)
    assert "of 10 architectures, all look the same to it, or all are" in found.sentence
    assert "none: all the same" in report(found, title="t", facts={})


def test_optimism_and_noise() -> None:
    found = assess(study(FULLS, FULLS), top=2)
    assert found.recalls == {1: 1, 2: 2, 3: 3}
    assert set(found.optimism) == {"front"}
    optimism = found.optimism["front"]
    assert optimism.value == pytest.approx(0.01)
    assert optimism.half_width == pytest.approx(1.96 * (0.855 * 0.145 / 400 + 0.845 * 0.155 / 500) ** 0.5)
    assert (found.noise.degrees, found.noise.sd) == (20, pytest.approx(0.002))
    assert found.ceiling > 0.99


def test_one_seed_leaves_the_noise_open() -> None:
    found = assess(study(FULLS, FULLS, noise=(0.0,)), top=5)
    assert (found.noise, found.ceiling, found.regret.high) == (None, None, None)
    text = report(found, title="t", facts={})
    assert "full test % (one seed)" in text
    assert "±se" not in text
    assert next(csv.DictReader(io.StringIO(csv_text(found))))["test_error"] == ""


def test_a_recommended_architecture_that_failed_has_no_regret() -> None:
    entries = [dataclasses.replace(each, recommended=False) for each in study(FULLS, FULLS)]
    found = assess(entries, top=5)
    assert found.regret is None
    assert "could not be trained, so its regret is unknown" in report(found, title="t", facts={}, failures=["x: NaN"])


def test_the_report_says_all() -> None:
    entries = study(SHUFFLED, FULLS)
    entries[0] = dataclasses.replace(entries[0], row=dataclasses.replace(entries[0].row, control="bare"))
    found = assess(entries, top=5)
    text = report(found, title="Can it?", facts={"Device": "a CPU"}, failures=["trial 3 with seed 1001: no memory"])
    assert text.startswith(f"# Can it?\n\n{found.sentence}\n\n- Device: a CPU\n")
    assert "\n- trial 3 with seed 1001: no memory\n" in text
    assert "| bare backbone, front " in text
    assert "| recommended, front " in text
    assert "89.00 ±0.12" in text
    assert "- Of the full top 3, the proxy's top 3 holds 2 (by chance 0.9)." in text
    assert "front (5): +1.00 ±" in text
    assert "dominated (5): +1.00 ±" in text
    assert "More architectures (--top, --others) narrow the intervals." in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in tables[:12]}) == 1


def test_the_csv_has_one_line_an_architecture() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(assess(study(SHUFFLED, FULLS), top=5)))))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert [int(line["trial"]) for line in lines] == list(range(9, -1, -1))
    assert float(lines[0]["test_accuracy"]) == pytest.approx(0.89)
    assert [float(value) for value in lines[0]["tests"].split()] == pytest.approx([0.888, 0.89, 0.892])
    assert float(lines[0]["test_error"]) == pytest.approx(0.002 / 3**0.5)

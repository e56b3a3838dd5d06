"""What one may want to take from a study."""

from __future__ import annotations

import dataclasses

import pytest

from nas.answer import recommend
from nas.front import pick
from nas.picks import picks
from tests.rows import make_row


def test_every_pick_is_what_its_name_says_and_is_exported_by_its_word() -> None:
    rows = [
        make_row(0, 0.80, 2.0, "bare"),
        make_row(1, 0.84, 2.1),
        make_row(2, 0.90, 2.2),
        make_row(3, 0.905, 2.6),
        make_row(4, 0.91, 4.0),
        make_row(5, 0.70, 5.0),
    ]
    found = picks(rows)
    assert [(each.row.trial, each.names) for each in found] == [
        (2, ("recommended", "cheapest within noise of the most accurate", "knee of the front")),
        (0, ("bare backbone",)),
        (4, ("most accurate",)),
    ]
    assert found[0].row == recommend(rows).row
    assert [each.how for each in found] == [None, "trial:0", "accuracy"]
    for each in found[1:]:
        assert each.how is not None
        assert pick(rows, each.how).trial == each.row.trial


def test_what_is_beyond_the_limits_is_not_the_most_accurate_to_take() -> None:
    rows = [dataclasses.replace(make_row(0, 0.95, 2.0, "bare"), beyond="2 ms, where 1 ms are allowed")]
    rows += [make_row(1, 0.80, 0.9), make_row(2, 0.90, 0.95)]
    best = next(each for each in picks(rows) if "most accurate" in each.names)
    assert (best.row.trial, best.how) == (2, None if recommend(rows).row.trial == 2 else "trial:2")


def test_two_on_the_front_have_no_knee_and_one_is_everything() -> None:
    bare = make_row(0, 0.80, 2.0, "bare")
    (only,) = picks([bare])
    assert only.names == ("recommended", "most accurate", "cheapest within noise of the most accurate", "bare backbone")
    assert not any("knee" in name for each in picks([bare, make_row(1, 0.9, 2.5)]) for name in each.names)
    with pytest.raises(ValueError, match="at least one trial"):
        picks([])

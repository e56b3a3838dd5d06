"""Work that is repeated only as often as it takes a small share of the time."""

from __future__ import annotations

import itertools

import pytest

from nas import files
from nas.files import Sparing


def test_sparing_work_takes_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    done: list[float] = []

    def work() -> None:
        nonlocal now
        done.append(now)
        now += 0.1

    monkeypatch.setattr(files.time, "monotonic", lambda: now)
    sparing = Sparing(work, share=0.1)
    for _ in range(40):
        sparing()
        now += 0.25
    # One takes 0.1 s, so that 1 s must pass before the next one.
    assert done[:2] == [0.0, pytest.approx(0.35)]  # the first time does not count
    del done[0]
    assert all(later - earlier == pytest.approx(1.1, abs=0.26) for earlier, later in itertools.pairwise(done))
    assert 0.1 * len(done) / now == pytest.approx(0.09, abs=0.03)


def test_sparing_work_is_done_at_once_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.time, "monotonic", iter(float(n) for n in range(10)).__next__)
    done: list[int] = []
    sparing = Sparing(lambda: done.append(1))
    for _ in range(3):
        sparing()
    assert len(done) == 2
    sparing(now=True)
    assert len(done) == 3

"""Signs of life: who is dead is found out, and who lives is left alone, whatever the clocks say."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import toy

from nas.store import Sign, Store
from nas.study import worker
from nas.study.worker import BEAT_SECONDS, GRACE_SECONDS, SURE_LOOKS, Watch, Worker, bury

AWAY = "elsewhere:1:abcd"
"""A worker of another machine."""


class Signs(Store):
    """The workers' table, with a clock that a test sets."""

    def __init__(self) -> None:
        self.table: dict[str, Sign] = {AWAY: Sign(beats=5, silent_seconds=0)}
        self.is_away = False

    def signs(self) -> dict[str, Sign]:
        if self.is_away:
            raise sa.exc.OperationalError("SELECT", {}, ConnectionError("gone"))
        return dict(self.table)

    def pass_time(self, seconds: float = BEAT_SECONDS, *, beating: bool = False) -> None:
        sign = self.table[AWAY]
        fresh = Sign(beats=sign.beats + 1, silent_seconds=0)
        self.table[AWAY] = fresh if beating else replace(sign, silent_seconds=sign.silent_seconds + seconds)


def looks(signs: Signs, watch: Watch, count: int, *, beating: bool = False) -> None:
    for _ in range(count):
        signs.pass_time(beating=beating)
        watch.look()


def test_silence_for_the_grace_is_death() -> None:
    signs = Signs()
    watch = Watch(signs)
    looks(signs, watch, int(GRACE_SECONDS / BEAT_SECONDS))
    assert not watch.is_dead(AWAY)
    looks(signs, watch, 1)
    assert watch.is_dead(AWAY)


def test_who_comes_later_needs_a_few_looks() -> None:
    signs = Signs()
    signs.pass_time(3600)
    watch = Watch(signs)
    watch.look()
    for _ in range(SURE_LOOKS):
        assert not watch.is_dead(AWAY)
        watch.look()
    assert watch.is_dead(AWAY)


def test_a_clock_that_is_set_forward_kills_nobody() -> None:
    signs = Signs()
    watch = Watch(signs)
    watch.look()
    signs.pass_time(86_400)  # between two beats
    watch.look()
    assert not watch.is_dead(AWAY)
    for _ in range(20):
        looks(signs, watch, 1, beating=True)
        assert not watch.is_dead(AWAY)


@pytest.mark.parametrize("shift", [-86_400.0, -60.0])
def test_a_clock_that_is_set_back_hides_no_death(shift: float) -> None:
    signs = Signs()
    watch = Watch(signs)
    watch.look()
    signs.pass_time(shift)
    looks(signs, watch, 13)
    assert watch.is_dead(AWAY)


def test_a_database_that_was_away_is_no_death() -> None:
    signs = Signs()
    watch = Watch(signs)
    looks(signs, watch, 5, beating=True)
    signs.is_away = True  # nobody can beat, and nobody can look
    looks(signs, watch, 60)
    assert not watch.is_dead(AWAY)
    signs.is_away = False
    looks(signs, watch, 2)
    assert not watch.is_dead(AWAY)
    looks(signs, watch, 3, beating=True)
    assert not watch.is_dead(AWAY)


def test_a_worker_that_was_forgotten_is_dead() -> None:
    signs = Signs()
    watch = Watch(signs)
    watch.look()
    assert not watch.is_dead(AWAY)
    del signs.table[AWAY]
    watch.look()
    assert watch.is_dead(AWAY)
    assert watch.is_dead("elsewhere:2:ffff")
    assert watch.is_dead(None)
    signs.is_away = True
    assert not Watch(signs).is_dead(AWAY)


def test_the_first_beat_comes_before_anything_else(tmp_path: Path) -> None:
    study = toy.create(tmp_path)
    with Worker(study.store) as one:
        assert study.store.signs()[one.id].beats == 1
        assert not Watch(study.store).is_dead(one.id)
    assert Watch(study.store).is_dead(one.id)
    study.close()


def test_a_machine_sees_its_own_dead_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = toy.create(tmp_path)
    monkeypatch.setattr(worker, "default_folder", lambda: tmp_path)
    name = f"{worker._host()}:{os.getpid()}:0000"
    study.store.beat(name)
    path = Path(worker._lock_path(name))
    assert not Watch(study.store).is_dead(name)  # no lock to tell by: a container of the same name, for one
    path.touch()
    assert Watch(study.store).is_dead(name)
    bury(name, study.store)
    assert not path.exists()
    assert study.store.signs() == {}
    study.close()

"""The simulation of many workers at its known limits, and the measured run of eight with a dashboard that is asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
from crowd.events import Alone, Clock, Device, Doing, Resource, Take, Train, go
from crowd.simulation import Crowd, Outcome, Parts, saturating_workers, simulate
from crowd.tables import check, first, repeat_of
from optuna.trial import TrialState

LOCK = Parts(claim=0.02, tell=0.01)


def crowd(**given: Any) -> Crowd:
    return Crowd(**{"workers": 8, "trial_seconds": 1.0, "trials": 400, **given})


class TestEvents:
    def test_things_happen_in_order(self) -> None:
        clock, seen = Clock(), []
        clock.after(2, lambda: seen.append((clock.now, "late")))
        clock.after(1, lambda: seen.append((clock.now, "one")))
        clock.after(1, lambda: seen.append((clock.now, "other")))
        clock.run(lambda: False)
        assert seen == [(1, "one"), (1, "other"), (2, "late")]

    def test_a_resource_is_had_in_turn(self) -> None:
        clock, seen = Clock(), []
        lock = Resource(clock)

        def use(name: str) -> Doing:
            yield Take(lock)
            yield 2.0
            seen.append((clock.now, name))
            lock.give()

        for name in "abc":
            go(clock, use(name))
        clock.run(lambda: False)
        assert seen == [(2, "a"), (4, "b"), (6, "c")]
        assert lock.busy() == 6

    def test_two_servers_work_at_once(self) -> None:
        clock, ends = Clock(), []
        pair = Resource(clock, 2)

        def use() -> Doing:
            yield Take(pair)
            yield 2.0
            ends.append(clock.now)
            pair.give()

        for _ in range(4):
            go(clock, use())
        clock.run(lambda: False)
        assert ends == [2, 2, 4, 4]
        assert pair.busy() == 8

    def test_training_waits_while_another_is_timed(self) -> None:
        clock, seen = Clock(), []
        device = Device(clock)

        def train() -> Doing:
            yield Train(device, 10.0)
            seen.append(("trained", clock.now))

        def time(after: float) -> Doing:
            yield after
            yield Alone(device, 3.0)
            seen.append(("timed", clock.now))

        go(clock, train())
        go(clock, time(4.0))
        go(clock, time(5.0))
        clock.run(lambda: False)
        assert seen == [("timed", 7), ("timed", 10), ("trained", 16)]
        assert (device.timing, device.progress()) == (6, 10)


class TestLimits:
    def test_without_anything_to_wait_for_all_train(self) -> None:
        found = simulate(Parts(claim=0.0, tell=0.0), crowd(workers=50, trial_seconds=4.0, trials=1000))
        assert found.per_second == pytest.approx(50 / 4.0, rel=0.02)
        assert found.efficiency == pytest.approx(1.0, rel=0.02)

    def test_one_worker_waits_for_nobody(self) -> None:
        found = simulate(LOCK, crowd(workers=1, trial_seconds=1.0, trials=300, spread=0.0))
        assert found.per_second == pytest.approx(1 / 1.03, rel=0.01)
        assert found.shares["lock"] == pytest.approx(0.03 / 1.03, rel=0.02)

    @pytest.mark.parametrize("workers", [2, 64])
    def test_trials_without_length_take_what_the_lock_takes(self, workers: int) -> None:
        found = simulate(LOCK, crowd(workers=workers, trial_seconds=0.0, trials=50 * workers))
        assert found.per_second == pytest.approx(1 / 0.03, rel=0.05)
        assert found.shares["lock"] == pytest.approx(1.0, abs=0.001)
        assert found.busiest == "lock"

    @pytest.mark.parametrize("workers", [10, 34, 80])
    def test_memoryless_workers_are_the_machines_of_the_repairman(self, workers: int) -> None:
        """W machines that fail after a mean time T and wait for one repairman who takes s: the M/M/1//W queue."""
        service, length = 0.03, 1.0
        parts = Parts(claim=service, tell=0.0)
        given = crowd(workers=workers, trial_seconds=length, trials=8000, memoryless=True, seed=1)
        weights = [1.0]
        for number in range(workers):  # birth and death: (W - n) / T to one more that waits, 1 / s to one less
            weights.append(weights[-1] * (workers - number) / length * service)
        expected = (1 - weights[0] / sum(weights)) / service
        assert simulate(parts, given).per_second == pytest.approx(expected, rel=0.05)

    @pytest.mark.parametrize("shared", [1, 2, 4, 8])
    def test_timing_alone_takes_from_all_who_share_a_device(self, shared: int) -> None:
        given = crowd(workers=8, per_device=shared, timing_seconds=5.0, trial_seconds=60.0)
        found = simulate(Parts(claim=0.0, tell=0.0), given)
        assert found.efficiency == pytest.approx(60 / (60 + 5 * shared), rel=0.03)
        assert found.shares["timing"] == pytest.approx(5 * shared / (60 + 5 * shared), rel=0.05)

    def test_who_asks_again_finds_the_lock_free_too_late(self) -> None:
        busy = crowd(workers=4, trial_seconds=0.2, trials=2000)
        in_turn, asking = simulate(LOCK, busy), simulate(dataclasses.replace(LOCK, poll=0.05), busy)
        assert asking.per_second < in_turn.per_second
        assert asking.shares["lock"] < in_turn.shares["lock"]

    def test_signs_of_life_take_from_the_database(self) -> None:
        parts = Parts(claim=0.0, tell=0.0, beat=0.02)
        found = simulate(parts, crowd(workers=100, trial_seconds=60.0))
        assert found.shares["database"] == pytest.approx(100 / 10 * 0.02, rel=0.05)

    def test_connections_are_those_of_all_workers(self) -> None:
        parts = dataclasses.replace(LOCK, connections=3)
        assert [first(simulate(parts, crowd(workers=count, trial_seconds=600.0))) for count in (32, 33)] == [
            "nothing",
            "connections",
        ]


class TestSaturation:
    @pytest.mark.parametrize("length", [0.5, 3.0, 30.0])
    def test_the_formula_is_where_the_lock_is_never_free(self, length: float) -> None:
        limit = saturating_workers(LOCK, length)
        assert limit == pytest.approx(1 + length / 0.03)
        half, twice = (
            simulate(LOCK, crowd(workers=round(share * limit), trial_seconds=length, trials=round(8 * limit)))
            for share in (0.5, 2.0)
        )
        assert half.shares["lock"] < 0.6
        assert half.efficiency > 0.9
        assert twice.shares["lock"] > 0.99
        assert twice.efficiency == pytest.approx(0.5, rel=0.1)

    def test_what_grows_with_the_workers_makes_it_sooner(self) -> None:
        growing = dataclasses.replace(LOCK, claim_per_running=1e-3, tell_per_running=5e-4)
        limit = saturating_workers(growing, 60.0)
        assert (limit - 1) * (0.03 + 1.5e-3 * limit) == pytest.approx(60.0)
        assert limit < saturating_workers(LOCK, 60.0) / 5

    def test_a_lock_that_takes_no_time_is_never_the_limit(self) -> None:
        assert saturating_workers(Parts(claim=0.0, tell=0.0), 1.0) == float("inf")

    def test_proposals_are_a_power_between_two_points(self) -> None:
        parts = dataclasses.replace(LOCK, proposal=((100, 0.1), (1000, 1.0), (2000, 4.0)))
        assert [parts.proposing(count) for count in (10, 100, 1000, 2000)] == pytest.approx([0.1, 0.1, 1.0, 4.0])
        assert parts.proposing(316) == pytest.approx(0.316, rel=0.001)
        assert parts.proposing(4000) == pytest.approx(16.0)
        assert parts.locked(1000, 5) == pytest.approx(1.03)


def test_the_same_seed_gives_the_same() -> None:
    parts = dataclasses.replace(LOCK, poll=0.05, beat=0.001, change=1e-4, keep=0.002)
    given = crowd(timing_seconds=0.1, per_device=4)
    found = [simulate(parts, dataclasses.replace(given, seed=seed)) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert isinstance(found[0], Outcome)


def row(workers: int, seconds: float) -> dict[str, Any]:
    return {
        "sampler": "random",
        "trial_seconds": 1.0,
        "database": "sqlite",
        "workers": workers,
        "trials": 200,
        "seconds": seconds,
        "claims": [0.02] * 200,
        "tells": [0.01] * 200,
        "outside": 0.0,
    }


def test_rows_are_checked_against_the_run_of_one_process_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(1, 206.0), row(4, 51.5), row(1, 206.0), {**row(4, 103.0), "claims": [0.5] * 200}]
    assert [repeat_of(rows, number) for number in range(4)] == [0, 0, 1, 1]
    assert check(rows) == pytest.approx((2.0, 1.01), rel=0.05)
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if "| sqlite |" in line]
    assert [float(cells[7]) for cells in lines] == pytest.approx([1.0, 2.0], rel=0.05)
    assert [float(cells[9]) for cells in lines] == pytest.approx([1.0, 1.01], rel=0.05)


@pytest.mark.slow
def test_eight_processes_and_a_dashboard_that_is_asked_share_one_sqlite_study(tmp_path: Path) -> None:
    from crowd.throughput import measure

    url = f"sqlite:///{tmp_path / 'studies.db'}"
    found = measure(url, tmp_path, workers=8, trials=400, sampler="random", polled=True)
    assert found.errors == ()
    assert found.asked > 4
    trials = optuna.load_study(study_name="toy", storage=url).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 400
    assert [trial.number for trial in trials] == list(range(400))
    assert len({trial.user_attrs["architecture"] for trial in trials}) == 400
    assert len(found.tells) == 400
    assert found.fewest >= 10  # served in turn: nobody is left out

"""Workers on a Ray cluster: what each takes, what is refused, and whole searches on a small cluster of this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import toy
from server import Server

from nas.cli import main
from nas.latency import threads_in
from nas.ray_crew import _Crew, check_storage, needs_of, room
from nas.settings import Settings
from nas.study import Outcome, RunFailed, Study
from nas.study.worker import Worker

ROOT = Path(__file__).parents[1]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install ray")
DRIVER = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from nas.cli import main
first, second = map(int, sys.argv[1].split("+"))
small = {"object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": first, **small})
node = cluster.add_node(num_cpus=second, **small) if second else None
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

def remove_when_told():
    while not Path("remove").exists():
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)

threading.Thread(target=remove_when_told, daemon=True).start()
status = main(sys.argv[2:])
ray.shutdown()
cluster.shutdown()
sys.exit(status)
"""
"""Searches with workers on a cluster of one machine or two, both of them this one; the second can be removed."""
SPACE = """
from nas.space import SearchSpace
SPACE = SearchSpace(backbones=("test_resnet",), stages=(2, 4), blocks=("se", "eca", "simam"))
"""
QUICK = "--space small.py --limit 300 --resolution 16 --epochs 1 --batch-size 32 --latency-seconds 0.3 --repeats 0"


def test_a_worker_takes_what_the_study_needs() -> None:
    gpu = "cuda: NVIDIA H200"
    assert needs_of("cpu: A Processor, 4 threads", "cpu: A Processor, 4 threads", 1) == {"num_cpus": 4}
    assert needs_of("cpu: A Processor, 1 thread", "cpu: A Processor, 2 threads", 2) == {"num_cpus": 1}
    assert needs_of(gpu, gpu, 1) == {"num_gpus": 1, "num_cpus": 1}
    assert needs_of(gpu, gpu, 3) == {"num_gpus": 1 / 3, "num_cpus": 1}
    assert needs_of("cpu: A Processor, 4 threads", gpu, 1) == {"num_gpus": 1, "num_cpus": 1}
    assert threads_in("cpu: A Processor with 8 cores, 16 threads (OMP passive)") == 16


def test_there_are_as_many_workers_as_there_is_room_for() -> None:
    cluster = {"CPU": 16.0, "GPU": 8.0, "memory": 1e9}
    assert room(cluster, {"num_gpus": 1, "num_cpus": 1}) == 8
    assert room(cluster, {"num_gpus": 1 / 3, "num_cpus": 1}) == 16  # a worker drives its GPU from a core
    assert room({**cluster, "CPU": 64.0}, {"num_gpus": 1 / 3, "num_cpus": 1}) == 24
    assert room(cluster, {"num_cpus": 5}) == 3
    with pytest.raises(RunFailed, match="a worker takes 1 GPU, 1 CPU, but the Ray cluster has 0 GPU, 16 CPU"):
        room({"CPU": 16.0}, {"num_gpus": 1, "num_cpus": 1})


def test_a_cluster_has_its_own_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ray", "auto", "--devices", "0,1"]) == 2
    assert "a Ray cluster gives each worker its device, but got --ray auto and --devices 0,1" in capsys.readouterr().err


def test_sqlite_is_for_one_machine() -> None:
    check_storage("sqlite:///studies.db", 1)
    check_storage("postgresql+psycopg://me:secret@host/db", 9)
    with pytest.raises(ValueError, match=r"SQLite serves .* one machine, but the Ray cluster has 2; give a database"):
        check_storage("sqlite:///studies.db", 2)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    assert main(["--ray", "auto"]) == 2
    assert "--ray needs Ray, which is not installed: pip install 'attention-placement-nas[ray]'" in (
        capsys.readouterr().err
    )


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a traceback of the cluster")
        self.cause = cause


class TaskCancelledError(RayError):
    pass


def stand_in(monkeypatch: pytest.MonkeyPatch, ends: list[object]) -> list[object]:
    """Put a Ray without processes in place of Ray, whose tasks end one after the other; return what was cancelled."""
    cancelled: list[object] = []
    left = iter(ends)

    def get(reference: object) -> object:
        end = next(left)
        if isinstance(end, Exception):
            raise end
        return end

    def remote(**_options: object) -> Callable[[object], mock.Mock]:
        task = mock.Mock()
        task.options.return_value.remote.side_effect = lambda *_: object()
        return lambda _: task

    ray = mock.Mock(
        remote=remote,
        get=get,
        wait=lambda references, **_: (references[:1], references[1:]),
        cancel=lambda reference, **_: cancelled.append(reference),
    )
    errors = mock.Mock(RayError=RayError, RayTaskError=RayTaskError, TaskCancelledError=TaskCancelledError)
    for name, module in {"ray": ray, "ray.exceptions": errors, "ray.util.scheduling_strategies": mock.Mock()}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return cancelled


def watch(study: Study, workers: int, said: list[str]) -> Outcome:
    settings = Settings(workers=workers, ray="auto")
    with Worker(study.store) as watcher:
        return _Crew(settings, study, watcher, said.append).watch(lambda _: None, lambda: False)


def test_a_worker_that_the_study_refuses_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    refusal = RayTaskError(ValueError("here differs protocol.device"))
    stand_in(monkeypatch, [refusal, Outcome(finished=5), refusal])
    assert watch(toy.create(tmp_path), 3, said).finished == 5
    assert said[:2] == [
        "starting 3 workers on the Ray cluster",
        "worker 1 cannot work: ValueError: here differs protocol.device",
    ]


def test_a_study_that_refuses_all_workers_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, [RayTaskError(ValueError(f"differs {number}")) for number in range(2)])
    with pytest.raises(RunFailed, match="no worker .* could work to the end; the last one: ValueError: differs 1"):
        watch(toy.create(tmp_path), 2, [])


def test_workers_that_die_one_after_the_other_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    cancelled = stand_in(monkeypatch, [RayError("No memory. Buy some.")] * 100)
    with pytest.raises(RunFailed, match="8 workers died, and no trial ended in between; the last one: .*: No memory$"):
        watch(toy.create(tmp_path), 2, said)
    again = "died; it is started again, and what it had in work is queued again: RayError: No memory"
    assert [line.split(" ", 2)[2] for line in said[1:]] == [again] * 7
    assert len(cancelled) > 0


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(SPACE)
    return tmp_path


@contextlib.contextmanager
def search_on_ray(folder: Path, cpus: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Search with workers on a cluster that is started for it, with so many CPUs on its machines."""
    environment = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, cpus, *QUICK.split(), "--device", "cpu", "--study", "small", *words],
        env={**os.environ, **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def asked(folder: Path, question: str) -> list[tuple[str, ...]]:
    """Ask the database; nothing while there is none."""
    path = folder / "studies" / "studies.db"
    if not path.exists():
        return []
    database = sqlite3.connect(path, timeout=60)
    try:
        return database.execute(question).fetchall()
    except sqlite3.OperationalError:  # its tables are being made
        return []
    finally:
        database.close()


def states(folder: Path) -> dict[str, int]:
    return {state: int(count) for state, count in asked(folder, "SELECT state, COUNT(*) FROM trials GROUP BY state")}


WORKERS = """
SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) WHERE key = 'worker' AND state = 'RUNNING'
"""


def until(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@needs_ray
@pytest.mark.slow
def test_a_search_reaches_its_budget_though_a_worker_is_killed(here: Path) -> None:
    with search_on_ray(here, "2+0", "--ray", "auto", "--budget", "6") as process:
        until(process, lambda: states(here).get("COMPLETE", 0) >= 1 and bool(asked(here, WORKERS)))
        ((worker,), *_) = asked(here, WORKERS)
        pid = int(worker.split(":")[1])
        assert pid != process.pid
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "died; it is started again, and what it had in work is queued again: WorkerCrashedError: " in err
    found = states(here)
    assert found.pop("FAIL", 0) <= 1
    assert found == {"COMPLETE": 6}
    ids = "SELECT DISTINCT value_json FROM trial_user_attributes JOIN trials USING (trial_id) WHERE key = '{}' AND {}"
    assert len(asked(here, ids.format("architecture", "state = 'COMPLETE'"))) == 6
    assert 2 <= len(asked(here, ids.format("worker", "TRUE"))) <= 3
    assert "front: " in out
    assert len((here / "studies" / "small" / "front.csv").read_text().splitlines()) == 7


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_workers_and_loses_nothing(times: int, here: Path) -> None:
    with search_on_ray(here, "3+0", "--ray", "auto", "--workers", "2", "--budget", "30") as process:
        until(process, lambda: len(asked(here, WORKERS)) == 2)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    found = states(here)
    assert "RUNNING" not in found
    assert found.get("FAIL", 0) == found.get("WAITING", 0) <= (0 if times == 1 else 2)
    if times == 1:
        assert f"stopped after {found['COMPLETE']} of 30 trainings; the same command goes on" in out


@needs_ray
@pytest.mark.slow
def test_a_cluster_without_room_is_told(here: Path) -> None:
    with search_on_ray(here, "0+0", "--ray", "auto", "--budget", "2") as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "the run failed: a worker takes 1 CPU, but the Ray cluster has 0 GPU, 0 CPU" in err


@needs_ray
@pytest.mark.slow
def test_a_machine_that_is_lost_costs_no_trial(here: Path, postgres: Server) -> None:
    words = ["--ray", "auto", "--budget", "7", "--storage", postgres.url]
    with search_on_ray(here, "1+1", *words) as process:
        until(process, lambda: "nas_meta" in tables(postgres) and finished(postgres) >= 2)
        (here / "remove").touch()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "died; it is started again, and what it had in work is queued again: " in err
    study = Study.open("small", postgres.url)
    trials = study._study.get_trials()
    ended = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(ended) == len({trial.user_attrs["architecture"] for trial in ended}) == 7
    assert all(trial.user_attrs["reason"].startswith("interrupted") for trial in trials if trial not in ended)
    study.close()


def tables(server: Server) -> set[str]:
    return {row[0] for row in server.ask("SELECT tablename FROM pg_tables")}


def finished(server: Server) -> int:
    return int(server.ask("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'")[0][0])


@needs_ray
@pytest.mark.slow
def test_two_machines_with_sqlite_are_refused_before_anything_is_made(here: Path) -> None:
    with search_on_ray(here, "1+1", "--ray", "auto") as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "SQLite serves the processes of one machine, but the Ray cluster has 2" in err
    assert not (here / "studies").exists()

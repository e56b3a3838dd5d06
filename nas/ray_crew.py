"""Workers on a Ray cluster: each is a task of the cluster that does what the verb ``worker`` does, on its own device.

A task and not an actor: it ends by itself, a cancelled one gets what Ctrl-C gives, so that its trial is queued again,
and one whose process or machine dies is an error here, upon which another one is started. The only module that imports
Ray.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nas.database import sqlite_path
from nas.evaluation import first_line
from nas.ready import Say, Stop
from nas.settings import Settings
from nas.study import Outcome, RunFailed, Study
from nas.study.worker import Worker
from nas.workers import MOST_DEATHS

POLL_SECONDS = 1.0
"""Pause between two looks at the workers, and at what they have finished."""
PATIENCE_SECONDS = 30.0
"""How long workers that were told to end may take before they are killed."""
_PASSED_ON = ("OMP_WAIT_POLICY",)
"""What of this process's environment is part of how a study's device is named."""


class Cluster:
    """A connection to a Ray cluster; one that this process has already is used, and stays."""

    def __init__(self, settings: Settings) -> None:
        """Connect.

        Args:
            settings: Those of the search; ``ray`` is the address.

        Raises:
            ValueError: If Ray is not installed, there is no cluster, or its machines cannot share the database.
        """
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--ray needs Ray, which is not installed: pip install 'attention-placement-nas[ray]'")
        import ray

        self._settings = settings
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts a handler of its own in its place
            try:
                ray.init(address=settings.ray, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ValueError(f"no Ray cluster at {settings.ray}: {first_line(error)}") from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
        try:
            check_storage(settings.storage_url, sum(node["Alive"] for node in ray.nodes()))
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect, unless the process was connected before."""
        import ray

        if self._is_ours:
            ray.shutdown()

    def work(self, study: Study, on_trial: Callable[[Study], None], say: Say, stop: Stop) -> Outcome:
        """Have workers evaluate a study's trials until all of them have ended; then disconnect.

        Args:
            study: The study, which was made by a search on a device of the kind that the workers have.
            on_trial: Called when trials have begun or ended since the last call.
            say: Called with a line for people if a worker could not work, or died.
            stop: Looked at all the time; once it is true the workers are asked to begin no further trial, and to end.

        Raises:
            nas.study.RunFailed: If the cluster has no room for a worker, no worker could work to the end, or workers
                died one after the other.
        """
        try:
            with Worker(study.store) as watcher:
                return _Crew(self._settings, study, watcher, say).watch(on_trial, stop)
        finally:
            self.close()


class _Crew:
    """The workers of one search, and what came of them so far."""

    def __init__(self, settings: Settings, study: Study, watcher: Worker, say: Say) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._study, self._watcher, self._say = study, watcher, say
        needs = needs_of(study.protocol.device, study.protocol.latency_device, settings.workers_per_device or 1)
        # Those for whom there is no room wait for it: some clusters grow when they are asked to.
        self._count = settings.workers or room(ray.cluster_resources(), needs)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        path = sqlite_path(study.url)
        url = study.url if path is None else f"sqlite:///{path.resolve()}"
        # On this machine: with any other one that is lost all workers would be told to stop.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._wish = ray.remote(num_cpus=0, scheduling_strategy=here)(_Wish).remote()
        self._arguments = (study.name, url, str(Path(settings.studies).resolve()), environment, self._wish)
        # A process for each, so that nothing is left of one on the device.
        self._task = ray.remote(max_calls=1, max_retries=0, **needs)(_work)
        self._running: dict[Any, int] = {}
        self._outcomes: list[Outcome] = []
        self._deaths = 0  # since a trial ended
        self._trouble = ""
        self._stops = False

    def watch(self, on_trial: Callable[[Study], None], stop: Stop) -> Outcome:
        """Start the workers, and return how the trials ended."""
        import ray

        self._say(f"starting {self._count} worker{'s' if self._count > 1 else ''} on the Ray cluster")
        for number in range(1, self._count + 1):
            self._start(number)
        pulse, spent = self._study.pulse(), self._study.tally().spent
        try:
            while self._running:
                ended, _ = ray.wait(list(self._running), timeout=POLL_SECONDS)
                for reference in ended:
                    self._look_at(reference, self._running.pop(reference))
                if pulse != (pulse := self._study.pulse()):
                    if spent != (spent := self._study.tally().spent):
                        self._deaths = 0
                    on_trial(self._study)
                if stop() and not self._stops:
                    self._stops = True
                    self._wish.stop.remote()
                if self._is_ending and self._is_idle():
                    self._cancel()
        except BaseException:
            self._cancel()
            raise
        # Of those that were to stop, the last ones may have reached the budget with what they had in hand.
        ends = [each for each in self._outcomes if not each.interrupted]
        if not ends and not self._stops:
            raise RunFailed(f"no worker of the Ray cluster could work to the end; the last one: {self._trouble}")
        return ends[-1] if ends else Outcome(finished=self._study.finished(), interrupted=True)

    @property
    def _is_ending(self) -> bool:
        """Whether nothing is to begin any more: a worker has found that nothing is left, or all were asked to stop."""
        return self._stops or bool(self._outcomes)

    def _start(self, number: int) -> None:
        self._running[self._task.options(name=f"worker {number}").remote(*self._arguments)] = number

    def _look_at(self, reference: Any, number: int) -> None:
        """See how a worker ended, and start another one if it died.

        Raises:
            RunFailed: If one too many has died.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        try:
            self._outcomes.append(ray.get(reference))
        except TaskCancelledError:
            pass
        except RayTaskError as error:  # its machine or its data are not those of the study: the others go on
            cause = getattr(error, "cause", error)
            self._trouble = f"{type(cause).__name__}: {first_line(cause)}"
            self._say(f"worker {number} cannot work: {self._trouble}")
        except RayError as error:  # its process or its machine is gone
            self._trouble = f"{type(error).__name__}: {first_line(error).split('. ')[0]}"  # and then comes advice
            self._deaths += 1
            if self._is_ending:
                self._say(f"worker {number} died; what it had in work is queued again: {self._trouble}")
                return
            if self._deaths > MOST_DEATHS + self._count:
                raise RunFailed(
                    f"{self._deaths} workers died, and no trial ended in between; the last one: {self._trouble}"
                ) from error
            self._say(
                f"worker {number} died; it is started again, and what it had in work is queued again: {self._trouble}"
            )
            self._start(number)

    def _is_idle(self) -> bool:
        """Tell whether no worker has anything in work."""
        with self._study.lock():
            self._study.repair(self._watcher)
        return not self._study.tally().running

    def _cancel(self) -> None:
        """End all workers: those that wait for a place in the cluster, and those that evaluate.

        Their trials are queued again.
        """
        import ray

        with suppress(Exception):  # what went wrong is told, not what went wrong because of it
            for by_force in (False, True):
                if not self._running:
                    break
                for reference in self._running:
                    ray.cancel(reference, force=by_force)
                _, left = ray.wait(list(self._running), num_returns=len(self._running), timeout=PATIENCE_SECONDS)
                self._running = {reference: self._running[reference] for reference in left}
            with self._study.lock():
                self._study.repair(self._watcher)  # of one that was just about to begin a trial, or to tell of its end
        self._running.clear()


class _Wish:
    """What all workers look at before each trial; Ray makes an actor of it."""

    def __init__(self) -> None:
        self._stops = False

    def stop(self) -> None:
        """Ask the workers to stop."""
        self._stops = True

    def stops(self) -> bool:
        """Tell whether they are to stop."""
        return self._stops


def check_storage(url: str, machines: int) -> None:
    """Raise unless so many machines can share a database.

    Raises:
        ValueError: If they cannot.
    """
    if machines > 1 and sqlite_path(url) is not None:
        raise ValueError(
            f"SQLite serves the processes of one machine, but the Ray cluster has {machines}; give a database that all "
            "of them reach, --storage postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
        )


def needs_of(device: str, latency_device: str, workers_per_device: int) -> dict[str, float]:
    """Return what a worker takes of a cluster, as Ray names it.

    Args:
        device: The device that trains, in words.
        latency_device: The one that is timed.
        workers_per_device: How many workers share one.
    """
    from nas.latency import threads_in  # torch

    if any(words.startswith("cuda") for words in (device, latency_device)):
        return {"num_gpus": 1 / workers_per_device, "num_cpus": 1}
    return {"num_cpus": threads_in(device)}  # Ray gives a task so many threads


def room(resources: dict[str, float], needs: dict[str, float]) -> int:
    """Return how many workers a cluster has room for.

    Raises:
        nas.study.RunFailed: If there is none for any.
    """
    named = {"num_gpus": "GPU", "num_cpus": "CPU"}
    count = min(int(resources.get(named[need], 0) / share + 1e-9) for need, share in needs.items())
    if count < 1:
        wanted = ", ".join(f"{share:g} {named[need]}" for need, share in needs.items())
        there = ", ".join(f"{resources.get(name, 0):g} {name}" for name in named.values())
        raise RunFailed(f"a worker takes {wanted}, but the Ray cluster has {there}")
    return count


def _work(name: str, url: str, studies: str, environment: dict[str, str], wish: Any) -> Outcome:
    """Work on a study: what a task does."""
    os.environ.update(environment)  # before torch is there
    import ray
    from ray.exceptions import RayError

    from nas.reopen import Place
    from nas.work import work

    def stop() -> bool:
        try:
            return bool(ray.get(wish.stops.remote()))
        except RayError:  # the search is gone
            return True

    study = Study.open(name, url)
    try:
        return work(study, Place(), Path(studies) / name, stop=stop)
    finally:
        study.close()

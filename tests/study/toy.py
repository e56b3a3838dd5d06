"""A search whose evaluations cost nothing: for tests of the study, which needs no torch.

Run as a script it searches, so that tests can kill it: ``python toy.py FOLDER BUDGET SECONDS_PER_TRIAL [WORKERS]
[URL]``, with so many worker processes. FOLDER/workers.log then has a line for each of them: its number and process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas.architecture import Architecture, Stage
from nas.evaluation import Evaluation, Latency
from nas.protocol import Protocol
from nas.space import ResolvedSpace, SearchSpace
from nas.study import Outcome, Study, run
from nas.verbs.common import Stopping
from nas.workers import Line, supervise

STAGES = tuple(
    Stage(
        index=index,
        name=f"layer{index}",
        channels=width,
        reduction=2**index,
        branches=(width,) if index else (),
        slots=(width, 2 * width) if index > 1 else (),
    )
    for index, width in enumerate((32, 64, 128, 256))
)
PROTOCOL = Protocol(
    data="toy",
    data_hash="0" * 16,
    split_seed=0,
    num_classes=2,
    channels=1,
    resolution=8,
    epochs=1,
    batch_size=8,
)


def space(
    blocks: tuple[str, ...] = ("se", "eca", "cbam", "simam"),
    stages: tuple[int, ...] | None = None,
    positions: tuple[str, ...] = ("after_stage",),
) -> ResolvedSpace:
    return SearchSpace(backbones=("toy",), blocks=blocks, stages=stages, positions=positions).resolve({"toy": STAGES})


def evaluate(architecture: Architecture) -> Evaluation:
    """Accuracy and latency rise with the number of blocks, by amounts that depend on the architecture alone."""
    luck = int(hashlib.sha256(architecture.id.encode()).hexdigest()[:8], 16) / 16**8
    blocks = len(architecture.placements)
    accuracy = 0.8 + 0.03 * blocks * luck
    ratio = 1 + 0.05 * blocks + 0.01 * luck
    latency = Latency(
        median_ms=ratio,
        low_ms=ratio - 0.01,
        high_ms=ratio + 0.01,
        bare_ms=1.0,
        ratio=ratio,
        ratio_low=ratio - 0.01,
        ratio_high=ratio + 0.01,
        n=30,
        batch_size=1,
        device="toy",
    )
    return Evaluation(
        accuracy=accuracy,
        accuracy_low=accuracy - 0.02,
        accuracy_high=accuracy + 0.02,
        curve=(accuracy,),
        latency=latency,
        reference_ms=1.0,
        parameters=1000 + blocks,
        macs=10_000 + blocks,
        nominal_ms=1 + 0.05 * blocks,
        train_seconds=0.0,
        versions={},
    )


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def create(folder: Path, name: str = "toy", resolved: ResolvedSpace | None = None, where: str | None = None) -> Study:
    return Study.create(name, where or url(folder), space=resolved or space(), protocol=PROTOCOL)


@dataclass(frozen=True)
class Duty:
    """What the script does, by its arguments; a worker's number counts from 1."""

    folder: Path
    budget: int
    seconds: float
    url: str
    worker: int = 0


def search(
    duty: Duty, on_trial: Callable[[Study], None] = lambda _: None, stop: Callable[[], bool] = lambda: False
) -> Outcome:
    study = Study.create("toy", duty.url, space=space(), protocol=PROTOCOL)

    def slow(architecture: Architecture) -> Evaluation:
        cached = study.store.get(architecture, PROTOCOL.hash)
        if cached is not None:
            return cached
        note(duty.folder / "begun.log", architecture.id)
        while (duty.folder / "hold").exists():  # a test that looks on says when to go on
            time.sleep(0.01)
        time.sleep(duty.seconds)
        evaluation = evaluate(architecture)
        study.store.put(architecture, PROTOCOL.hash, evaluation)
        note(duty.folder / "ended.log", architecture.id)
        return evaluation

    try:
        return run(study, slow, space=space(), budget=duty.budget, sampler="tpe", seed=0, on_trial=on_trial, stop=stop)
    finally:
        study.close()


def work(duty: Duty, line: Line) -> Outcome:
    note(duty.folder / "workers.log", f"{duty.worker} {os.getpid()}")
    line.ready()
    return search(duty, lambda _: line.tell(None), line.stop)


def supervised(duty: Duty, count: int, stop: Callable[[], bool]) -> list[Outcome]:
    study = create(duty.folder, where=duty.url)
    duties = [dataclasses.replace(duty, worker=number) for number in range(1, count + 1)]
    try:
        return supervise(work, duties, say=lambda words: print(words, file=sys.stderr, flush=True), stop=stop)
    finally:
        with study.lock():
            study.repair()
        study.close()


def note(path: Path, words: str) -> None:
    with path.open("a") as log:
        log.write(f"{words}\n")


def main() -> int:
    folder, budget, seconds, *more = sys.argv[1:]
    workers = int(more[0]) if more else 1
    where = more[1] if len(more) > 1 else url(Path(folder))
    duty = Duty(Path(folder), int(budget), float(seconds), where)
    with Stopping() as stop:
        stop.begin()
        try:
            outcomes = [search(duty, stop=stop)] if workers == 1 else supervised(duty, workers, stop)
        except KeyboardInterrupt:
            return 130
    return 0 if any(not outcome.interrupted for outcome in outcomes) else 130


if __name__ == "__main__":
    sys.exit(main())

"""A search whose evaluations cost nothing: for tests of the study, which needs no torch.

Run as a script it searches, so that tests can kill it: ``python toy.py DATABASE BUDGET SECONDS_PER_TRIAL``.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from nas.architecture import Architecture, Stage
from nas.evaluation import Evaluation, Latency
from nas.protocol import Protocol
from nas.space import ResolvedSpace, SearchSpace
from nas.study import Study, run

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


def create(folder: Path, name: str = "toy", resolved: ResolvedSpace | None = None) -> Study:
    return Study.create(name, url(folder), space=resolved or space(), protocol=PROTOCOL)


def main() -> None:
    folder, budget, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    study = create(folder)

    def slow(architecture: Architecture) -> Evaluation:
        cached = study.store.get(architecture, PROTOCOL.hash)
        if cached is not None:
            return cached
        with (folder / "begun.log").open("a") as log:
            log.write(f"{architecture.id}\n")
        while (folder / "hold").exists():  # a test that looks on says when to go on
            time.sleep(0.01)
        time.sleep(seconds)
        evaluation = evaluate(architecture)
        study.store.put(architecture, PROTOCOL.hash, evaluation)
        return evaluation

    run(study, slow, space=space(), budget=budget, sampler="tpe", seed=0)
    study.close()


if __name__ == "__main__":
    main()

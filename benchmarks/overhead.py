"""How much of a search's time is neither training nor timing?

    python benchmarks/overhead.py                       # the default command: 50 trials
    python benchmarks/overhead.py --budget 20 --data path/to/images --backbone resnet18
    python benchmarks/overhead.py --trials 500          # evaluations that cost nothing: does a late trial cost more?

The first form runs a search and says where its time went, in seconds and as a share of the whole: start (imports, data,
checking every block), training, timing, building the models of both, proposing, writing the study's files, and the rest
(the database, above all). Overhead is all but training and timing. The second form shows what a trial costs in each
tenth of a long study, over that in the tenth that holds its 50th trial.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "study"))


class Watch:
    """Adds up the wall time that is spent in some functions; of nested ones, only that of the outermost."""

    def __init__(self) -> None:
        self.seconds: collections.Counter[str] = collections.Counter()
        self._inside = False

    def wrap(self, owner: Any, name: str, label: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return inner(*arguments, **named)
            self._inside = True
            started = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                self._inside = False
                self.seconds[label] += time.perf_counter() - started

        setattr(owner, name, watched)


def of_a_search(arguments: argparse.Namespace) -> None:
    watch = Watch()
    begun = time.perf_counter()
    from nas import run, timing, trainer
    from nas.settings import Settings
    from nas.study import loop

    watch.wrap(trainer.Trainer, "train", "training")
    watch.wrap(timing.Timer, "_time", "timing")
    watch.wrap(trainer.Trainer, "build", "building")
    watch.wrap(loop, "propose", "proposing")
    watch.wrap(run, "write_files", "files")
    start = 0.0

    def on_start(_study: object) -> None:
        nonlocal start
        start = time.perf_counter() - begun
        watch.seconds.clear()

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            budget=arguments.budget,
            data=arguments.data,
            backbone=arguments.backbone,
            device=arguments.device,
            studies=folder,
        )
        result = run.search(settings, on_start=on_start)
        whole = time.perf_counter() - begun
        protocol = result.study.protocol
        result.study.close()
    parts = {"start": start, **watch.seconds}
    parts["rest"] = whole - sum(parts.values())
    print(f"{arguments.budget} trials, {protocol.data}, {protocol.epochs} epochs, {protocol.device}: {whole:.1f} s")
    for label, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{label:<10}{seconds:8.1f} s{seconds / whole:8.1%}")
    useful = parts["training"] + parts["timing"]
    print(f"overhead: {1 - useful / whole:.1%} of the whole, {(whole - useful) / arguments.budget:.2f} s a trial")


def of_a_long_study(arguments: argparse.Namespace) -> None:
    import toy

    from nas.files import Sparing
    from nas.run import write_files
    from nas.study import run

    began: list[float] = []

    def evaluate(architecture: Any) -> Any:
        began.append(time.perf_counter())
        return toy.evaluate(architecture)

    space = toy.space(("se", "eca", "cbam", "coord", "gc", "sge", "simam", "bam"))
    with tempfile.TemporaryDirectory() as folder:
        study = toy.create(Path(folder), resolved=space)
        keep_up = Sparing(lambda: write_files(study, Path(folder) / "toy"))
        run(study, evaluate, space=space, budget=arguments.trials, on_trial=lambda _: keep_up())
        study.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    tenth = max(1, len(gaps) // 10)
    medians = [statistics.median(gaps[start : start + tenth]) for start in range(0, len(gaps) - tenth + 1, tenth)]
    reference = medians[min(len(medians) - 1, 49 // tenth)]
    for number, median in enumerate(medians):
        trials = f"trials {number * tenth:>4} to {(number + 1) * tenth:>4}"
        print(f"{trials}: {median:6.3f} s each, {median / reference:5.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=50, help="trials of the search (default: 50)")
    parser.add_argument("--trials", type=int, help="trials of a study whose evaluations cost nothing")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if arguments.trials is not None and arguments.trials < 20:
        parser.error("--trials must be at least 20, to have tenths")
    if arguments.trials is not None:
        of_a_long_study(arguments)
    else:
        of_a_search(arguments)


if __name__ == "__main__":
    main()

"""How much of a search's time is neither training nor timing?

    python benchmarks/overhead.py                       # the default command: 50 trials
    python benchmarks/overhead.py --budget 20 --data path/to/images --backbone resnet18
    python benchmarks/overhead.py --trials 500          # training and timing take no time: does a late trial cost more?

The first form runs a search and says where its time went, in seconds and as a share of the whole: start (imports, data,
checking every block), training, timing, building the models of both, proposing, writing the study's files, and the rest
(the database, above all). Overhead is all but training and timing. The second form shows what a trial costs in each
tenth of a long study, over that in the tenth that holds its 50th trial.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from nas.study import Study


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
    from nas import bar, run, timing, trainer
    from nas.settings import Settings
    from nas.study import loop

    watch.wrap(trainer.Trainer, "train", "training")
    watch.wrap(timing.Timer, "_time", "timing")
    watch.wrap(trainer.Trainer, "build", "building")
    watch.wrap(loop, "propose", "proposing")
    watch.wrap(run, "write_files", "files")
    start = 0.0
    progress = bar.Progress(arguments.budget)

    def on_start(study: Study) -> None:
        nonlocal start
        start = time.perf_counter() - begun
        watch.seconds.clear()
        progress.start(study)

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            budget=arguments.budget,
            data=arguments.data,
            backbone=arguments.backbone,
            device=arguments.device,
            studies=folder,
        )
        result = run.search(settings, on_start=on_start, on_trial=progress.update)
        progress.close()
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
    from nas import bar, placement, run
    from nas.evaluation import Latency
    from nas.proxy import Curve
    from nas.settings import Settings
    from nas.timing import Timer
    from nas.trainer import Trainer

    began: list[float] = []

    def effect(model: Any, kind: str) -> float:
        """Return a sum of effects of the blocks of a model, the same each time."""
        blocks = enumerate(placement.blocks(model))
        return sum(random.Random(f"{kind} {stage} {type(block).__name__}").random() for stage, block in blocks)

    def train(_trainer: Trainer, model: Any, **_: Any) -> Curve:
        accuracy = 0.8 + 0.02 * effect(model, "accuracy") + 0.01 * random.Random(len(began)).random()
        return Curve(accuracies=(accuracy,), losses=(1.0,), seconds=1e-9)

    def timed(_timer: Timer, model: Any, bench: Any) -> Latency:
        began.append(time.perf_counter())
        ratio = 1 + 0.1 * effect(model, "latency")
        low, high = 0.99 * ratio, 1.01 * ratio
        return Latency(
            median_ms=ratio,
            low_ms=low,
            high_ms=high,
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
            bare_ms=1.0,
            n=30,
            batch_size=1,
            device=bench.protocol.device,
        )

    replaced = mock.patch.object(Trainer, "train", train), mock.patch.object(Timer, "_time", timed)
    with tempfile.TemporaryDirectory() as folder, replaced[0], replaced[1]:
        settings = Settings(budget=arguments.trials, repeats=0, studies=folder, data=arguments.data)
        progress = bar.Progress(arguments.trials)
        run.search(settings, on_start=progress.start, on_trial=progress.update).study.close()
        progress.close()
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
    parser.add_argument("--trials", type=int, help="trials of a search that neither trains nor times")
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

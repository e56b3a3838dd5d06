"""What do several processes on one device bring, and does their company change what is measured?

    python benchmarks/workers.py --workers 1 2 4 8 --data path/to/images --backbone resnet18    # on a GPU

For each number of workers the same search runs in a folder of its own. Printed are the trials in an hour, from the
first trial to the last, over those of the first number; then, for each architecture that all of these searches have
measured, the ratio to the bare backbone with its interval in each, and how many of them agree with the first search's
within their intervals.
"""

from __future__ import annotations

import argparse
import datetime
import math
import tempfile
from pathlib import Path

import optuna

from nas import run
from nas.front import Row
from nas.settings import Settings


def search(arguments: argparse.Namespace, workers: int, folder: Path) -> tuple[float, list[Row]]:
    """Return the trials in an hour, and what the search found."""
    settings = Settings(
        budget=arguments.budget,
        data=arguments.data,
        limit=arguments.limit,
        epochs=arguments.epochs,
        backbone=arguments.backbone,
        device=arguments.device,
        sampler="random",  # the same architectures, whatever is finished first
        repeats=0,
        workers=workers,
        studies=str(folder / str(workers)),
    )
    study = run.search(settings).study
    rows = study.rows()
    study.close()
    trials = optuna.load_study(study_name=study.name, storage=study.url).trials
    begun = min(trial.datetime_start for trial in trials if trial.datetime_start is not None)
    ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete is not None)
    return len(rows) / ((ended - begun) / datetime.timedelta(hours=1)), rows


def half(row: Row) -> float:
    return (row.ratio_high - row.ratio_low) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--budget", type=int, default=24)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--backbone")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    found: dict[int, dict[str, Row]] = {}
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for workers in arguments.workers:
            rate, rows = search(arguments, workers, Path(folder))
            first = first or rate
            found[workers] = {row.architecture.id: row for row in rows}
            print(f"{workers} workers: {rate:7.0f} trials an hour, {rate / first:5.2f} times", flush=True)
    reference, *others = found.values()
    placed = [row for row in reference.values() if row.architecture.placements]  # the bare ratio is 1 by definition
    shared = [row for row in placed if all(row.architecture.id in each for each in others)]
    agreed = dict.fromkeys(arguments.workers[1:], 0)
    for row in sorted(shared, key=lambda row: row.latency_ratio):
        texts = [f"{row.latency_ratio:.3f} +- {half(row):.3f}"]
        for workers, each in list(found.items())[1:]:
            other = each[row.architecture.id]
            agreed[workers] += abs(other.latency_ratio - row.latency_ratio) <= math.hypot(half(row), half(other))
            texts.append(f"{other.latency_ratio:.3f} +- {half(other):.3f}")
        print("   ".join(texts), row.architecture.describe())
    for workers, count in agreed.items():
        print(f"{workers} workers: {count} of {len(shared)} ratios agree within their intervals")


if __name__ == "__main__":
    main()

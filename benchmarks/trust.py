"""Which short training ranks architectures as a full training does, and what does it cost?

    python benchmarks/trust.py --processes 2                                   # digits
    python benchmarks/trust.py --data path/to/images --train-images 3000 --val-images 1000 --processes 2

Random architectures of the default space are trained fully, with two seeds each, and tested on the test split. The same
architectures go through several short trainings with seeds of their own: the proxy that a search has by default, and
others that differ from it in one point. Each figure that a short training yields ranks the architectures; printed are
its rank correlation with the mean test accuracy of the full trainings, its 95 % interval (bootstrap over architectures
and seeds), the difference from the default's correlation on the same resamples, and the time of a training over that of
the default's.

What was trained is kept in a file of JSON lines, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

from nas import data, proxy, ranking, space, warm
from nas.architecture import Architecture
from nas.data import Split
from nas.seeds import full_seeds
from nas.settings import Settings, is_writing, made_for_data, make_protocol
from nas.trainer import Trainer

FULL, DEFAULT = "full", "default"
RECIPES: dict[str, dict[str, Any]] = {
    FULL: {"epochs": 5.0},
    DEFAULT: {},
    "half the epochs": {"epochs": 0.5},
    "twice the epochs": {"epochs": 2.0},
    "three quarters of the resolution": {"resolution": 0.75},
    "warm start": {"warm_start": True},
    "last epochs averaged": {"average_epochs": 2},
    "mirrored validation": {"mirror_validation": True},
    "cutout": {"augmentation": "shift+flip+cutout"},
}
"""What each training has otherwise than the default; epochs and resolution as factors."""
RESAMPLES = 2000


class Trainings:
    """Trains architectures by every recipe, on one loading of the data for each resolution."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.trainer = cache(self._trainer)
        self._splits = cache(self._load)

    def _load(self, resolution: int | None) -> data.Splits:
        splits = data.load(self._arguments.data, resolution=resolution)
        train, val = self._arguments.train_images, self._arguments.val_images
        return dataclasses.replace(
            splits,
            train=some_of(splits.train, train),
            val=some_of(splits.val, val),
            hash=f"{splits.hash} {train} {val}",
        )

    def _trainer(self, recipe: str) -> Trainer:
        changes = dict(RECIPES[recipe])
        usual = self._splits(None)
        resolution = None
        if "resolution" in changes:
            resolution = round(usual.resolution * changes.pop("resolution") / 8) * 8
        splits = self._splits(resolution)
        device = proxy.select_device(self._arguments.device)
        backbone = {"backbone": self._arguments.backbone} if self._arguments.backbone else {}
        settings = Settings(data=self._arguments.data, resolution=resolution, **backbone)
        short = self._arguments.epochs or make_protocol(settings, splits, device).epochs
        changes["epochs"] = max(1, round(short * changes.get("epochs", 1)))
        settings = dataclasses.replace(settings, **changes)
        name = settings.backbone or space.load("default").backbones[0]
        made_for = made_for_data(settings, name, splits)
        protocol = make_protocol(settings, splits, device, model_kwargs=made_for["model_kwargs"])
        trainer = Trainer(splits.search(), protocol, device)
        if settings.warm_start:
            folder, rate = Path(self._arguments.out).parent / "warm", settings.usual_rate(trained=False)
            trainer = warm.start(trainer, name, folder, epochs=2 * short, learning_rate=rate)
        return trainer

    def train(self, recipe: str, architecture: Architecture, seed: int) -> dict[str, Any]:
        trainer = self.trainer(recipe).under(seed=seed)
        if trainer.protocol.warm_epochs:  # a search that starts warm has its blocks start as the identity
            placed = [dataclasses.replace(each, init="identity") for each in architecture.placements]
            architecture = dataclasses.replace(architecture, placements=tuple(placed))
        model = trainer.build(architecture)
        curve = trainer.train(model)
        result = {"accuracies": curve.accuracies, "losses": curve.losses, "seconds": curve.seconds}
        result["val_loss"] = val_loss(model, trainer)
        if recipe == FULL:
            result["test"] = proxy.accuracy(model, self._splits(None).test, trainer.data, trainer.protocol)
        return result

    def architectures(self) -> list[Architecture]:
        """Return the bare backbone and random architectures."""
        declared = space.load("default")
        name = self._arguments.backbone or declared.backbones[0]
        declared = dataclasses.replace(declared, backbones=(name,))
        resolved = declared.resolve({name: self.trainer(DEFAULT).plan(name).stages})
        generator = random.Random(1)
        found = {Architecture(backbone=name).id: Architecture(backbone=name)}
        while len(found) < self._arguments.architectures:
            drawn = resolved.sample(lambda _, options: generator.choice(list(options)))
            found[drawn.id] = drawn
        return list(found.values())


def recipes(arguments: argparse.Namespace) -> list[str]:
    """Return the recipes that suit the data: writing has no mirror images."""
    without = ("mirrored validation", "cutout") if is_writing(arguments.data) else ()
    return [recipe for recipe in RECIPES if recipe not in without]


def some_of(split: Split, count: int | None) -> Split:
    """Return a random part of a split, the same every time."""
    if count is None or count >= len(split):
        return split
    chosen = sorted(random.Random(0).sample(range(len(split)), count))
    indices = tuple(split.indices[i] for i in chosen)
    return dataclasses.replace(split, images=split.images[chosen], labels=split.labels[chosen], indices=indices)


@torch.no_grad()
def val_loss(model: torch.nn.Module, trainer: Trainer) -> float:
    """Return the mean cross-entropy on val, in nats."""
    from nas import batches

    split, norm = trainer.data.val, batches.normalisation(trainer.data, trainer.device)
    total = 0.0
    for images, labels in batches.batches(split, batches.in_order(split, 256), trainer.device):
        logits = model(batches.inputs(images, norm, trainer.protocol)).float()
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return total / len(split)


_trainings: Trainings | None = None


def _begin(arguments: argparse.Namespace) -> None:
    global _trainings
    torch.set_num_threads(arguments.threads)
    _trainings = Trainings(arguments)


def _work(recipe: str, architecture: str, seed: int) -> dict[str, Any]:
    assert _trainings is not None
    parsed = Architecture.from_json(architecture)
    key = {
        "recipe": recipe,
        "protocol": _trainings.trainer(recipe).protocol.training_hash,
        "id": parsed.id,
        "seed": seed,
    }
    return {**key, **_trainings.train(recipe, parsed, seed)}


def train_all(arguments: argparse.Namespace, architectures: Sequence[Architecture]) -> list[dict[str, Any]]:
    """Train whatever the file does not have yet, and return all that it has."""
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    trainings = Trainings(arguments)
    protocols = {recipe: trainings.trainer(recipe).protocol.training_hash for recipe in recipes(arguments)}
    known = [each for each in known if each["protocol"] == protocols.get(each["recipe"])]  # of these data and epochs
    done = {(each["recipe"], each["id"], each["seed"]) for each in known}
    protocol = trainings.trainer(DEFAULT).protocol
    seeds = {recipe: [protocol.seed] for recipe in recipes(arguments)}
    seeds[DEFAULT] = [protocol.seed, protocol.seed + 1]
    seeds[FULL] = full_seeds(protocol, 2)
    jobs = [
        (recipe, architecture.to_json(), seed)
        for recipe in seeds
        for architecture in architectures
        for seed in seeds[recipe]
        if (recipe, architecture.id, seed) not in done
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, spawn, _begin, (arguments,)) as pool, out.open("a") as file:
        for number, future in enumerate(as_completed([pool.submit(_work, *job) for job in jobs]), 1):
            known.append(future.result())
            file.write(json.dumps(known[-1]) + "\n")
            file.flush()
            print(f"{number}/{len(jobs)}", end="\r", flush=True)
    wanted = {architecture.id for architecture in architectures}
    return [each for each in known if each["id"] in wanted and each["seed"] in seeds.get(each["recipe"], [])]


def rankers(results: Sequence[dict[str, Any]], ids: Sequence[str]) -> dict[str, tuple[list[float], float]]:
    """Return the figures by which architectures may be ranked, higher for better, with the seconds that each took."""
    found: dict[str, tuple[list[float], float]] = {}
    for recipe in dict.fromkeys(each["recipe"] for each in results if each["recipe"] != FULL):
        runs: dict[str, list[dict[str, Any]]] = {one: [] for one in ids}
        for each in sorted(results, key=lambda each: each["seed"]):
            if each["recipe"] == recipe:
                runs[each["id"]].append(each)
        seconds = statistics.median(each["seconds"] for one in ids for each in runs[one])
        found[recipe] = ([runs[one][0]["accuracies"][-1] for one in ids], seconds)
        if recipe == DEFAULT:
            first = [runs[one][0] for one in ids]
            both = [[each["accuracies"][-1] for each in runs[one]] for one in ids]
            found["default, its other seed"] = ([each[1] for each in both], seconds)
            found["default, mean of two seeds"] = ([statistics.mean(each) for each in both], 2 * seconds)
            found["default, mean of the last two epochs"] = (
                [statistics.mean(each["accuracies"][-2:]) for each in first],
                seconds,
            )
            found["default, by validation loss"] = ([-each["val_loss"] for each in first], seconds)
            found["default, by training loss of the last epoch"] = ([-each["losses"][-1] for each in first], seconds)
            found["default, by the sum of training losses"] = ([-sum(each["losses"]) for each in first], seconds)
    return found


def report(arguments: argparse.Namespace, results: Sequence[dict[str, Any]], ids: Sequence[str]) -> None:
    tests = [[each["test"] for each in results if each["recipe"] == FULL and each["id"] == one] for one in ids]
    full_seconds = statistics.median(each["seconds"] for each in results if each["recipe"] == FULL)
    variance, degrees = ranking.pooled_variance(tests)
    between = statistics.stdev(statistics.mean(each) for each in tests)
    reachable = ranking.ceiling(tests)
    protocol = Trainings(arguments).trainer(DEFAULT).protocol
    print(
        f"\n{protocol.data}, {len(ids)} architectures, proxy of {protocol.epochs} epochs, {protocol.device}; "
        f"{protocol.software}\nfull trainings: {full_seconds:.1f} s; standard deviation of the test accuracy between "
        f"architectures {100 * between:.2f} points, between seeds {100 * (variance or 0) ** 0.5:.2f} ({degrees} "
        f"degrees of freedom); their noise leaves any ranker a correlation of about {reachable or 0:.2f}\n"
    )
    figures = rankers(results, ids)
    default, unit = figures[DEFAULT]
    print(f"{'ranked by':<46} {'seconds':>8}  Spearman [95 %]        Kendall  against the default [95 %]")
    for name, (values, seconds) in figures.items():
        rho, tau = ranking.correlate(values, tests)
        line = f"{name:<46} {seconds / unit:7.2f}x  {rho.value or 0:5.2f} [{rho.low or 0:5.2f}, {rho.high or 0:5.2f}]"
        line += f"   {tau.value or 0:6.2f}"
        if name != DEFAULT:
            low, high = difference(values, default, tests)
            value = (ranking.spearman(values, means := [statistics.mean(each) for each in tests]) or 0) - (
                ranking.spearman(default, means) or 0
            )
            line += f"   {value:+5.2f} [{low:+5.2f}, {high:+5.2f}]"
        print(line)


def difference(first: Sequence[float], second: Sequence[float], runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two rankers' correlations, on the same resamples."""
    generator = numpy.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(runs), size=len(runs))
        means = [float(numpy.mean(generator.choice(runs[i], size=len(runs[i])))) for i in drawn]
        pair = [ranking.spearman([values[i] for i in drawn], means) for values in (first, second)]
        if pair[0] is not None and pair[1] is not None:
            found.append(pair[0] - pair[1])
    low, high = numpy.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone", help="timm name (default: that of the default space)")
    parser.add_argument("--train-images", type=int, help="training images to use (default: all)")
    parser.add_argument("--val-images", type=int, help="validation images to use (default: all)")
    parser.add_argument("--epochs", type=int, help="epochs of the proxy (default: those of a search)")
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--processes", type=int, default=1, help="trainings at once, which share the CPU's cores")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="trust.jsonl", help="what was trained (default: trust.jsonl)")
    arguments = parser.parse_args()
    arguments.threads = max(1, torch.get_num_threads() // arguments.processes)
    torch.set_num_threads(arguments.threads)
    architectures = Trainings(arguments).architectures()
    results = train_all(arguments, architectures)
    report(arguments, results, [architecture.id for architecture in architectures])


if __name__ == "__main__":
    main()

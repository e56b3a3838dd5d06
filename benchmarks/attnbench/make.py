"""Make the table: train every architecture of its space, time each once; what was interrupted goes on.

    python benchmarks/attnbench/make.py --seed 0 --minutes 60     # as much of seed 0 as an hour allows
    python benchmarks/attnbench/make.py --pack                    # put what is finished into digits.tsv.gz
    python benchmarks/attnbench/make.py --pretrain path/to/images # the backbone that all start from; done once

What is finished is appended to ``digits.jsonl``, line by line, and is not done again, be it there or in the packed
table. Each process takes one core. Latencies are in CPU time, so that the processes, and others, do not spoil them;
they are taken with seed 0 alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from space import SPACE
from table import PACKED, Header, Training, appended, pack, read, read_lines

from nas import data, proxy
from nas.architecture import Architecture
from nas.data import Split
from nas.evaluation import EvaluationError
from nas.placement import Weights
from nas.settings import Settings, make_protocol
from nas.space import ResolvedSpace
from nas.timing import Timer
from nas.trainer import Trainer

EPOCHS = 9
SECONDS = 1.0
"""Longest sampling of one latency, in seconds of CPU time."""
LINES = Path(__file__).with_name("digits.jsonl")
WEIGHTS = Path(__file__).with_name("photographs.safetensors")
PHOTOGRAPHS, PHOTOGRAPH_EPOCHS = 8000, 6
"""With how many images the backbone was trained, a fifth of them for validation, and for how long."""
_CPU = torch.device("cpu")


class Maker:
    """Trains and times in one process."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        splits = data.load("digits", seed=0)
        self.test = splits.test
        weights = read_weights()
        settings = Settings(
            data="digits",
            backbone=SPACE.backbones[0],
            checkpoint=str(WEIGHTS),
            freeze_backbone=True,
            optimizer="adamw",
            learning_rate=0.01,
            epochs=EPOCHS,
            latency_seconds=SECONDS,
        )
        self.trainer = Trainer(
            splits.search(), make_protocol(settings, splits, _CPU, weights=weights), _CPU, weights=weights
        )
        self.timer = Timer(self.trainer, clock=time.process_time_ns)

    def space(self) -> ResolvedSpace:
        (backbone,) = SPACE.backbones
        return SPACE.resolve({backbone: self.trainer.plan(backbone).stages})

    def header(self) -> Header:
        """Return what holds for all rows."""
        protocol = self.trainer.protocol.to_dict()
        machine = {name: protocol.pop(name) for name in ("device", "latency_device", "software")}
        return Header(
            protocol=protocol,
            space=self.space().hash,
            images={"train": len(self.trainer.data.train), "val": len(self.trainer.data.val), "test": len(self.test)},
            machines=[f"{machine['device']}; {machine['software']}"],
        )

    def __call__(self, architecture: Architecture, seed: int) -> Training:
        """Train an architecture with one seed and, with the first seed, measure what it costs."""
        started = time.process_time()
        trainer = self.trainer.under(seed=seed)
        cost = self.timer(architecture) if seed == 0 else None
        found: dict[str, Any] = {}
        try:
            model = trainer.build(architecture)
            curve = trainer.train(model)
            val, test = len(trainer.data.val), len(self.test)
            found["curve"] = [round(share * val) for share in curve.accuracies]
            found["losses"] = [round(loss, 4) for loss in curve.losses]
            found["test"] = round(proxy.accuracy(model, self.test, trainer.data, trainer.protocol) * test)
        except EvaluationError as error:
            found["failure"] = str(error)
        if cost is not None:
            found["ratio"] = [cost.latency.ratio, cost.latency.ratio_low, cost.latency.ratio_high]
            found["bare_ms"] = cost.reference_ms
            found |= {"nominal_ms": cost.nominal_ms, "parameters": cost.parameters, "macs": cost.macs}
            found["memory_bytes"] = cost.memory_bytes
        words = self.header().machines[0]
        return Training(architecture.id, seed, words, seconds=round(time.process_time() - started, 1), **found)


def read_weights() -> Weights:
    """Return the weights of the backbone; its classifier, which was for other classes, is drawn anew."""
    tensors = load_file(WEIGHTS)
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:12]
    return Weights(words=f"{WEIGHTS.name} (sha256 {digest})", tensors=tensors, total=len(tensors) + 2)


def pretrain(folder: str) -> None:
    """Train the backbone on grey photographs, and keep all of it but its classifier."""
    torch.set_num_threads(1)
    splits = data.load(folder, seed=0, limit=PHOTOGRAPHS)
    colour = splits.search()
    search = dataclasses.replace(
        colour,
        train=_grey(colour.train),
        val=_grey(colour.val),
        channels=1,
        mean=(sum(colour.mean) / 3,),
        std=(sum(colour.std) / 3,),
    )
    backbone = SPACE.backbones[0]
    settings = Settings(data=folder, backbone=backbone, epochs=PHOTOGRAPH_EPOCHS)
    protocol = dataclasses.replace(make_protocol(settings, splits, _CPU), channels=1)
    trainer = Trainer(search, protocol, _CPU)
    model = trainer.build(Architecture(backbone=backbone))
    curve = trainer.train(model)
    kept = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if not name.startswith("fc.")}
    save_file(kept, WEIGHTS)
    print(f"{WEIGHTS.name}: {curve.accuracies[-1]:.1%} on {len(search.val)} images after {PHOTOGRAPH_EPOCHS} epochs")


def _grey(split: Split) -> Split:
    return dataclasses.replace(split, images=split.images.float().mean(1, keepdim=True).round().to(torch.uint8))


_MAKER: Maker | None = None


def _work(text: str, seed: int) -> Training:
    global _MAKER
    _MAKER = _MAKER or Maker()
    return _MAKER(Architecture.from_json(text), seed)


def order(space: ResolvedSpace) -> list[Architecture]:
    """Return all architectures: the controls first, then the others in random order, so that a part is a sample."""
    controls = [control.architecture for control in space.controls()]
    known = {architecture.id for architecture in controls}
    others = [architecture for architecture in space.enumerate() if architecture.id not in known]
    random.Random(0).shuffle(others)
    return [*controls, *others]


def make(todo: Iterator[Architecture], seed: int, workers: int, minutes: float) -> Iterator[Training]:
    """Yield trainings as they are finished, until the time is up; those in work are finished, too."""
    end = time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(workers) as pool:
        running: set[Future[Training]] = set()
        while True:
            while len(running) < workers and time.monotonic() < end and (each := next(todo, None)) is not None:
                running.add(pool.submit(_work, each.to_json(), seed))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=25.0, help="begin no training after so long (default: 25)")
    parser.add_argument("--most", type=int, help="make so many rows of that seed at most")
    parser.add_argument("--lines", type=Path, default=LINES, help="file that is appended to")
    parser.add_argument("--pack", action="store_true", help="put what is finished into the packed table, and end")
    parser.add_argument("--pretrain", metavar="DIR", help="train the backbone on a folder of photographs, and end")
    arguments = parser.parse_args()
    if arguments.pretrain is not None:
        pretrain(arguments.pretrain)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    old = read(PACKED) if PACKED.exists() else None
    lines = read_lines(arguments.lines)
    if arguments.pack:
        print(pack([part for part in (old, lines) if part is not None], PACKED))
        return
    maker = Maker()
    header = maker.header()
    done = set()
    for part in (old, lines):
        if part is not None:
            part.header.check(header)
            done |= {(row.architecture, row.seed) for row in part.rows}
    todo = [each for each in order(maker.space())[: arguments.most] if (each.id, arguments.seed) not in done]
    print(f"{len(done)} trainings are there; {len(todo)} of seed {arguments.seed} are missing", flush=True)
    with appended(arguments.lines, header) as file:
        for number, row in enumerate(make(iter(todo), arguments.seed, arguments.workers, arguments.minutes), 1):
            file.write(json.dumps(dataclasses.asdict(row)) + "\n")
            file.flush()
            if number % 50 == 0:
                print(f"{time.strftime('%H:%M:%S')}: {number} more", flush=True)


if __name__ == "__main__":
    main()

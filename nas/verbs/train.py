"""Train an exported architecture fully, with timm's own pipeline; the bare backbone alike, if asked for."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from nas.train import settings as choices
from nas.verbs.common import DONE, end_on_sigterm

if TYPE_CHECKING:
    from nas.train.loop import Watcher
    from nas.train.report import Outcome


def add(verbs: Any, plain: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser(
        "train",
        parents=[plain],
        help="train an exported architecture fully",
        description="Train an exported architecture fully with timm's data pipeline, schedules and checkpoints, test "
        "it once at the end, and write its weights; trainings into other folders look at test again. The same command "
        "goes on where a killed one stopped. Several processes: "
        "torchrun --nproc_per_node=2 run_search.py train CONFIG.",
        epilog="'as the search' stands for what the protocol in the config says.",
    )
    parser.add_argument("config", metavar="CONFIG", help="file that export wrote, or a folder with architecture.json")
    _add_places(parser)
    _add_recipe(parser)
    _add_augmentation(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what, and where")
    add = group.add_argument
    add(
        "--out",
        metavar="DIR",
        help="folder to write, weights.safetensors included (default: CONFIG/train with the weights in CONFIG itself, "
        "or best-train beside best.json)",
    )
    add("--data", metavar="DIR", help="where the data lie now (default: follows from their name, as for digits)")
    add("--limit", type=int, metavar="N", help="images to use at most, as the search had it (default: all)")
    add("--other-data", action="store_true", help="train on other data of as many classes than the search had")
    add("--baseline", action="store_true", help="train the bare backbone alike and print the paired difference")
    add("--seeds", type=int, default=1, metavar="N", help="trainings, with successive seeds (default: 1)")
    add("--seed", type=int, metavar="N", help="first seed (default: one that the search did not use)")
    add(
        "--select",
        choices=choices.SELECT,
        default="last",
        help="which epoch is tested: the last, or the best on val (default: last)",
    )
    add("--with-val", action="store_true", help="train on the validation images, too; nothing is watched then")
    start = group.add_mutually_exclusive_group()
    start.add_argument("--pretrained", action="store_true", help="start from timm's weights (default: as the search)")
    start.add_argument("--checkpoint", metavar="FILE", help="start from the weights in this file")
    start.add_argument("--fresh", action="store_true", help="start from fresh weights")
    add("--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)")
    add("--workers", type=int, metavar="N", help="processes that load images (default: 4 beside a GPU, else 0)")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("recipe").add_argument
    factor = choices.EPOCHS_FACTOR
    add("--epochs", type=int, metavar="N", help=f"passes over the images (default: {factor} times the search's)")
    add("--batch", type=int, metavar="N", help="images in a step, over all processes (default: as the search)")
    add("--opt", metavar="NAME", help="one of timm's optimisers (default: as the search)")
    add(
        "--lr",
        type=float,
        metavar="RATE",
        help="peak learning rate; not scaled with the batch (default: as the search)",
    )
    add(
        "--block-lr-factor", type=float, metavar="F", help="rate of the blocks over the rest's (default: as the search)"
    )
    add("--layer-decay", type=float, metavar="F", help="rate of a layer over the next one's (default: 1)")
    add("--weight-decay", type=float, metavar="W", help="weight decay (default: as the search)")
    add("--sched", choices=choices.SCHEDULES, default="cosine", help="schedule of the rate (default: cosine)")
    add("--warmup", type=int, metavar="N", help="epochs in which the rate rises (default: a tenth of all, 5 at most)")
    add("--clip-grad", type=float, metavar="NORM", help="largest norm of the gradient (default: no bound)")
    add("--ema", type=float, default=0.0, metavar="D", help="decay of averaged weights, 0.9998 say (default: 0, none)")
    add("--amp", choices=choices.AMP, default="auto", help="precision (default: auto, on a GPU as the search)")


def _add_augmentation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("augmentation").add_argument
    crop = choices.CROP
    add("--smoothing", type=float, metavar="S", help="label smoothing, a share (default: as the search)")
    add(
        "--crop",
        type=float,
        metavar="SHARE",
        help=f"least area of a crop (default: {crop} if the search shifted, else 1)",
    )
    add("--hflip", type=float, metavar="P", help="probability of mirroring (default: 0.5 if the search did, else 0)")
    add(
        "--color-jitter", type=float, default=0.0, metavar="SHARE", help="brightness, contrast, saturation (default: 0)"
    )
    add("--aa", metavar="WORDS", help="timm's automatic augmentation, rand-m9-mstd0.5-inc1 say (default: none)")
    erased = choices.ERASED
    add(
        "--reprob",
        type=float,
        metavar="P",
        help=f"probability of erasing (default: {erased} if the search cut out, else 0)",
    )
    add("--mixup", type=float, default=0.0, metavar="ALPHA", help="mixup, 0.2 say (default: 0, none)")
    add("--cutmix", type=float, default=0.0, metavar="ALPHA", help="CutMix, 1.0 say (default: 0, none)")


def run(arguments: argparse.Namespace) -> int:
    fields = {field.name for field in dataclasses.fields(choices.Settings)}
    asked = choices.Settings(**{name: value for name, value in vars(arguments).items() if name in fields})
    end_on_sigterm()
    from nas.train import full

    is_first = os.environ.get("RANK", "0") == "0"
    watcher = _bar() if is_first else None
    try:
        outcome = full.train(arguments.config, asked, watcher)
    except (ValueError, choices.TrainingFailed) as error:
        if is_first:
            raise
        raise SystemExit(2) from error  # the first process says it for all
    finally:
        if watcher is not None:
            watcher.start("", 0, 0)
    if is_first:
        print(outcome.text())
        print(closing(outcome))
    return DONE


def closing(outcome: Outcome) -> str:
    """Return what was written, and how weights in an export folder become part of its proof."""
    if outcome.weights.parent == outcome.folder:
        return f"wrote {outcome.weights.name}, train.json and train.md into {outcome.folder}"
    place = outcome.weights.parent
    return (
        f"wrote {outcome.weights} and, in {outcome.folder}, train.json and train.md\n"
        f"`export --out {place}`, of the same architecture again, makes these weights part of the folder's proof"
    )


def _bar() -> Watcher:
    """Return a bar on stderr: steps done, time left; and a line an epoch above it."""
    from tqdm import tqdm

    from nas.train.loop import Watcher

    class Bar(Watcher):
        _bar: Any = None

        def start(self, name: str, steps: int, done: int) -> None:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(total=steps, initial=done, unit="step", desc=name, leave=False) if steps else None

        def step(self) -> None:
            self._bar.update()

        def say(self, words: str) -> None:
            tqdm.write(words, file=sys.stderr)

    return Bar()

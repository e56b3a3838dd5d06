"""The flags of a search, group by group. Every flag says its unit and its default."""

from __future__ import annotations

import argparse
import math

from nas.protocol import PRECISIONS
from nas.rungs import LONG, RISK


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser, in groups; their names are those of :class:`nas.settings.Settings`."""
    ask = parser.add_argument_group("what to search")
    ask.add_argument(
        "--budget",
        type=int,
        default=50,
        metavar="N",
        help="as much training as N distinct architectures take (default: 50)",
    )
    ask.add_argument(
        "--space",
        default="default",
        metavar="NAME_OR_PATH",
        help="search space: a name, a .json file, or a .py file, which is executed (default: default)",
    )
    ask.add_argument("--backbone", metavar="NAME", help="timm model, instead of the space's own")
    ask.add_argument(
        "--model-kwargs",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="further arguments for timm's model, such as drop_path_rate=0.1",
    )
    ask.add_argument(
        "--positions",
        metavar="A,B,...",
        help="after_stage, in_residual, replace: where blocks may stand, instead of the space's own",
    )
    ask.add_argument(
        "--max-blocks", type=int, metavar="N", help="stages in use at once at most (default: the space's own)"
    )
    ask.add_argument("--init", choices=("identity", "paper"), help="how blocks start, instead of the space's own")
    ask.add_argument(
        "--sampler", default="auto", metavar="NAME", help="auto, additive, gp, tpe, nsga2 or random (default: auto)"
    )
    ask.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything drawn (default: 0)")
    _data_flags(parser.add_argument_group("data"))
    _training_flags(parser.add_argument_group("proxy training"))
    _weights_flags(parser.add_argument_group("trained weights"))
    _device_flags(parser.add_argument_group("device"))
    _stopping_flags(parser.add_argument_group("stopping early"))
    _certainty_flags(parser.add_argument_group("certainty"))
    _latency_flags(parser.add_argument_group("latency"))
    _limit_flags(parser.add_argument_group("limits: what costs more is not trained"))


def _stopping_flags(stopping: argparse._ArgumentGroup) -> None:
    stopping.add_argument(
        "--rungs",
        default="auto",
        metavar="EPOCH",
        help="epoch after which a training is stopped that promises less than others; auto is half of them if they "
        f"are at least {LONG}; or none; for other samplers usual, which is 1,3,9 and so on, or epochs (default: auto)",
    )
    stopping.add_argument(
        "--risk",
        type=float,
        default=RISK,
        metavar="P",
        help="with other samplers: probability of beating one that is as fast, below which a training is stopped, 0 to "
        f"0.5 (default: {RISK:g})",
    )
    stopping.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="end after so much training that did not move the front beyond noise, N whole ones (default: never)",
    )


def _certainty_flags(certainty: argparse._ArgumentGroup) -> None:
    certainty.add_argument(
        "--repeats",
        type=int,
        default=7,
        metavar="N",
        help="further seeds of the bare backbone at the end, to know the noise of the seed (default: 7)",
    )
    certainty.add_argument(
        "--confirm",
        type=int,
        default=0,
        metavar="N",
        help="further seeds of each member of the front at the end, until the front stands (default: 0)",
    )


def _data_flags(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--data", default="digits", metavar="NAME_OR_DIR", help="digits, an image folder, or a timm dataset"
    )
    data.add_argument("--data-dir", metavar="DIR", help="where timm's datasets lie")
    data.add_argument("--download", action="store_true", help="let timm download the data set")
    data.add_argument("--limit", type=int, metavar="N", help="use at most so many images, stratified by class")
    data.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="height and width (default: 32 for digits, else what the images have)",
    )


def _training_flags(train: argparse._ArgumentGroup) -> None:
    train.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of one proxy training (default: 3 for digits, else 5)"
    )
    train.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in one step (default: 64)")
    train.add_argument("--optimizer", default="sgd", metavar="NAME", help="sgd or adamw (default: sgd)")
    train.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="peak of the one-cycle schedule (default: 0.1 for sgd, 0.003 for adamw; a tenth on trained weights)",
    )
    train.add_argument("--weight-decay", type=float, default=5e-4, metavar="X", help="default: 0.0005")
    train.add_argument("--label-smoothing", type=float, default=0.1, metavar="X", help="0 to 1 (default: 0.1)")
    train.add_argument(
        "--augmentation",
        metavar="NAME",
        help="none, shift, shift+flip or shift+flip+cutout (default: shift for digits, else shift+flip)",
    )
    train.add_argument("--compile", action="store_true", help="compile the training with torch.compile")
    train.add_argument(
        "--mirror-validation", action="store_true", help="validate on the sum of the logits of image and mirror image"
    )
    train.add_argument(
        "--average-epochs",
        type=int,
        default=1,
        metavar="N",
        help="last epochs whose final weights are averaged for the accuracy (default: 1)",
    )


def _weights_flags(weights: argparse._ArgumentGroup) -> None:
    source = weights.add_mutually_exclusive_group()
    source.add_argument("--pretrained", action="store_true", help="start from timm's weights; downloads them once")
    source.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="start from the weights in a file, .safetensors or .pth; it is never executed",
    )
    weights.add_argument(
        "--warm-start",
        type=int,
        nargs="?",
        const=True,
        default=False,
        metavar="EPOCHS",
        help="train the bare backbone once, and start every trial from it (default: no; without a number of epochs, "
        "twice those of the proxy)",
    )
    weights.add_argument(
        "--freeze-backbone", action="store_true", help="train only the blocks and the classifier on trained weights"
    )
    weights.add_argument(
        "--block-lr-factor",
        type=float,
        metavar="X",
        default=1.0,
        help="learning rate of blocks over the rest (default: 1)",
    )


def _device_flags(device: argparse._ArgumentGroup) -> None:
    device.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    device.add_argument(
        "--precision", metavar="NAME", help="float32 or bfloat16 (default: bfloat16 on a GPU that has it)"
    )
    device.add_argument(
        "--devices",
        metavar="A,B,...",
        help="several of one kind, such as 0,1 or auto for every GPU; each has a worker, which is a process of its own",
    )
    device.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that train at once, in all; a latency is measured alone all the same (default: one a device)",
    )
    device.add_argument(
        "--workers-per-device", type=int, metavar="K", help="the same, for each device, instead of --workers"
    )
    device.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="have workers of a Ray cluster evaluate, as many as it has room for or --workers; auto is the one that "
        "this machine is part of",
    )


def _latency_flags(latency: argparse._ArgumentGroup) -> None:
    latency.add_argument(
        "--runtime",
        default="eager",
        metavar="NAME",
        help="what runs the models that are timed: eager, compile (torch.compile) or onnxruntime (default: eager)",
    )
    latency.add_argument(
        "--latency-device", metavar="NAME", help="device that is timed, as --device (default: the one that trains)"
    )
    latency.add_argument(
        "--latency-batch",
        dest="latency_batch_size",
        type=int,
        default=1,
        metavar="N",
        help="images in one timed pass (default: 1)",
    )
    latency.add_argument(
        "--latency-resolution",
        type=int,
        metavar="PIXELS",
        help="height and width of the images that are timed (default: those that are trained on)",
    )
    latency.add_argument(
        "--latency-precision",
        choices=PRECISIONS,
        help="of what is timed (default: as in training; float32 in onnxruntime and on another device)",
    )
    latency.add_argument(
        "--latency-seconds", type=float, default=2.0, metavar="S", help="longest sampling of one latency (default: 2)"
    )


def _limit_flags(limits: argparse._ArgumentGroup) -> None:
    limits.add_argument("--max-latency-ms", type=float, metavar="MS", help="latency, in milliseconds")
    limits.add_argument(
        "--max-slowdown", type=_share, metavar="P%", help="latency beyond the bare backbone's, such as 5%% or 0.05"
    )
    limits.add_argument("--max-params", type=_count, metavar="N", help="parameters, such as 11700000 or 11.7M")


def _share(text: str) -> float:
    """Read a share such as ``5%`` or ``0.05``; whoever writes 5 means 5 %, and would get 500 %."""
    share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if 1 <= share < math.inf and not text.endswith("%"):
        raise argparse.ArgumentTypeError(f"write {text}% for {share:g} per cent, or {100 * share:g}%")
    return share


def _count(text: str) -> int:
    """Read a count such as ``11.7M``."""
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    count = float(number) * unit
    if not (count.is_integer() or (unit > 1 and math.isfinite(count))):  # with a unit, binary fractions round
        raise ValueError(text)
    return round(count)


# argparse names them so where it refuses a value
_share.__name__ = "share, such as 5%,"
_count.__name__ = "count, such as 11700000 or 11.7M,"

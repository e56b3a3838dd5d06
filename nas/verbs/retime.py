"""Time a study's front on the present device: does it hold there?"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from nas.protocol import PRECISIONS
from nas.verbs.common import DONE, end_on_sigterm, open_study, say


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("retime", parents=[common], help="time the front on this device: does it hold?")
    parser.add_argument(
        "--everything", action="store_true", help="time all finished trials (default: the front and the controls)"
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    parser.add_argument(
        "--runtime", default="eager", metavar="NAME", help="eager, compile or onnxruntime (default: eager)"
    )
    parser.add_argument(
        "--latency-batch",
        dest="latency_batch_size",
        type=int,
        metavar="N",
        help="images in one timed pass (default: as in the study)",
    )
    parser.add_argument(
        "--latency-resolution", type=int, metavar="PIXELS", help="height and width (default: as in the study)"
    )
    parser.add_argument(
        "--latency-precision", choices=PRECISIONS, default="float32", help="of what is timed (default: float32)"
    )
    parser.add_argument(
        "--latency-seconds", type=float, metavar="S", help="longest sampling of one latency (default: as in the study)"
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import retime
    from nas.run import write_files

    fields = {field.name for field in dataclasses.fields(retime.Settings)}
    settings = retime.Settings(**{name: value for name, value in vars(arguments).items() if name in fields})
    end_on_sigterm()
    study = open_study(arguments)
    folder = Path(arguments.studies) / study.name
    print(retime.retime(study, settings, folder, on_event=say))
    write_files(study, folder)  # the report holds what was found
    study.close()
    return DONE

"""Write an architecture that a study found: its config, or a folder that proves itself."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from nas.verbs.common import DONE, end_on_sigterm, open_study, say


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its flags."""
    parser = verbs.add_parser("export", parents=[common], help="write an architecture: as a config, or as a model")
    parser.add_argument(
        "--pick",
        metavar="HOW",
        help='knee, accuracy, fastest, trial:N, "latency<=X" in ms or "slowdown<=P%%" (default: the recommended)',
    )
    parser.add_argument(
        "--out",
        metavar="FILE.json|DIR",
        default="best.json",
        help="file for the config alone, or folder for config, stand-alone model.py and their proof "
        "(default: best.json, which takes neither torch nor time)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="trained weights to put into the folder: .safetensors, or a torch state dict"
    )
    parser.add_argument("--onnx", action="store_true", help="write model.onnx into the folder, too")
    parser.add_argument(
        "--latency-seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="longest timing of the folder's model.py beside the original, in seconds; 0 for none (default: 2)",
    )


def run(arguments: argparse.Namespace) -> int:
    from nas import export
    from nas.answer import recommend
    from nas.front import pick

    as_folder = export.is_folder(arguments.out)
    if not as_folder and (arguments.onnx or arguments.weights is not None):
        raise ValueError(f"--onnx and --weights take a folder, but --out is the file {arguments.out}; give --out DIR")
    study = open_study(arguments)
    rows = study.rows()
    if not rows:
        raise ValueError(f"study {study.name!r} has no finished trial yet")
    row = pick(rows, arguments.pick) if arguments.pick is not None else recommend(rows).row
    content = export.config(study, row)
    study.close()
    words = f"trial {row.trial}, {row.architecture.describe()}"
    if not as_folder:
        export.check_replaceable(arguments.out)
        export.write(content, arguments.out)
        print(f"wrote {arguments.out}: {words}")
        print(f"build it: python -c {shlex.quote(f'import nas; model = nas.load({arguments.out!r})')}")
        return DONE
    from nas.export import folder, page

    end_on_sigterm()
    figures = folder.export(
        content,
        arguments.out,
        weights=arguments.weights,
        onnx=arguments.onnx,
        seconds=arguments.latency_seconds,
        on_start=lambda: say(f"writing {arguments.out}, and comparing what is in it"),
    )
    out = Path(arguments.out)
    print(f"wrote {out}: {words}\n")
    print(page.text(figures))
    print(f"\nnext:\n  python {shlex.quote(str(out / 'model.py'))}")
    for verb in ("check", "train"):
        print(f"  python run_search.py {verb} {shlex.quote(str(out))}")
    return DONE

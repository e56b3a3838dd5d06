"""The command line: parse, dispatch, print. Every verb is a few lines over one function of the library."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import nas

if TYPE_CHECKING:
    from nas.study import Study

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of thirty flags in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {message}; {self.prog} --help lists what there is\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 the run failed, 2 wrong use, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows the rest
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "search")
    arguments = _parser().parse_args(words)
    debug = arguments.debug
    try:
        return int(_VERBS[arguments.verb](arguments))
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where this one stopped" if arguments.verb == "search" else ""
        print(f"\ninterrupted{goes_on}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)


def _explain(error: Exception) -> int:
    from nas.evaluation import EvaluationError

    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, EvaluationError)):
        print(f"run_search.py: {text}", file=sys.stderr)
        return WRONG_USE
    known = type(error).__name__ == "RunFailed"
    hint = "" if known else f"{type(error).__name__}: "
    print(f"run_search.py: the run failed: {hint}{text}; --debug shows where", file=sys.stderr)
    return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run_search.py",
        description="Which attention block, with which options, on which stages of a backbone - and at what latency?",
        epilog="Without a verb it searches: run_search.py --budget 50. run_search.py search --help lists the flags.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {nas.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="verb", required=True, parser_class=_Parser)
    plain = _Parser(add_help=False)
    plain.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common = _Parser(add_help=False, parents=[plain])
    common.add_argument(
        "--studies", metavar="DIR", default="studies", help="folder where studies land (default: studies)"
    )
    common.add_argument("--storage", metavar="URL", help="database (default: sqlite:///DIR/studies.db)")
    common.add_argument("--study", metavar="NAME", help="name of the study; the same name resumes it")
    _search_flags(verbs.add_parser("search", parents=[common], help="search (the default)"))
    export = verbs.add_parser("export", parents=[common], help="write the config of an architecture")
    export.add_argument(
        "--pick",
        metavar="HOW",
        help='knee, accuracy, fastest, trial:N, "latency<=X" in ms or "slowdown<=P%%" (default: the recommended)',
    )
    export.add_argument("--out", metavar="FILE", default="best.json", help="file to write (default: best.json)")
    board = verbs.add_parser("dashboard", parents=[common], help="open the studies in optuna-dashboard on 127.0.0.1")
    board.add_argument("--port", type=int, default=8080, help="TCP port (default: 8080)")
    blocks = verbs.add_parser("blocks", parents=[plain], help="list the blocks, or show all that is known of one")
    blocks.add_argument("name", nargs="?", metavar="NAME", help="one block (default: all)")
    blocks.add_argument(
        "--channels", type=int, default=64, metavar="C", help="channels of the map for values and counts (default: 64)"
    )
    blocks.add_argument(
        "--map", type=int, default=14, metavar="PIXELS", help="height and width of the map, in pixels (default: 14)"
    )
    _costs_flags(verbs.add_parser("costs", parents=[plain], help="measure what each block adds at each stage"))
    return parser


def _costs_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", metavar="NAME", required=True, help="timm model")
    parser.add_argument(
        "--resolution", type=int, required=True, metavar="PIXELS", help="height and width of the images, in pixels"
    )
    parser.add_argument("--blocks", metavar="A,B,...", help="names of blocks (default: all)")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images in one pass (default: 1)")
    parser.add_argument("--precision", default="float32", metavar="NAME", help="float32 or bfloat16 (default: float32)")
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=40.0,
        metavar="S",
        help="sampling of the whole table, in seconds; slow cells still get six samples each (default: 40)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: studies/costs/BACKBONE-RESOLUTION...)")


def _search_flags(parser: argparse.ArgumentParser) -> None:
    ask = parser.add_argument_group("what to search")
    ask.add_argument(
        "--budget", type=int, default=50, metavar="N", help="finished distinct architectures (default: 50)"
    )
    ask.add_argument(
        "--space", default="default", metavar="NAME_OR_PATH", help="search space; a path is Python and is executed"
    )
    ask.add_argument("--backbone", metavar="NAME", help="timm model, instead of the space's own")
    ask.add_argument("--init", choices=("identity", "paper"), help="how blocks start, instead of the space's own")
    ask.add_argument("--sampler", default="auto", metavar="NAME", help="auto, gp, tpe, nsga2 or random (default: auto)")
    ask.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything drawn (default: 0)")
    data = parser.add_argument_group("data")
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
    train = parser.add_argument_group("proxy training")
    train.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of one proxy training (default: 3 for digits, else 5)"
    )
    train.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in one step (default: 64)")
    train.add_argument("--optimizer", default="sgd", metavar="NAME", help="sgd or adamw (default: sgd)")
    train.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="peak of the one-cycle schedule (default: 0.1 for sgd, 0.003 for adamw)",
    )
    train.add_argument("--weight-decay", type=float, default=5e-4, metavar="X", help="default: 0.0005")
    train.add_argument("--label-smoothing", type=float, default=0.1, metavar="X", help="0 to 1 (default: 0.1)")
    train.add_argument(
        "--augmentation", metavar="NAME", help="none, shift or shift+flip (default: shift for digits, else shift+flip)"
    )
    device = parser.add_argument_group("device")
    device.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cuda, cuda:1, mps or cpu (default: auto)"
    )
    device.add_argument(
        "--latency-seconds", type=float, default=2.0, metavar="S", help="longest sampling of one latency (default: 2)"
    )
    device.add_argument(
        "--precision", metavar="NAME", help="float32 or bfloat16 (default: bfloat16 on a GPU that has it)"
    )
    device.add_argument(
        "--latency-batch-size", type=int, default=1, metavar="N", help="images in one timed pass (default: 1)"
    )


def _search(arguments: argparse.Namespace) -> int:
    from nas.run import Settings, search

    fields = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in vars(arguments).items() if name in fields})
    signal.signal(signal.SIGTERM, _interrupt)
    progress = _Progress(settings.budget)
    try:
        result = search(settings, on_start=progress.start, on_trial=progress.update)
    finally:
        progress.close()
    study = result.study
    if result.outcome.exhausted:
        print(f"every architecture of the space was tried: {result.outcome.finished} finished")
    _print_answer(study, settings.folder)
    where = ["--studies", settings.studies] if settings.studies != "studies" else []
    # The URL is not repeated: it may hold a password.
    flags = shlex.join(["--study", study.name, *where]) + (" --storage URL" if settings.storage else "")
    print(f"\nnext:\n  open {settings.folder / 'pareto.html'}")
    print(f"  python run_search.py dashboard {flags}")
    print(f"  python run_search.py export {flags} --out best.json")
    study.close()
    return DONE


def _interrupt(*_: object) -> NoReturn:
    """Treat the wish to end (SIGTERM) as Ctrl-C, also where a shell has made the process ignore Ctrl-C itself."""
    raise KeyboardInterrupt


def _print_answer(study: Study, folder: Path) -> None:
    from nas.answer import front_table, recommend

    rows = study.rows()
    print(f"\n{front_table(rows)}\n")
    for number, reason in study.failures():
        print(f"trial {number} failed: {reason}")
    print(recommend(rows).sentence)


class _Progress:
    """A bar on stderr: trials done, front size, best accuracy, time left."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bar: Any = None

    def start(self, study: Study) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=self._budget, initial=min(study.finished(), self._budget), unit="trial", smoothing=0.1)

    def update(self, study: Study) -> None:
        rows = study.rows()
        self._bar.set_postfix_str(
            f"front {sum(row.on_front for row in rows)}, best {max((row.accuracy for row in rows), default=0):.1%}"
            + (f", failed {len(study.failures())}" if study.failures() else ""),
            refresh=False,
        )
        self._bar.update(min(len(rows), self._budget) - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _export(arguments: argparse.Namespace) -> int:
    from nas import export
    from nas.answer import recommend
    from nas.front import pick

    study = _open(arguments)
    rows = study.rows()
    if not rows:
        raise ValueError(f"study {study.name!r} has no finished trial yet")
    row = pick(rows, arguments.pick) if arguments.pick is not None else recommend(rows).row
    export.write(export.config(study, row), arguments.out)
    study.close()
    print(f"wrote {arguments.out}: trial {row.trial}, {row.architecture.describe()}")
    print(f'build it: python -c "import nas; model = nas.load({arguments.out!r})"')
    return DONE


def _dashboard(arguments: argparse.Namespace) -> int:
    from nas import dashboard

    study = _open(arguments)
    print(f"{dashboard.address(study, arguments.port)} (Ctrl-C ends it)", flush=True)
    dashboard.serve(study, arguments.port)
    return DONE


def _blocks(arguments: argparse.Namespace) -> int:
    from nas import catalogue

    size = (arguments.channels, arguments.map)
    print(catalogue.listing(*size) if arguments.name is None else catalogue.entry(arguments.name, *size))
    return DONE


def _costs(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nas import cost_table, costs, files, heatmap

    out = Path(arguments.out if arguments.out is not None else Path("studies", "costs", _costs_name(arguments)))
    signal.signal(signal.SIGTERM, _interrupt)
    bar: Any = None

    def start(cells: int) -> None:
        nonlocal bar
        files.check_folder(out)
        for name in ("costs.csv", "costs.html"):
            if (out / name).exists() and not (out / name).is_file():
                raise ValueError(f"{out / name} must be a file; give another --out")
        bar = tqdm(total=cells, unit="cell")

    try:
        measured = costs.measure(
            arguments.backbone,
            resolution=arguments.resolution,
            blocks=None if arguments.blocks is None else [word.strip() for word in arguments.blocks.split(",")],
            device=arguments.device,
            batch_size=arguments.batch,
            precision=arguments.precision,
            budget_seconds=arguments.budget_seconds,
            on_start=start,
            on_cell=lambda cell: bar.update(),
        )
    finally:
        if bar is not None:
            bar.close()
    print(cost_table.table(measured), flush=True)
    cost_table.write_csv(measured, out / "costs.csv")
    heatmap.write_heatmap(measured, out / "costs.html")
    print(f"\nnext:\n  open {out / 'costs.html'}")
    return DONE


def _costs_name(arguments: argparse.Namespace) -> str:
    """Return a folder's name that says what was asked for beyond the defaults, so that tables do not mix."""
    parts = [arguments.backbone, str(arguments.resolution)]
    parts += [f"batch{arguments.batch}"] if arguments.batch != 1 else []
    parts += [part for part in (arguments.device, arguments.precision) if part not in ("auto", "float32")]
    parts += [arguments.blocks] if arguments.blocks is not None else []
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))[:200]


def _open(arguments: argparse.Namespace) -> Study:
    """Open the study that is named, or the only one that there is."""
    from nas.study import Study, study_names

    url = arguments.storage or f"sqlite:///{Path(arguments.studies) / 'studies.db'}"
    name = arguments.study
    if name is None:
        names = study_names(url)
        if len(names) != 1:
            raise ValueError(f"--study must name a study; the database has: {', '.join(names) or 'none'}")
        name = names[0]
    return Study.open(name, url)


_VERBS = {"search": _search, "export": _export, "dashboard": _dashboard, "blocks": _blocks, "costs": _costs}

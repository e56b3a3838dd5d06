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

from nas import flags

if TYPE_CHECKING:
    from nas.study import Confirmation, Study

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit statuses."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 the run failed, 2 wrong use, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows the rest
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "search")
    arguments = flags.parser().parse_args(words)
    debug = arguments.debug
    try:
        return int(_VERBS[arguments.verb](arguments))
    except KeyboardInterrupt:
        resumes = arguments.verb in ("search", "verify")
        goes_on = "; the same command goes on where this one stopped" if resumes else ""
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
        return flags.WRONG_USE
    known = type(error).__name__ == "RunFailed"
    hint = "" if known else f"{type(error).__name__}: "
    print(f"run_search.py: the run failed: {hint}{text}; --debug shows where", file=sys.stderr)
    return FAILED


def _search(arguments: argparse.Namespace) -> int:
    from nas.bar import Progress
    from nas.run import search
    from nas.settings import Settings

    fields = {field.name for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in vars(arguments).items() if name in fields}
    given["model_kwargs"] = flags.model_kwargs(arguments.model_kwargs)
    given["positions"] = None if arguments.positions is None else tuple(flags.names(arguments.positions))
    settings = Settings(**given)
    signal.signal(signal.SIGTERM, _interrupt)
    progress = Progress(settings.budget)
    try:
        result = search(
            settings,
            on_weights=_say,
            on_start=progress.start,
            on_trial=progress.update,
            on_replicate=progress.replicate,
        )
    finally:
        progress.close()
    study = result.study
    if result.outcome.stopped:
        print(f"{result.outcome.stopped} trainings were stopped early; the budget counts the epochs that they had")
    if result.outcome.exhausted:
        print(f"every architecture of the space was tried: {result.outcome.finished} finished")
    if result.outcome.stalled:
        count = int(study.since_gain())
        print(
            f"the run ends early: the front has not moved beyond noise for {count} training{'s' if count > 1 else ''}"
        )
    if result.outcome.too_costly:
        print(f"the run ends with {result.outcome.finished} finished: too many in a row were beyond the limits")
    _print_answer(study, settings.folder)
    _print_confirmation(result.confirmation, settings.confirm)
    where = ["--studies", settings.studies] if settings.studies != "studies" else []
    # The URL is not repeated: it may hold a password.
    same = shlex.join(["--study", study.name, *where]) + (" --storage URL" if settings.storage else "")
    print(f"\nnext:\n  open {settings.folder / 'pareto.html'}")
    print(f"  python run_search.py dashboard {same}")
    print(f"  python run_search.py export {same} --out best.json")
    print(f"  python run_search.py verify {same}")
    study.close()
    return DONE


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _interrupt(*_: object) -> NoReturn:
    """Treat the wish to end (SIGTERM) as Ctrl-C, also where a shell has made the process ignore Ctrl-C itself."""
    raise KeyboardInterrupt


def _print_answer(study: Study, folder: Path) -> None:
    from nas.answer import front_table, recommend
    from nas.confirm import with_probabilities

    rows = with_probabilities(study.rows())
    print(f"\n{front_table(rows)}\n")
    for number, reason in study.failures():
        print(f"trial {number} failed: {reason}")
    if rejected := study.rejected():
        nearest = min(rejected, key=lambda each: each.excess)
        words = f"trial {nearest.trial} ({nearest.architecture.describe()}) with {nearest.reason}"
        print(f"{len(rejected)} beyond the limits, not trained; the nearest miss: {words}")
    print(recommend(rows).sentence)
    if (noise := study.seed_noise()) is not None:
        print(f"Seed noise: {noise.describe()}.")


def _print_confirmation(confirmation: Confirmation, further: int) -> None:
    if further:
        members = f"{confirmation.confirmed} of the front's {confirmation.members} members"
        print(f"Confirmed with {further} further seeds each: {members}.")
    for failure in confirmation.failures:
        print(f"not trained again: {failure}")


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


def _verify(arguments: argparse.Namespace) -> int:
    from nas import verify

    fields = {field.name for field in dataclasses.fields(verify.Settings)}
    settings = verify.Settings(**{name: value for name, value in vars(arguments).items() if name in fields})
    signal.signal(signal.SIGTERM, _interrupt)
    study = _open(arguments)
    folder = Path(arguments.studies) / study.name
    report = verify.verify(study, settings, folder, on_event=_say)
    study.close()
    print(f"{report}\nwrote {folder / 'verify.md'} and verify.csv")
    return DONE


def _retime(arguments: argparse.Namespace) -> int:
    from nas import retime

    fields = {field.name for field in dataclasses.fields(retime.Settings)}
    settings = retime.Settings(**{name: value for name, value in vars(arguments).items() if name in fields})
    signal.signal(signal.SIGTERM, _interrupt)
    study = _open(arguments)
    print(retime.retime(study, settings, Path(arguments.studies) / study.name, on_event=_say))
    study.close()
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


def _backbones(arguments: argparse.Namespace) -> int:
    from nas import backbones

    if arguments.pattern is None:
        print(f"{backbones.families()}\n\nwhere each can hold blocks: run_search.py backbones PATTERN")
        return DONE
    for text in backbones.listing(arguments.pattern):
        print(text, flush=True)
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
            blocks=None if arguments.blocks is None else flags.names(arguments.blocks),
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


_VERBS = {
    "search": _search,
    "export": _export,
    "verify": _verify,
    "retime": _retime,
    "dashboard": _dashboard,
    "blocks": _blocks,
    "costs": _costs,
    "backbones": _backbones,
}

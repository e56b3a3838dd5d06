"""The front on another device: its architectures are timed where they will run, and some may leave it there."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nas import files
from nas.answer import accuracy_text, ms_text, ratio_text, recommend
from nas.evaluation import EvaluationError
from nas.facts import latency_words
from nas.front import BARE, Row, bare_row, mark_front
from nas.ranking import Correlation, correlate
from nas.study import Study

if TYPE_CHECKING:
    from nas.evaluation import Cost
    from nas.protocol import Protocol
    from nas.timing import CachedTimer
    from nas.trainer import Builder

CSV_COLUMNS = (
    *("trial", "architecture", "accuracy", "was_ratio", "was_low", "was_high", "was_on_front"),
    *("latency_ms", "latency_ratio", "ratio_low", "ratio_high", "unstable", "on_front", "control", "placements"),
)
"""Columns of the CSV file; those that begin with ``was_`` are the study's own."""
FEWEST = 3
"""Fewest architectures besides the bare backbone whose order can be compared."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where to time, and what. None stands for what the study did."""

    everything: bool = False
    """Whether all finished trials are timed, so that some may enter the front, too."""
    device: str = "auto"
    """``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""
    runtime: str = "eager"
    """``eager``, ``compile`` or ``onnxruntime``."""
    latency_batch_size: int | None = None
    """Images in one timed pass."""
    latency_resolution: int | None = None
    """Height and width of the images, in pixels."""
    latency_precision: str = "float32"
    """``float32`` or ``bfloat16``."""
    latency_seconds: float | None = None
    """Longest sampling of one latency, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Retimed:
    """What another device says of a study's rows."""

    before: list[Row]
    """The rows as the study has them; of these and no others the front is drawn anew."""
    after: list[Row]
    """The same rows with the new latencies, the front marked among them."""
    correlation: Correlation | None
    """Spearman's rank correlation of the latency ratios, without the bare backbone; None for too few."""
    failures: list[str]
    """Which could not be timed, and why."""

    @property
    def left(self) -> list[Row]:
        """The rows, as they are now, that were on the study's front and are on this one no longer."""
        return [now for was, now in zip(self.before, self.after, strict=True) if was.on_front and not now.on_front]

    @property
    def entered(self) -> list[Row]:
        """The rows that are on this front and were not on the study's."""
        return [now for was, now in zip(self.before, self.after, strict=True) if now.on_front and not was.on_front]


def retime(
    study: Study, settings: Settings, folder: str | Path, *, on_event: Callable[[str], None] | None = None
) -> str:
    """Time architectures of a study on this device, and write ``retime-DEVICE.md`` and ``retime-DEVICE.csv``.

    Neither the data nor trained weights are needed: how long a network takes does not depend on them. What was timed is
    kept in the study's database: what is asked for again is looked up.

    Args:
        study: The study.
        settings: Where to time, and what.
        folder: Where the files are written.
        on_event: Called with a line about each step.

    Returns:
        The report, as Markdown.

    Raises:
        ValueError: If the study has no front yet, the settings are out of range, or the folder cannot be written.
        EvaluationError: If the backbone cannot be timed here, or nothing else.
    """
    say = on_event or (lambda _: None)
    rows = chosen(study.rows(), everything=settings.everything)
    files.check_folder(folder)
    builder, timer = _timer(study, settings)
    say(f"{len(rows)} architectures: {latency_words(builder.protocol)}")
    from nas.trainer import within_memory  # torch, once the cheap mistakes are ruled out

    costs: dict[int, Cost] = {}
    failures: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            costs[row.trial] = within_memory(partial(timer, row.architecture), builder)
        except EvaluationError as error:
            if row.control == BARE:
                raise
            failures.append(f"trial {row.trial}: {error}")
            say(f"{number}/{len(rows)} {failures[-1]}")
            continue
        say(f"{number}/{len(rows)} trial {row.trial}: {ratio_text(_timed(row, costs[row.trial]))}")
    result = compare(rows, costs, failures)
    text = report(result, title=f"{study.name} on another device", facts=_facts(study, builder.protocol, len(rows)))
    name = f"retime-{slug(builder.protocol)}"
    files.replace(Path(folder) / f"{name}.md", text.encode())
    files.replace(Path(folder) / f"{name}.csv", csv_text(result).encode())
    return f"{text}\nwrote {Path(folder) / name}.md and .csv"


def chosen(rows: Sequence[Row], *, everything: bool) -> list[Row]:
    """Return the rows to time, the bare backbone first: the front, the controls, or all.

    What is left out was compared all the same: chance may have favoured what is chosen among so many more.

    Raises:
        ValueError: If the bare backbone has not finished, or nothing else.
    """
    bare = bare_row(rows)
    others = [row for row in rows if row is not bare and (everything or row.on_front or row.control)]
    if bare is None or not others:
        raise ValueError("the bare backbone and one other trial must have finished; search on first")
    left_out = len(rows) - 1 - len(others)
    return [dataclasses.replace(row, left=row.left + left_out) for row in (bare, *others)]


def compare(rows: Sequence[Row], costs: Mapping[int, Cost], failures: Sequence[str] = ()) -> Retimed:
    """Return what new costs, by trial, make of rows.

    Raises:
        EvaluationError: If nothing but the bare backbone has one.
    """
    before = [row for row in rows if row.trial in costs]
    if len(before) < 2:
        raise EvaluationError(f"nothing but the bare backbone could be timed; the first failure: {failures[0]}")
    after = mark_front([_timed(row, costs[row.trial]) for row in before])
    pairs = [(was, now) for was, now in zip(before, after, strict=True) if was.control != BARE]
    correlation = None
    if len(pairs) >= FEWEST:
        was, now = [[row.latency_ratio for row in side] for side in zip(*pairs, strict=True)]
        correlation, _ = correlate(was, [[ratio] for ratio in now])
    return Retimed(before=before, after=after, correlation=correlation, failures=list(failures))


def _timed(row: Row, cost: Cost) -> Row:
    """Return a row with the latency of another device; limits and chances of the study say nothing about it."""
    latency = cost.latency
    return dataclasses.replace(
        row,
        latency_ms=cost.latency_ms,
        latency_ratio=latency.ratio,
        ratio_low=latency.ratio_low,
        ratio_high=latency.ratio_high,
        unstable=latency.unstable,
        graph_ratio=latency.graph_ratio,
        memory_bytes=cost.memory_bytes,
        macs=cost.macs,
        beyond="",
        front_probability=None,
    )


def report(result: Retimed, *, title: str, facts: Mapping[str, str]) -> str:
    """Return a comparison as Markdown: who stays on the front, the order, a table, and how it was made."""
    lines = [f"# {title}", "", _front_words(result), "", _order_words(result), "", recommend(result.after).sentence, ""]
    lines += ["| trial | accuracy % [95 %] | there: ratio to bare [95 %] | here | ms here | front | placements |"]
    lines += ["|---|---|---|---|---|---|---|"]
    pairs = sorted(zip(result.before, result.after, strict=True), key=lambda pair: pair[1].latency_ms)
    for was, now in pairs:
        front = {(True, True): "stays", (True, False): "**leaves**", (False, True): "**enters**"}
        name = f"{now.trial}, {now.control}" if now.control else str(now.trial)
        cells = [name, accuracy_text(now), ratio_text(was), ratio_text(now), ms_text(now.latency_ms)]
        cells += [front.get((was.on_front, now.on_front), "-"), now.architecture.describe()]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += [f"- Failed: {failure}" for failure in result.failures]
    return "\n".join(lines) + "\n"


def _front_words(result: Retimed) -> str:
    members = [row for row in result.before if row.on_front]
    words = f"Of {len(members)} members of the study's front {len(result.left)} leave it here"
    words += f" and {len(result.entered)} enter it." if result.entered else "."
    for row in result.left:
        better = next(
            other
            for other in sorted(result.after, key=lambda other: other.latency_ms)
            if other.on_front and other.accuracy >= row.accuracy and other.latency_ms <= row.latency_ms
        )
        overlap = better.ratio_high >= row.ratio_low
        words += (
            f" Trial {row.trial}, at {row.latency_ratio:.3f} times the bare backbone's latency, is dominated by trial "
            f"{better.trial} at {better.latency_ratio:.3f}{', within the noise of the clock' if overlap else ''}."
        )
    return words


def _order_words(result: Retimed) -> str:
    count = sum(row.control != BARE for row in result.after)
    correlation = result.correlation
    if correlation is None or correlation.value is None:
        return f"{count} architectures besides the bare backbone are too few to compare the order of the latencies."
    ends = "" if correlation.low is None else f" [{correlation.low:.2f}, {correlation.high:.2f}]"
    return (
        f"The rank correlation (Spearman) of the latency ratios there and here is {correlation.value:.2f}{ends}, over "
        f"{count} architectures besides the bare backbone."
    )


def csv_text(result: Retimed) -> str:
    """Return a comparison as CSV, a line for each architecture."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for was, now in zip(result.before, result.after, strict=True):
        there = (was.latency_ratio, was.ratio_low, was.ratio_high, was.on_front)
        here = (now.latency_ms, now.latency_ratio, now.ratio_low, now.ratio_high, now.unstable, now.on_front)
        named = (now.control, now.architecture.describe())
        writer.writerow([now.trial, now.architecture.id, now.accuracy, *there, *here, *named])
    return text.getvalue()


def slug(protocol: Protocol) -> str:
    """Return where and how something is timed in letters that a file's name may have."""
    size = protocol.latency_resolution or protocol.resolution
    parts = [protocol.latency_device, protocol.latency_runtime, f"batch{protocol.latency_batch_size}", f"{size}px"]
    words = "-".join([*parts, str(protocol.latency_precision)])
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:150]


def _timer(study: Study, settings: Settings) -> tuple[Builder, CachedTimer]:
    """Return what builds the study's architectures on a device, and what times them there."""
    from nas import proxy
    from nas.evaluate import software
    from nas.latency import device_words, runtime_software
    from nas.timing import CachedTimer, Timer
    from nas.trainer import Builder

    device = proxy.select_device(settings.device)
    given = {
        name: value
        for name in ("latency_batch_size", "latency_resolution", "latency_seconds")
        if (value := getattr(settings, name)) is not None
    }
    protocol = dataclasses.replace(
        study.protocol,
        device=device_words(device),
        latency_device=device_words(device),
        latency_precision=settings.latency_precision,
        latency_runtime=settings.runtime,
        latency_software=runtime_software(settings.runtime),
        software=software(),
        channels_last=device.type in ("cpu", "cuda"),
        compile=False,
        # Trained weights are as quick as fresh ones.
        **{"weights": "", "freeze_backbone": False, "warm_epochs": 0, "warm_learning_rate": 0.0, **given},
    )
    builder = Builder(protocol, device)
    timer = Timer(builder, device)
    (backbone,) = study.space["backbones"]
    timer.check(backbone)
    return builder, CachedTimer(timer, study.store, protocol.latency_hash)


def _facts(study: Study, protocol: Protocol, count: int) -> dict[str, str]:
    return {
        "There": latency_words(study.protocol),
        "Here": f"{latency_words(protocol)}; {protocol.software}",
        "Timed": f"{count} of {study.finished()} finished trials; the front is drawn among these alone",
        "Accuracy": "as the study has it: nothing was trained",
    }

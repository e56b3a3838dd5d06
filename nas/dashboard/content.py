"""What is shown of a study: notes, plots and artifacts, worked out from what it holds at the moment."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid5

from nas import export, report
from nas.answer import recommend
from nas.command import Commands
from nas.dashboard.notes import TrialNotes, study_note
from nas.front import Row
from nas.study import Study

FILES = (
    *("report.html", "pareto.html", "front.csv", "best.json", "split.json", "verify.md", "verify.csv"),
    *("explain-*.md", "explain-*.csv", "retime-*.md", "retime-*.csv"),
)
"""Which files of a study's folder are shown as its artifacts, those that are there."""
MOST_BYTES = 200_000
"""Largest plot: the page fetches all of them every few seconds."""
DIGITS = 6
"""Significant digits of a plot's figures."""
LOWER = 1.7
"""How much further below the axis a legend stands, as a share of its height: a figure is lower than in the report."""
_ARTIFACTS = UUID("5d7b1d2e-9f0c-5b0e-8a51-0f3f6b1c7e42")
"""Namespace of the artifacts' ids, so that they stay the same; ids of what people upload are of another version."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that is offered with a study or a trial."""

    id: str
    filename: str
    open: Callable[[], BinaryIO]
    """Opens it for reading; raises FileNotFoundError where it is no longer there."""
    trial: int | None = None
    """Number in the database of the trial that it belongs to; ``None`` for the study."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is shown of a study."""

    note: str
    """Of the study, in Markdown."""
    trial_notes: Mapping[int, str]
    """Of its trials, in Markdown, by their numbers in the database."""
    plots: Mapping[str, str]
    """Figures in the order in which they are shown, as plotly's JSON."""
    artifacts: Sequence[Artifact]


def content(study: Study, folder: Path, *, commands: Commands) -> Content:
    """Work out what is shown of a study.

    Args:
        study: The study.
        folder: Its folder, which need not exist.
        commands: What is commonly done next with it.
    """
    story = report.tell(study, folder)
    rows, ends = story.rows, study.ends()
    plots, missing = plots_of({report.TITLES[name]: figure for name, figure in report.figures(story).items()})
    backbones = {end.architecture.backbone for end in ends}
    writers = {name: TrialNotes(rows=rows, ends=ends, stages=_stages(study.space, name)) for name in backbones}
    keys = {end.trial: end.key for end in ends}
    page = next((path.name for path in files_of(folder) if path.suffix == ".html"), "")
    return Content(
        note=study_note(rows, story.facts, ends, commands=commands, page=page, missing=missing),
        trial_notes={end.key: writers[end.architecture.backbone].note(end) for end in ends},
        plots=plots,
        artifacts=[*_files(study, folder), *_configs(study, rows, keys)],
    )


def plots_of(named: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return figures as the dashboard takes them.

    What they say on hovering goes first where they are too large, from the traces with the most points on.

    Args:
        named: Figures by title, each with ``to_json``.

    Returns:
        Their JSON of at most :data:`MOST_BYTES`, by an id for HTML; and the titles of those that are larger.
    """
    plots, missing = {}, []
    for number, (title, figure) in enumerate(named.items()):
        text = _small(json.loads(figure.to_json()), title)
        if len(text) > MOST_BYTES:
            missing.append(title)
        else:
            plots[_html_id(number, title)] = text
    return plots, missing


def _html_id(number: int, title: str) -> str:
    """Return an id whose order is that of the figures; the dashboard has them in none."""
    words = "-".join("".join(sign if sign.isascii() and sign.isalnum() else " " for sign in title.lower()).split())
    return f"nas-{number:02}-{words}"


def _small(figure: dict[str, Any], title: str) -> str:
    """Return a figure as it fits into the page: with a title, lower than in the report, and not too large."""
    layout = figure["layout"]
    layout.pop("template", None)  # what stands in it, the figure says itself; the page's own is plain
    if not layout.get("title", {}).get("text"):
        layout["title"] = {"text": title, "x": 0.01, "y": 0.98, "yanchor": "top", "font": {"size": 16}}
        layout["margin"] = {**layout.get("margin", {}), "t": layout.get("margin", {}).get("t", 60) + 30}
    legend = layout.get("legend", {})
    if legend.get("orientation") == "h" and legend.get("y", 0) < 0:
        legend["y"] *= LOWER
    traces = sorted(figure["data"], key=lambda trace: -len(trace.get("hovertext") or ()))
    text = _compact(figure)
    for trace in traces:
        if len(text) <= MOST_BYTES:
            break
        trace.pop("hovertext", None)
        trace["hoverinfo"] = "x+y"
        text = _compact(figure)
    return text


def _compact(figure: dict[str, Any]) -> str:
    return json.dumps(_rounded(figure), separators=(",", ":"))


def _rounded(value: Any) -> Any:
    """Return JSON values with as many digits as can be seen."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _stages(space: Mapping[str, Any], backbone: str) -> dict[int, str]:
    """Return the stages of a search space in which blocks may stand, and in words what each is."""
    found = {}
    for key, site in space["backbones"].get(backbone, {}).items():
        number = key.removeprefix("stage")
        if number.isdigit():
            found[int(number)] = f"{site['name']}, {site['channels']} channels"
    return found


def files_of(folder: Path) -> list[Path]:
    """Return the files of a study's folder that are shown and are there."""
    return [path for pattern in FILES for path in sorted(folder.glob(pattern)) if path.is_file()]


def _files(study: Study, folder: Path) -> list[Artifact]:
    """Return the study's files, each opened when it is asked for."""
    return [Artifact(id=_id(study, path.name), filename=path.name, open=_opener(path)) for path in files_of(folder)]


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def _configs(study: Study, rows: Sequence[Row], keys: Mapping[int, int]) -> list[Artifact]:
    """Return the configs of the front's members and of the recommended trial, each worked out when it is asked for."""
    best = recommend(rows).row.trial if rows else None
    chosen = [row for row in rows if row.on_front or row.trial == best]
    return [
        Artifact(
            id=_id(study, f"trial-{row.trial}.json"),
            filename=f"trial-{row.trial}.json",
            open=_config(study, row),
            trial=keys[row.trial],
        )
        for row in chosen
    ]


def _config(study: Study, row: Row) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO((json.dumps(export.config(study, row), indent=2, sort_keys=True) + "\n").encode())


def _id(study: Study, filename: str) -> str:
    return str(uuid5(_ARTIFACTS, f"{study.name}/{filename}"))

"""report.html: one file that explains a study to someone who was not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nas.answer import accuracy_text, count_text, ms_text, percent_more, ratio_text
from nas.effects import Effect, EffectMap, Estimate
from nas.report.effect_figure import interval_text
from nas.report.figures import drawable, figures
from nas.report.look import drawn
from nas.report.macs_figure import macs_sentence
from nas.report.page import FRONT_NOTE, PROGRESS_NOTE, facts_list, write_page
from nas.report.page_text import (
    COORDINATES_NOTE,
    CSS,
    CURVES_NOTE,
    EFFECTS_NOTE,
    MACS_NOTE,
    PICKS_NOTE,
    SCRIPT,
    TURNED_NOTE,
)
from nas.report.story import Story
from nas.report.strip import CSS as STRIP_CSS
from nas.report.strip import strip_html
from nas.report.tables import front_table


def write_report(story: Story, path: str | Path) -> None:
    """Write the page; it needs no network: plotly.js stands in it.

    Args:
        story: What there is to tell; it may be that no trial has finished yet.
        path: The file to write; its folder is made if it does not exist.
    """
    sections = [_head(story)]
    if story.rows:
        plots = {name: drawn(figure, f"figure-{name.replace(' ', '-')}") for name, figure in figures(story).items()}
        sections += [_picks(story), _front(story, plots["pareto"])]
        sections += [_effects(story, plots)] if "accuracy effects" in plots else []
        sections += [_macs(story, plots["macs"])] if "macs" in plots else []
        sections += [_search(plots)]
    sections += [_lost(story)]
    sections += [f'<div id="checks">{"".join(map(_check, story.checks))}</div>'] if story.checks else []
    sections += [_made(story)]
    script = f"<script>{SCRIPT}</script>" if story.rows else ""
    body = "".join(sections) + script
    write_page(path, title=story.name, body=body, with_plots=bool(story.rows), css=STRIP_CSS + CSS)


def _head(story: Story) -> str:
    sentence = story.answer.sentence if story.answer is not None else "No trial has finished yet."
    drawn_names = drawable(story)
    links = [("front", "Front")] if story.rows else []
    links += [("effects", "Effects")] if "accuracy effects" in drawn_names else []
    links += [("macs", "MACs")] if "macs" in drawn_names else []
    links += [("search", "Search")] if story.rows else []
    links += [("checks", "Further findings")] if story.checks else []
    links += [("made", "How it was made")]
    menu = " ".join(f'<a href="#{name}">{words}</a>' for name, words in links)
    about = " · ".join(story.facts[name] for name in ("Backbones", "Trials") if name in story.facts)
    return (
        f'<header><h1>{escape(story.name)}</h1><p class="about">{escape(about)}</p>'
        f'<p class="answer">{escape(sentence)}</p><nav>{menu}</nav></header>'
    )


def _picks(story: Story) -> str:
    """Return what one may take, each with its network drawn and the words by which it is exported."""
    lines = []
    for pick in story.picks:
        row = pick.row
        words = story.commands.to("export", f"{f'--pick {pick.how} ' if pick.how is not None else ''}--out best")
        cells = {
            "what": f"<b>{escape('; '.join(pick.names))}</b>, trial {row.trial}",
            "accuracy %": accuracy_text(row),
            "latency ms": ms_text(row.latency_ms),
            "ratio to bare": ratio_text(row),
            "network": strip_html(row.architecture, story.stages),
        }
        shown = "".join(f'<td data-name="{name}"><span>{cell}</span></td>' for name, cell in cells.items())
        lines.append(f'<tr>{shown}</tr><tr class="command"><td colspan="5"><code>{escape(words)}</code></td></tr>')
    header = "".join(f"<th>{name}</th>" for name in ("what", "accuracy %", "latency ms", "ratio to bare", "network"))
    table = f'<table class="picks"><thead><tr>{header}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f"<section><h2>What to take</h2>{PICKS_NOTE}{table}</section>"


def _front(story: Story, plot: str) -> str:
    data = {row.trial: strip_html(row.architecture, story.stages) + _in_words(story, row.trial) for row in story.rows}
    start = story.answer.row.trial if story.answer is not None else story.rows[0].trial
    data |= {
        each.trial: strip_html(each.architecture, story.stages)
        + f'<span class="figures"><b>trial {each.trial}</b>: {escape(each.reason)}</span>'
        for each in story.stopped
    }
    # "<" is written in JSON's own way, so that no name can end the script.
    shown = json.dumps({"start": start, "trials": data}).replace("<", "\\u003c")
    panel = _panel("figure-pareto")
    limits = TURNED_NOTE if story.turned else ""
    panel += f'<script type="application/json" id="placements">{shown}</script>'
    return (
        f'<section id="front"><h2>Accuracy against latency</h2><div class="plot">{plot}</div>{panel}'
        f"{FRONT_NOTE}{limits}{front_table(story.rows)}</section>"
    )


def _panel(figure: str) -> str:
    """Return the place where the network is drawn of the point that was touched last in a figure."""
    return f'<div class="shown" data-for="{figure}" aria-live="polite"></div>'


def _in_words(story: Story, trial: int) -> str:
    row = next(row for row in story.rows if row.trial == trial)
    words = f"{accuracy_text(row)} %, {ms_text(row.latency_ms)} ms, {ratio_text(row)}× bare, "
    words += f"{count_text(row.parameters)} parameters"
    if story.bare is not None and story.bare.macs and row is not story.bare:
        words += f", {percent_more(row.macs, story.bare.macs)} MACs"
    name = f"trial {trial}" + (f" ({row.control})" if row.control else "")
    return f'<span class="figures"><b>{escape(name)}</b>: {escape(words)}</span>'


def _effects(story: Story, plots: dict[str, str]) -> str:
    assert story.effects is not None
    maps = "".join(
        f'<figure><figcaption>{words}</figcaption><div class="map">{plots[name]}</div></figure>'
        for name, words in (
            ("accuracy effects", "accuracy, percentage points"),
            ("latency effects", "latency, % of the bare backbone's"),
        )
    )
    names = (
        "stage",
        "block",
        "trained with it",
        "accuracy, points",
        "latency, %",
        "pairs",
        "accuracy, pairs",
        "latency, pairs",
    )
    lines = "".join(_effect_line(effect, names) for effect in story.effects.effects)
    header = "".join(f"<th>{name}</th>" for name in names)
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"
    return (
        f'<section id="effects"><h2>What each block does at each stage</h2>{EFFECTS_NOTE}<div class="maps">{maps}</div>'
        f'<p class="note">{escape(trust_sentence(story.effects))} {escape(_untried(story))}</p>'
        f"<details><summary>All effects with their intervals</summary>{table}</details></section>"
    )


def _untried(story: Story) -> str:
    """Return which blocks of the space were never trained to the end; empty if all were."""
    assert story.effects is not None
    names = [block for block in story.blocks if block not in story.effects.blocks]
    return f"Of the space, but never trained to the end: {', '.join(names)}." if names else ""


def trust_sentence(effects: EffectMap) -> str:
    """Return how far the sums of effects may be trusted; empty where too few architectures were trained to tell."""
    noise = effects.noise
    if noise is None or noise.accuracy.explained is None or noise.latency.explained is None:
        return ""
    known = [(noise.accuracy, "accuracy", "points"), (noise.latency, "latency", "% of the bare backbone's")]
    parts = []
    for trust, name, unit in known:
        explained, error = max(0.0, trust.explained or 0.0), 100 * (trust.error or 0.0)
        parts.append(f"{explained:.0%} of the variance of the {name} (error {error:.1f} {unit})")
    return (
        f"How far sums of effects can be trusted: when each of the {effects.rows} architectures is predicted from all "
        f"others, they explain {' and '.join(parts)}."
    )


def _effect_line(effect: Effect, names: Sequence[str]) -> str:
    def pair(estimate: Estimate | None) -> str:
        return "" if estimate is None else interval_text(estimate)

    where = str(effect.stage) + ("" if effect.position == "after_stage" else f" {effect.position}")
    cells = [where, effect.block, str(effect.n), interval_text(effect.accuracy), interval_text(effect.latency)]
    cells += [str(effect.pairs), pair(effect.pair_accuracy), pair(effect.pair_latency)]
    shown = zip(names, cells, strict=True)
    columns = "".join(f'<td data-name="{name}"><span>{escape(cell)}</span></td>' for name, cell in shown)
    return f"<tr>{columns}</tr>"


def _macs(story: Story, plot: str) -> str:
    return (
        f'<section id="macs"><h2>Latency against counted operations</h2><p>{escape(macs_sentence(story.rows))}</p>'
        f'<div class="plot middle">{plot}</div>{MACS_NOTE}</section>'
    )


def _search(plots: dict[str, str]) -> str:
    parts = ['<section id="search"><h2>How the search went</h2>']
    if "progress" in plots:
        parts.append(f'{PROGRESS_NOTE}<div class="plot low">{plots["progress"]}</div>')
    curves = f'<div class="plot middle">{plots["curves"]}</div>{_panel("figure-curves")}'
    lines = f'<div class="wide"><div class="plot middle lines">{plots["coordinates"]}</div></div>'
    parts.append(f"<h3>Learning curves</h3>{CURVES_NOTE}{curves}<h3>Every trial across the stages</h3>")
    return "".join([*parts, COORDINATES_NOTE, lines, _panel("figure-coordinates"), "</section>"])


def _lost(story: Story) -> str:
    """Return what was not trained to the end, and why."""
    groups = [
        ("stopped early", [(each.trial, each.architecture.describe(), each.reason) for each in story.stopped]),
        (
            "beyond the limits",
            [
                (each.rejected.trial, each.rejected.architecture.describe(), each.rejected.reason)
                for each in story.turned
            ],
        ),
        ("failed", [(number, "", reason) for number, reason in story.failures]),
    ]
    parts = []
    for name, found in groups:
        if found:
            lines = "".join(
                f"<li>trial {number}{f': {escape(words)}' if words else ''} — {escape(reason)}</li>"
                for number, words, reason in found
            )
            parts.append(f"<details><summary>{len(found)} {name}</summary><ul>{lines}</ul></details>")
    return f"<section><h2>Not trained to the end</h2>{''.join(parts)}</section>" if parts else ""


def _check(text: str) -> str:
    return f'<section class="check">{markdown(text)}</section>'


def _made(story: Story) -> str:
    commands = escape("\n".join(story.commands.lines()))
    listed = f"<h3>Commands</h3><pre><code>{commands}</code></pre>"
    return (
        f'<section id="made"><h2>How it was made</h2>{facts_list(story.facts)}{listed}'
        f"<details><summary>The whole protocol</summary>{facts_list(story.protocol)}</details></section>"
    )


def markdown(text: str) -> str:
    """Return Markdown as HTML, one heading lower; what it holds of HTML, links and images stays text."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["link", "image", "autolink", "reference"])  # no verb writes any: they would be somebody's names
    return str(reader.render(text)).replace("h2>", "h3>").replace("h1>", "h2>")

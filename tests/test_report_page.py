"""report.html: what it tells, that nothing leaves the machine, and that no name can break it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas import report
from nas.architecture import Architecture, Placement
from nas.command import Commands
from nas.effects import effects
from nas.front import Row, front
from nas.limits import Limits
from nas.pareto import limit_ms, pareto_data
from nas.report.coordinates_figure import MOST, coordinates_figure
from nas.report.curves_figure import curves_figure
from nas.report.effect_figure import effect_figure
from nas.report.look import plotly_js
from nas.report.macs_figure import macs_figure, macs_sentence
from nas.report.report_page import markdown
from nas.report.story import Story, Turned
from nas.report.strip import boxes, strip_html
from nas.study import Rejected, Stopped
from tests.test_report import HOSTILE, Elements, make_rows, replaced

STAGES = ((1, "layer1"), (2, "layer2"), (3, "layer3"), (4, "layer4"))


class Hashable(SimpleNamespace):
    """Stands for an architecture or a placement that the real ones would refuse to be."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def make_story(count: int = 30, **given: object) -> Story:
    rows = given.pop("rows", None) or make_rows(count)
    curves = {row.trial: (row.accuracy - 0.2, row.accuracy - 0.1, row.accuracy) for row in rows}
    spent = {row.trial: row.trial + 1.0 for row in rows}
    whole = {"name": "a study", "rows": rows, "stages": STAGES, "curves": curves, "spent": spent, "gained": None}
    whole |= {"facts": {"Backbones": "resnet18", "Trials": f"{len(rows)} finished"}, "protocol": {"epochs": "3"}}
    whole |= {"commands": Commands(flags="--study a", begun="python run_search.py --budget 50")}
    return Story(**{**whole, **given})


def page_of(story: Story, tmp_path: Path) -> str:
    report.write_report(story, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def stopped_at(trial: int, epochs: int = 2) -> Stopped:
    architecture = Architecture(backbone="resnet18", placements=(Placement(stage=2, block="gc"),))
    return Stopped(trial, architecture, f"stopped after epoch {epochs}: <b>another</b>", (0.3, 0.4)[:epochs])


def turned_away(trial: int, latency_ms: float) -> Turned:
    architecture = Architecture(backbone="resnet18", placements=(Placement(stage=2, block="gam"),))
    return Turned(rejected=Rejected(trial, architecture, "9 ms, where 4 ms are allowed", 1.25), latency_ms=latency_ms)


def test_the_page_tells_everything(tmp_path: Path) -> None:
    story = make_story(stopped=[stopped_at(70)], turned=[turned_away(71, 3.5)], failures=[(72, "loss is NaN")])
    elements = Elements(page_of(dataclasses.replace(story, checks=("# Can it be trusted?\n\nyes",)), tmp_path))
    text = elements.text
    assert story.answer is not None
    for words in (
        story.answer.sentence,
        "What to take",
        "knee of the front",
        "python run_search.py export --study a --pick accuracy --out best",
        f"Front: {len(front(story.rows))} of 30 finished trials",
        "What each block does at each stage",
        macs_sentence(story.rows),
        "trial 70: 2: gc",
        "stopped after epoch 2: <b>another</b>",
        "trial 71: 2: gam",
        "loss is NaN",
        "Can it be trusted?",
        "python run_search.py --budget 50",
        "The whole protocol",
    ):
        assert words in text, words
    drawn = {attributes["id"] for _, attributes in elements.found if (attributes.get("id") or "").startswith("figure-")}
    assert drawn == {f"figure-{name.replace(' ', '-')}" for name in report.FIGURES}
    identifiers = [attributes["id"] for _, attributes in elements.found if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("count", [0, 1, 2, 5, 300])
def test_any_number_of_trials_makes_a_page(count: int, tmp_path: Path) -> None:
    page = page_of(make_story(count, rows=make_rows(count)), tmp_path)
    assert ("No trial has finished yet." in Elements(page).text) == (count == 0)
    assert page.count(plotly_js().decode()) == (count > 0)
    assert len(page) < 6_000_000


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = page_of(make_story(checks=("![picture](https://example.org/a.png) [link](https://example.org)",)), tmp_path)
    elements = Elements(page)
    policy = [attributes["content"] for tag, attributes in elements.found if tag == "meta" and "content" in attributes]
    assert any(words and words.startswith("default-src 'none'; script-src 'unsafe-inline';") for words in policy)
    own = page.replace(plotly_js().decode(), "")
    assert not re.search(r"url\(|@import|<link|<iframe|src=\"http", own.replace('<img src="https://example.org', ""))
    assert '"showSendToCloud": false' in own


def test_no_name_can_break_the_page(tmp_path: Path) -> None:
    rows = make_rows(6)
    placed = {"stage": 1, "position": "in_residual", "init": "paper"}
    placement = Hashable(**placed, block=HOSTILE, options={"kernel_size": HOSTILE})
    whole = {"backbone": "resnet18", "placements": (placement,), "id": "0123456789ab"}
    hostile = Hashable(**whole, describe=lambda: f"1: {HOSTILE}")
    rows[5] = replaced(rows[5], architecture=hostile, accuracy=0.999, accuracy_low=0.99, accuracy_high=1.0)
    rows[1] = replaced(rows[1], control=f"{HOSTILE} everywhere")
    facts = {"Backbones": HOSTILE, "Trials": HOSTILE, HOSTILE: HOSTILE}
    named = {
        "name": HOSTILE,
        "facts": facts,
        "commands": Commands(flags=HOSTILE, begun=HOSTILE),
        "failures": [(7, HOSTILE)],
        "protocol": facts,
    }
    page = page_of(make_story(rows=rows, checks=(HOSTILE,), **named), tmp_path)
    assert "<script>alert" not in page.replace(plotly_js().decode(), "")
    assert Elements(page).text.count(HOSTILE) >= 8


def test_what_the_panel_shows_of_every_point(tmp_path: Path) -> None:
    story = make_story()
    page = page_of(story, tmp_path)
    found = re.search(r'<script type="application/json" id="placements">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    told = json.loads(found[1])
    assert story.answer is not None
    assert told["start"] == story.answer.row.trial
    assert set(told["trials"]) == {str(row.trial) for row in story.rows}
    row = next(row for row in story.rows if row.architecture.placements)
    shown = told["trials"][str(row.trial)]
    assert strip_html(row.architecture, STAGES) in shown
    assert f"<b>trial {row.trial}" in shown


def test_a_network_is_drawn_as_its_stages() -> None:
    architecture = Architecture(
        backbone="resnet18",
        placements=(
            Placement(stage=2, block="se", options={"reduction": 8}),
            Placement(stage=5, block="eca", options={"kernel_size": 3}, position="in_residual"),
        ),
    )
    assert boxes(architecture, STAGES) == [
        (1, []),
        (2, [("se", "reduction=8")]),
        (3, []),
        (4, []),
        (5, [("eca in_residual", "kernel_size=3")]),
    ]
    html = strip_html(architecture, STAGES)
    assert html.count("<span>") == 3
    assert html.count('<span class="on">') == 2


def test_the_region_beyond_the_limit_is_shaded_and_what_was_turned_away_is_marked() -> None:
    rows = make_rows(20)
    slowest = max(row.latency_ms for row in rows)
    limits = Limits(latency_ms=slowest + 0.1)
    turned = [turned_away(50, slowest + 0.11), turned_away(51, 1000.0)]
    figure = report.pareto_figure(rows, limits=limits, turned=turned)
    (shade,) = figure.layout.shapes
    low, high = figure.layout.xaxis.range
    assert (shade.x0, shade.x1) == (limits.latency_ms, high)
    assert low < slowest < shade.x0 < high
    (foot,) = [trace for trace in figure.data if trace.name == "beyond the limits, not trained"]
    assert list(foot.x) == [slowest + 0.11]  # the other one is far off the axis
    assert "beyond the limit" in [note.text for note in figure.layout.annotations]


def test_limits_that_cannot_be_seen_are_not_drawn() -> None:
    rows = make_rows(20)
    assert not report.pareto_figure(rows, limits=Limits(latency_ms=1e6)).layout.shapes
    assert not report.pareto_figure(rows, limits=Limits(parameters=1)).layout.shapes
    assert limit_ms(rows, Limits(slowdown=0.1, latency_ms=99.0)) == pytest.approx(3.3)
    assert limit_ms(rows[1:], Limits(slowdown=0.1)) is None  # of which backbone?
    assert pareto_data(rows).limit_ms is None


def test_every_point_names_its_trial() -> None:
    rows = make_rows(20)
    named = [number for trace in report.pareto_figure(rows).data for number in (trace.customdata or ())]
    assert sorted(named) == [row.trial for row in rows]


def test_the_maps_show_every_effect_and_mark_what_is_in_doubt() -> None:
    found = effects(make_rows(30))
    for what in ("accuracy", "latency"):
        (trace,) = effect_figure(found, what).data
        cells = {
            (stage, block): (value, text)
            for block, values, texts in zip(found.blocks, trace.z, trace.text, strict=True)
            for stage, value, text in zip(found.stages, values, texts, strict=True)
        }
        for effect in found.effects:
            estimate = getattr(effect, what)
            value, text = cells[effect.stage, effect.block]
            assert value == pytest.approx(100 * estimate.value)
            number = f"{100 * estimate.value:+.1f}"
            assert text == (number if estimate.low > 0 or estimate.high < 0 else f"({number})")
    with pytest.raises(ValueError, match="the map shows accuracy or latency, but got 'loss'"):
        effect_figure(found, "loss")


def test_positions_of_one_stage_have_columns_of_their_own() -> None:
    rows = make_rows(1)
    for trial, position in ((1, "after_stage"), (2, "in_residual")):
        placement = Placement(stage=2, block="se", position=position)
        architecture = Architecture(backbone="resnet18", placements=(placement,))
        rows.append(replaced(rows[0], trial=trial, control="", architecture=architecture))
    figure = effect_figure(effects(rows), "latency")
    assert list(figure.layout.xaxis.ticktext) == ["<b>stage 2</b>", "<b>stage 2</b><br>in residual"]


def test_curves_are_whole_and_apart() -> None:
    story = make_story(10, stopped=[stopped_at(20), stopped_at(21, epochs=1)])
    named = {trace.name: trace for trace in curves_figure(story).data}
    assert list(named["bare backbone"].y)[:3] == pytest.approx([100 * share for share in story.curves[0]])
    assert list(named["stopped early"].x) == [1, 2, None, 1, None]
    assert list(named["stopped early"].marker.size) == [0, 7, 0, 7, 0]
    drawn = sum(list(trace.x).count(None) for trace in named.values())
    assert drawn == 12  # each curve ends with a gap


def test_coordinates_cross_every_axis_where_they_should() -> None:
    story = make_story(30)
    figure = coordinates_figure(story)
    lines: dict[int, list[float]] = {}
    for trace in figure.data:
        for x, y, trial in zip(trace.x, trace.y, trace.customdata, strict=True):
            if x is not None:
                lines.setdefault(trial, []).append(y)
    assert set(lines) == {row.trial for row in story.rows}
    best, slowest = max(story.rows, key=lambda row: row.accuracy), max(story.rows, key=lambda row: row.latency_ratio)
    assert lines[best.trial][5] == 1
    assert lines[slowest.trial][4] == 1
    bare = lines[0]
    names = {note.text: note.y for note in figure.layout.annotations if note.x == 0}
    assert abs(bare[0] - names["none"]) < abs(bare[0] - names["se"])
    assert all(0 <= y <= 1 for line in lines.values() for y in line)


def test_coordinates_of_many_trials_are_the_most_accurate_ones() -> None:
    story = make_story(MOST + 50)
    drawn = {trial for trace in coordinates_figure(story).data for trial in trace.customdata}
    best = sorted(story.rows, key=lambda row: (-row.accuracy, row.latency_ms, row.trial))[:MOST]
    assert drawn == {row.trial for row in best}


def counted(row: Row, macs: float, ratio: float, trial: int) -> Row:
    architecture = Architecture(backbone="resnet18", placements=(Placement(stage=1, block="se"),))
    figures = {"latency_ratio": ratio, "ratio_low": ratio, "ratio_high": ratio, "latency_ms": 3 * ratio}
    return replaced(row, trial=trial, control="", architecture=architecture, macs=round(row.macs * macs), **figures)


def test_flops_mislead_by_what_was_measured() -> None:
    bare = replaced(make_rows(1)[0], latency_ratio=1.0, ratio_low=1.0, ratio_high=1.0, latency_ms=3.0)
    rows = [bare, counted(bare, 1.01, 1.5, 1), counted(bare, 1.02, 1.1, 2), counted(bare, 1.03, 1.2, 3)]
    assert macs_sentence(rows) == (
        "Over 3 architectures with blocks the median change of the multiply-accumulates is +2.0%, that of the latency "
        "+20.0%; the rank correlation of the two is -0.50. FLOPs mislead most about trial 1: +1.0% "
        "multiply-accumulates, +50.0% latency."
    )
    slow = [bare, counted(bare, 4.0, 1.15, 1), counted(bare, 1.011, 1.01, 2), counted(bare, 1.02, 1.005, 3)]
    assert "most about trial 1: +300.0% multiply-accumulates, +15.0% latency" in macs_sentence(slow)
    figure = macs_figure(rows)
    equal = figure.data[0]
    assert list(equal.x) == list(equal.y)
    points = [point for trace in figure.data[1:] for point in zip(trace.x, trace.y, strict=True)]
    assert sorted(points) == [pytest.approx(point) for point in ((1, 50), (2, 10), (3, 20))]
    assert macs_sentence(rows[:2]) == ""
    assert macs_sentence(rows[1:]) == ""


def test_only_what_can_be_drawn_is_drawn() -> None:
    assert report.drawable(make_story(0, rows=[])) == []
    assert report.drawable(make_story(1)) == ["pareto", "curves", "coordinates"]
    assert report.drawable(make_story(10)) == list(report.FIGURES)
    assert set(report.figures(make_story(10))) == set(report.FIGURES)


def test_markdown_is_shown_and_its_html_is_not() -> None:
    shown = markdown("# title\n\n| a | b |\n|---|---|\n| 1 | <b>2</b> |\n\n<script>alert(1)</script>\n")
    assert "<h2>title</h2>" in shown
    assert "<td>&lt;b&gt;2&lt;/b&gt;</td>" in shown
    assert "<script>" not in shown


def test_pictures_need_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.graph_objects as go

    def no_browser(*_: object, **__: object) -> bytes:
        raise RuntimeError("Kaleido requires Google Chrome\nto be installed")

    monkeypatch.setitem(__import__("sys").modules, "kaleido", SimpleNamespace())
    monkeypatch.setattr(go.Figure, "to_image", no_browser)
    with pytest.raises(
        report.PictureError, match="pictures take Chrome or Chromium: Kaleido requires Google Chrome to"
    ):
        list(report.write_pictures(make_story(3), tmp_path))
    monkeypatch.setattr(go.Figure, "to_image", lambda *_, **__: b"a picture")
    paths = list(report.write_pictures(make_story(3), tmp_path))
    assert [path.name for path in paths] == [f"{name.replace(' ', '-')}.png" for name in report.drawable(make_story(3))]
    assert paths[0].read_bytes() == b"a picture"
    monkeypatch.setitem(__import__("sys").modules, "kaleido", None)
    with pytest.raises(report.PictureError, match="pictures take kaleido: pip install"):
        list(report.write_pictures(make_story(3), tmp_path))

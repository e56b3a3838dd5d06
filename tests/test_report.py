"""front.csv and pareto.html: what they hold, that nothing leaves the machine, and that no name can break them."""

from __future__ import annotations

import csv
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas import pareto
from nas.answer import recommend
from nas.architecture import Architecture, Placement
from nas.confirm import with_probabilities
from nas.evaluation import wilson_interval
from nas.front import Row, front
from nas.pareto import accuracy_interval, hover_text, pareto_data
from nas.progress import history, last_gain
from nas.report import pareto_figure, progress_figure, write_front_csv, write_pareto
from nas.report.look import plotly_js
from nas.report.progress_figure import _anchor

CONTROLS = ("bare", "se everywhere", "eca everywhere", "cbam everywhere")
HOSTILE = "<script>alert('x')</script> & \"y\""


def make_rows(count: int, seed: int = 0) -> list[Row]:
    """A study: the controls, then trials whose accuracy grows with their latency, roughly."""
    choose = random.Random(seed)
    rows = []
    for trial in range(count):
        control = CONTROLS[trial] if trial < len(CONTROLS) else ""
        blocks = [control.split()[0]] * 4 if control else [choose.choice(("", "se", "eca", "cbam")) for _ in range(4)]
        placements = [Placement(stage=k + 1, block=b) for k, b in enumerate(blocks) if b and b != "bare"]
        ratio = 1 + 0.05 * len(placements) + choose.random() / 100
        accuracy = round(300 * min(1, 0.88 + 0.1 * (ratio - 1) + choose.gauss(0, 0.02))) / 300
        low, high = wilson_interval(accuracy, 300)
        rows.append(
            Row(
                trial=trial,
                architecture=Architecture(backbone="resnet18", placements=tuple(placements)),
                control=control,
                accuracy=accuracy,
                accuracy_low=low,
                accuracy_high=high,
                latency_ms=3 * ratio,
                latency_ratio=ratio,
                ratio_low=0.98 * ratio,
                ratio_high=1.03 * ratio,
                parameters=11_000_000 + trial,
                macs=1_800_000_000,
            )
        )
    return rows


def replaced(row: Row, **changes: object) -> Row:
    return Row(**{**vars(row), **changes})


def page_of(rows: list[Row], tmp_path: Path, **given: object) -> str:
    path = tmp_path / "study" / "pareto.html"
    write_pareto(rows, path, **{"title": "a study", "facts": {"device": "a CPU"}, **given})
    assert [entry.name for entry in path.parent.iterdir()] == ["pareto.html"]
    return path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Collects the page's elements and the text outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("script", "style"):
            self.text += data


def test_csv_has_one_row_a_trial_and_exact_figures(tmp_path: Path) -> None:
    rows = make_rows(12)
    write_front_csv(reversed(rows), tmp_path / "front.csv")
    with (tmp_path / "front.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    expected = (
        "trial architecture accuracy accuracy_low accuracy_high latency_ms latency_ratio ratio_low ratio_high "
        "parameters macs on_front control placements seeds seed_error seed_degrees front_probability unstable "
        "graph_ratio memory_bytes"
    )
    assert lines[0] == expected.split()
    assert [int(line[0]) for line in lines[1:]] == list(range(12))
    assert [line[1] for line in lines[1:]] == [row.architecture.id for row in rows]
    assert [float(line[2]) for line in lines[1:]] == [row.accuracy for row in rows]
    assert [float(line[8]) for line in lines[1:]] == [row.ratio_high for row in rows]
    assert {int(line[0]) for line in lines[1:] if line[11] == "True"} == {row.trial for row in front(rows)}
    assert [line[12] for line in lines[1:5]] == list(CONTROLS)
    assert lines[1][13] == "bare backbone"
    assert lines[2][13].startswith("1: se(reduction=16); 2: se(reduction=16);")
    assert lines[1][14:] == ["1", "", "0", "", "False", "", "0"]


def with_noise(rows: list[Row]) -> list[Row]:
    known = [
        replaced(row, seed_error=0.01 / 2 ** (not k), seed_degrees=3, seeds=1 + 3 * (not k))
        for k, row in enumerate(rows)
    ]
    return with_probabilities(known)


def test_known_noise_of_the_seed_is_shown_everywhere(tmp_path: Path) -> None:
    rows = with_noise(make_rows(20))
    write_front_csv(rows, tmp_path / "front.csv")
    with (tmp_path / "front.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["seed_error"]) for line in lines] == [0.005] + [0.01] * 19
    assert [line["seeds"] for line in lines] == ["4"] + ["1"] * 19
    assert [float(line["front_probability"]) for line in lines] == [row.front_probability for row in rows]
    text = Elements(page_of(rows, tmp_path)).text
    # Student's 97.5 % quantile for 3 degrees of freedom is 3.182.
    assert "±1.6" in text
    assert "±3.2" in text
    assert "± for the training seed (3 degrees of freedom)" in text
    member = next(row for row in front(rows) if row.trial)
    assert f"on the front with probability {member.front_probability:.0%}".replace("%", " %") in hover_text(member, ())
    assert "(mean of 4 seeds)" in hover_text(rows[0], ())
    low, high = pareto_data(rows).axes.y
    for row in front(rows):
        half = ((row.accuracy - row.accuracy_low) ** 2 + (3.182 * row.seed_error) ** 2) ** 0.5
        assert accuracy_interval(row)[0] == pytest.approx(row.accuracy - half, abs=1e-4)
        assert low < 100 * accuracy_interval(row)[0] < 100 * accuracy_interval(row)[1] < high


def test_csv_of_nothing_is_its_header(tmp_path: Path) -> None:
    write_front_csv([], tmp_path / "front.csv")
    assert (tmp_path / "front.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("write", [write_front_csv, lambda rows, path: write_pareto(rows, path, title="", facts={})])
def test_a_failed_write_leaves_the_old_file_whole(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write(make_rows(3), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_data_puts_every_row_in_its_group() -> None:
    rows = make_rows(40)
    data = pareto_data(rows)
    on_front = {row.trial for row in front(rows)}
    assert [row.trial for row in data.controls] == [0, 1, 2, 3]
    assert {row.trial for row in data.front} == on_front
    assert {row.trial for row in data.others} == set(range(4, 40)) - on_front
    assert data.recommended is not None
    assert data.recommended.trial == recommend(rows).row.trial
    assert data.stages == (1, 2, 3, 4)
    assert set(data.labels) == {0, 1, 2, 3}


def test_axes_hold_every_interval() -> None:
    data = pareto_data(make_rows(20))
    for row in data.front + data.controls:
        assert data.axes.y[0] < 100 * row.accuracy_low < 100 * row.accuracy_high < data.axes.y[1]
        assert data.axes.x[0] < 0.98 * row.latency_ms < 1.03 * row.latency_ms < data.axes.x[1]


def test_upper_axis_shows_round_ratios_to_the_bare_backbone() -> None:
    rows = make_rows(20)
    data = pareto_data(rows)
    assert 2 <= len(data.ratio_ticks) <= 6
    # The bare backbone is timed against itself like all others, so it need not stand at exactly 1×.
    reference_ms = rows[0].latency_ms / rows[0].latency_ratio
    assert "1×" in [text for _, text in data.ratio_ticks]
    for place, text in data.ratio_ticks:
        assert place == pytest.approx(reference_ms * float(text[:-1]))
    assert pareto_data(rows[1:]).ratio_ticks == []


@pytest.mark.parametrize("seed", range(5))
def test_labels_do_not_overlap_on_a_phone_or_a_desk(seed: int) -> None:
    data = pareto_data(make_rows(40, seed))
    for size in pareto.PLOT_SIZES_PX:
        boxes = [pareto.label_box(row, data.labels[row.trial], data.axes, size) for row in data.controls]
        for k, box in enumerate(boxes):
            assert box[0] >= 0
            assert box[2] <= size[0]
            assert not any(pareto.overlap(box, other) for other in boxes[:k])


def test_hover_tells_the_placement_of_every_stage() -> None:
    row = replaced(
        make_rows(5)[4],
        architecture=Architecture(
            backbone="resnet18", placements=(Placement(stage=2, block="se", options={"reduction": 8}),)
        ),
        accuracy=0.9,
        accuracy_low=0.861,
        accuracy_high=0.929,
        latency_ms=3.3,
        latency_ratio=1.1,
        ratio_low=1.08,
        ratio_high=1.13,
    )
    assert hover_text(row, (1, 2, 4)).split("<br>") == [
        "<b>trial 4</b>",
        "1 □  2 ■  4 □",
        "stage 1: none",
        "stage 2: se reduction=8",
        "stage 4: none",
        "accuracy 90.0 [86.1, 92.9] %",
        "latency 3.300 ms",
        "ratio to bare 1.100 [1.080, 1.130]",
        "11.0 M parameters, 1.80 G MACs",
    ]
    bare = replaced(row, trial=0, parameters=10_000_000, macs=1_797_000_000, latency_ratio=1.0)
    assert hover_text(row, (1, 2, 4), bare).split("<br>")[-1] == "parameters +10.0%, MACs +0.2%, latency +10.0%"
    replayed = replaced(row, graph_ratio=1.05, memory_bytes=3 * 2**19)
    assert set(hover_text(replayed, ()).split("<br>")) > {"as CUDA graphs 1.050", "1.5 MiB in a forward pass"}
    assert hover_text(bare, (), bare).split("<br>")[-1].endswith("MACs")


def test_figure_marks_front_controls_and_recommendation() -> None:
    rows = make_rows(40)
    figure = pareto_figure(rows, title="a <b>title</b>", subtitle="below")
    named = {trace.name: trace for trace in figure.data if trace.name}
    assert set(named) == {"other trials", "front", "bare backbone", *CONTROLS[1:], "recommended"}
    line = next(trace for trace in figure.data if trace.mode == "lines")
    assert line.line.shape == "hv"
    assert list(line.x) == [row.latency_ms for row in front(rows)]
    symbols = [named[name].marker.symbol for name in ("front", "bare backbone", *CONTROLS[1:], "recommended")]
    assert len(set(symbols)) == len(symbols)
    bare = named["bare backbone"]
    assert bare.error_y.array[0] == pytest.approx(100 * (rows[0].accuracy_high - rows[0].accuracy))
    assert bare.error_x.arrayminus[0] == pytest.approx(0.02 * rows[0].latency_ms)
    assert [note.text for note in figure.layout.annotations][:4] == ["bare", "se", "eca", "cbam"]
    assert figure.layout.title.text == "a &lt;b&gt;title&lt;/b&gt;"


def test_progress_shows_the_area_and_its_last_growth() -> None:
    rows = make_rows(40)
    spent = {trial: 1.5 * (trial + 1) for trial in range(40)}
    figure = progress_figure(reversed(rows), spent)
    (trace,) = figure.data
    known = [(spent[trial], 100 * share) for trial, share in history(rows)]
    assert list(zip(trace.x, trace.y, strict=True)) == known
    assert trace.line.shape == "hv"
    gain = last_gain(rows)
    assert 0 < gain < 39
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1, line.line.dash) == (spent[gain], spent[gain], "dot")
    (words,) = figure.layout.annotations
    assert (words.x, words.text) == (spent[gain], f"front last grew beyond noise: trial {gain}")
    assert figure.layout.yaxis.range[0] == 0 < 100 < figure.layout.yaxis.range[1]
    assert figure.layout.xaxis.range[0] == 0 < 60 < figure.layout.xaxis.range[1]
    assert list(progress_figure(rows).data[0].x) == list(range(1, 41))


@pytest.mark.parametrize("size", pareto.PLOT_SIZES_PX)
def test_the_label_of_the_last_growth_stays_on_the_screen(size: tuple[float, float]) -> None:
    width = 6 * len("front last grew beyond noise: trial 1000")
    for percent in range(101):
        begins = {"left": 0.0, "center": -0.5, "right": -1.0}[_anchor(percent / 100)]
        left = size[0] * percent / 100 + width * begins
        assert left >= -75, percent
        assert left + width <= size[0] + 16, percent


def test_progress_goes_on_while_trainings_are_stopped() -> None:
    rows = make_rows(6)
    spent = {trial: trial + 1.0 for trial in range(6)}
    longer = progress_figure(rows, {**spent, 6: 6.5, 7: 7.0}).data[0]
    assert list(longer.x) == [*spent.values(), 7.0]
    assert list(longer.y)[-1] == 100
    assert list(progress_figure(rows, spent).data[0].x) == list(spent.values())


def test_the_mark_of_the_last_growth_may_be_the_study_s_own() -> None:
    (line,) = progress_figure(make_rows(6), gained=2).layout.shapes
    assert line.x0 == line.x1 == 3  # that of the third training


@pytest.mark.parametrize(("count", "drawn"), [(0, False), (1, False), (2, True), (50, True)])
def test_progress_is_drawn_from_two_trials_on(count: int, drawn: bool, tmp_path: Path) -> None:
    page = page_of(make_rows(count), tmp_path)
    assert page.count(plotly_js().decode()) == (count > 0)
    elements = Elements(page)
    assert ("Progress" in elements.text) == drawn
    assert ("progress" in {attributes.get("id") for _, attributes in elements.found}) == drawn
    assert ("front last grew beyond noise: trial" in page) == drawn
    if drawn:  # beneath the table, above the facts
        assert elements.text.index("finished trials") < elements.text.index("Progress") < elements.text.index("Facts")


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_page_and_figure_of_any_number_of_rows(count: int, tmp_path: Path) -> None:
    rows = make_rows(count)
    pareto_figure(rows)
    elements = Elements(page_of(rows, tmp_path))
    assert ("No trial has finished yet." in elements.text) == (count == 0)
    assert "a CPU" in elements.text
    if count:
        assert recommend(rows).sentence in elements.text
        assert f"Front: {len(front(rows))} of {count} finished trials" in elements.text


def test_equal_rows_can_be_drawn(tmp_path: Path) -> None:
    equal = make_rows(1)[0]
    rows = [equal, *(replaced(equal, trial=trial, control="") for trial in (1, 2))]
    low, high = pareto_data(rows).axes.x
    assert low < equal.latency_ms < high
    assert "Front: 3 of 3 finished trials" in Elements(page_of(rows, tmp_path)).text


def test_page_needs_no_network_and_offers_no_upload(tmp_path: Path) -> None:
    page = page_of(make_rows(30), tmp_path)
    for tag, attributes in Elements(page).found:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    own = page.replace(plotly_js().decode(), "")
    assert len(own) < 100_000 < 4_000_000 < len(page) < 6_000_000
    assert not re.search(r"https?://|url\(|@import", own)
    assert '"modeBarButtonsToRemove": ["sendChartToCloud"' in own
    assert '"showSendToCloud": false' in own


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    rows = make_rows(6)
    placement = SimpleNamespace(stage=1, position="in_residual", block=HOSTILE, options={"kernel_size": HOSTILE})
    hostile = SimpleNamespace(placements=(placement,), describe=lambda: f"1: {HOSTILE}", id="0123456789ab")
    rows[5] = replaced(rows[5], architecture=hostile, accuracy=0.999, accuracy_low=0.99, accuracy_high=1.0)
    rows[1] = replaced(rows[1], control=f"{HOSTILE} everywhere")
    page = page_of(rows, tmp_path, title=HOSTILE, facts={HOSTILE: HOSTILE})
    own = page.replace(plotly_js().decode(), "")
    assert "<script>alert" not in own
    assert "&lt;script&gt;alert" in hover_text(rows[5], (1,))
    assert "in_residual" in hover_text(rows[5], (1,))
    elements = Elements(page)
    assert f"Take trial 5 (1: {HOSTILE})" in elements.text
    assert elements.text.count(HOSTILE) >= 5


def test_importing_the_report_does_not_import_plotly() -> None:
    code = (
        "import sys, nas.report; sys.exit(any(m.split('.')[0] in ('plotly', 'torch', 'optuna') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

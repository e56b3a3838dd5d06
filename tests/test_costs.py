"""The table of costs: what is measured, how it is shown, and the verb ``costs``."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from plotly.offline import get_plotlyjs
from torch import nn

from nas import cost_table, costs, heatmap
from nas.architecture import Stage
from nas.attention import BLOCKS
from nas.attention.spec import COSTS
from nas.cli import main, parser
from nas.cost_table import Added, Cell, Costs
from nas.verbs.costs import _costs_name


class Clock:
    """Goes on by a millisecond whenever it is read."""

    def __init__(self) -> None:
        self._ticks = itertools.count(0, 1_000_000)

    def __call__(self) -> int:
        return next(self._ticks)


def cell(block: str = "se", stage: int = 0, percent: float = 1.0, note: str = "") -> Cell:
    added = Added(
        ms=percent / 10,
        ms_low=percent / 10 - 0.01,
        ms_high=percent / 10 + 0.01,
        percent=percent,
        percent_low=percent - 0.1,
        percent_high=percent + 0.1,
        bare_ms=10.0,
        samples=20,
    )
    return Cell(
        block=block,
        stage=Stage(index=stage, name=f"layer{stage}", channels=64 * 2**stage, reduction=2),
        height=32 >> stage,
        width=32 >> stage,
        options={},
        parameters=None if note else 100,
        macs=None if note else 2000,
        added=None if note else added,
        note=note,
    )


def made(*cells: Cell) -> Costs:
    return Costs(
        backbone="resnet18",
        resolution=64,
        batch_size=1,
        precision="float32",
        device="cpu: <fast>",
        bare_ms=10.0,
        bare_best_ms=9.0,
        cells=cells,
    )


def quick(**settings: object) -> Costs:
    arguments = {"resolution": 32, "device": "cpu", "budget_seconds": 1e-6, "blocks": ("cbam", "eca"), **settings}
    return costs.measure("test_resnet", **arguments)  # type: ignore[arg-type]


def test_every_block_at_every_stage() -> None:
    seen: list[Cell] = []
    numbers: list[int] = []
    # One block of each class; that every block runs on every map is tested in tests/attention.
    names = list({spec.cost: spec.name for spec in BLOCKS.values()}.values())
    table = quick(blocks=names[::-1], on_start=numbers.append, on_cell=seen.append)
    assert numbers == [5 * len(names)]
    assert tuple(seen) == table.cells
    assert [(row[0].block, [cell.stage.index for cell in row]) for row in cost_table.by_block(table)] == [
        (name, [0, 1, 2, 3, 4]) for name in sorted(names, key=lambda name: COSTS.index(BLOCKS[name].cost))
    ]
    for found in table.cells:
        spec = BLOCKS[found.block]
        assert (found.note == "") == (found.added is not None)
        if found.added is not None:
            assert found.options == spec.canonical({}, found.stage.channels)
            assert (found.parameters, found.macs) == spec.count({}, found.stage.channels, found.height, found.width)
            assert found.added.samples == 6  # however small the budget, as many as an interval takes
            assert found.added.percent_low <= found.added.percent <= found.added.percent_high
            assert found.added.ms_low <= found.added.ms <= found.added.ms_high


def test_all_blocks_are_the_default() -> None:
    assert sorted(costs._check(None, 32, 1, "float32", 1.0)) == sorted(BLOCKS)
    assert costs._check(["gam", "se", "gam"], 32, 1, "float32", 1.0) == ["se", "gam"]


def test_what_the_marks_take_is_subtracted() -> None:
    # Bare pass, block and empty pass all last one tick of this clock: nothing is left of the block.
    for found in quick(clock=Clock()).cells:
        assert found.added is not None
        assert (found.added.ms, found.added.percent) == (0.0, 0.0)


def test_a_cell_that_is_known_takes_no_more_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs._Bench, "_sample", lambda self, block, source: (1_000_000, 20_000))
    assert {found.added and found.added.samples for found in quick(budget_seconds=60).cells} == {10}
    times = itertools.cycle([(1_000_000, 10_000), (1_000_000, 900_000)])
    monkeypatch.setattr(costs._Bench, "_sample", lambda self, block, source: next(times))
    samples = {found.added and found.added.samples for found in quick(budget_seconds=600).cells}
    assert samples == {costs.MOST_SAMPLES}


def test_the_block_runs_in_evaluation_on_the_stages_map(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            last = x.is_contiguous(memory_format=torch.channels_last)
            seen.add((tuple(x.shape), self.training, torch.is_inference_mode_enabled(), last))
            return x

    monkeypatch.setattr(costs.attention, "build", lambda name, channels: Spy())
    table = quick(blocks=["se"], batch_size=2)
    shapes = {(2, found.stage.channels, found.height, found.width) for found in table.cells}
    assert seen == {(shape, False, True, True) for shape in shapes}


def test_a_block_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(costs.attention, "build", lambda name, channels: Failing())
    table = quick(blocks=["se"])
    assert {found.note for found in table.cells} == {"no memory"}
    assert table.bare_ms > 0


def test_a_map_too_large_for_the_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "LARGE_MAP", 1)
    monkeypatch.setattr(costs.os, "sysconf", lambda name: 1)
    notes = [found.note for found in quick(blocks=["se"]).cells]
    assert notes[0].startswith("needs about ")


def test_impossible_widths_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(BLOCKS["se"]), "possible", lambda self, channels: "the rule" if channels < 100 else None)
    table = quick(blocks=["se"])
    assert [found.note for found in table.cells if found.stage.channels < 100] == ["the rule"] * len(
        [found for found in table.cells if found.stage.channels < 100]
    )
    assert cost_table.table(table).splitlines()[-1].split()[1] == "-"


def test_the_plain_table() -> None:
    table = made(*(cell(name, stage, 0.5 * 9**stage) for name in ("se", "gam") for stage in range(4)), cell("gam", 4))
    lines = cost_table.table(made(*table.cells[:4])).splitlines()
    assert "0: 64x32x32" in lines[4]
    latency, counts = (line for line in lines if line.startswith("se"))
    assert "+0.50±0.10" in latency
    assert "+364±0.10" in latency
    assert counts.split() == ["se", *["100", "/", "2.00", "k"] * 4]
    wide = made(*(cell("nonlocal", stage, 123.4) for stage in range(5)))
    assert max(map(len, cost_table.table(wide).splitlines())) <= 102
    more = made(*(cell("se", stage) for stage in range(7)))
    assert cost_table.table(more).count("6: 4096x0x0") == 2


def test_a_busy_machine_is_said() -> None:
    calm = made(cell())
    assert "busy" not in cost_table.table(calm)
    busy = dataclasses.replace(calm, bare_best_ms=7.0)
    said = " ".join(cost_table.table(busy).split())
    assert "busy in 1 of 1 cells: there a bare pass took up to 10.00 ms, but 7.000 ms when undisturbed" in said


@pytest.mark.parametrize(
    ("percent", "text"), [(0.0312, "+0.03"), (-0.2, "-0.20"), (0.999, "+1.0"), (12.34, "+12.3"), (312.4, "+312")]
)
def test_percentages(percent: float, text: str) -> None:
    assert cost_table.percent_text(percent) == text


def test_the_csv(tmp_path: Path) -> None:
    cost_table.write_csv(made(cell("se", 0, 2.5), cell("se", 1, note="a rule, with commas")), tmp_path / "costs.csv")
    with (tmp_path / "costs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == cost_table.CSV_COLUMNS
    assert (rows[0]["added_percent"], rows[0]["added_ms_high"], rows[0]["channels"]) == ("2.5", "0.26", "64")
    assert (rows[0]["batch"], rows[0]["resolution"], rows[0]["device"]) == ("1", "64", "cpu: <fast>")
    assert (rows[1]["added_ms"], rows[1]["parameters"], rows[1]["note"]) == ("", "", "a rule, with commas")


def test_the_heat_map() -> None:
    cells = [cell("se", 0, 0.5), cell("se", 1, 300.0), cell("gam", 0, 0.01), cell("gam", 1, note="a <rule>")]
    figure = heatmap.figure(made(*cells))
    (trace,) = figure.data
    # A line for each class, which has no cells, then its blocks.
    assert figure.layout.yaxis.ticktext == ("<b>channel</b>", "se", "<b>mixing</b>", "gam")
    assert [list(row) for row in trace.text] == [["", ""], ["+0.50", "+300"], ["", ""], ["+0.01", ""]]
    assert trace.z[1][0] < trace.z[1][1] == trace.zmax
    assert trace.z[3][0] == trace.zmin
    assert trace.z[3][1] is None
    assert "1 [" not in trace.hovertext[1][0]
    assert "+0.050 ms [+0.040, +0.060]" in trace.hovertext[1][0]
    assert "100 parameters, 2.00 k MACs" in trace.hovertext[1][0]
    (mark,) = figure.layout.annotations
    assert mark.hovertext == "a &lt;rule&gt;"


def test_the_page_is_whole_and_offline(tmp_path: Path) -> None:
    heatmap.write_heatmap(made(cell("se", 0), cell("se", 1)), tmp_path / "deep" / "costs.html")
    (found,) = (tmp_path / "deep").iterdir()
    text = found.read_text(encoding="utf-8")
    assert "<h1>What each block adds to resnet18, in % of a bare pass</h1>" in text
    assert "cpu: &lt;fast&gt;" in text
    assert '"showSendToCloud": false' in text
    assert "src=" not in text.replace(get_plotlyjs(), "")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "resnet18-64"),
        (["--batch", "8", "--precision", "bfloat16"], "resnet18-64-batch8-bfloat16"),
        (["--device", "cuda:1", "--blocks", "se,eca"], "resnet18-64-cuda-1-se-eca"),
    ],
)
def test_tables_of_other_conditions_have_other_folders(words: list[str], name: str) -> None:
    arguments = parser().parse_args(["costs", "--backbone", "resnet18", "--resolution", "64", *words])
    assert _costs_name(arguments) == name


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "costs.csv").mkdir()
    assert main(["costs", "--backbone", "test_resnet", "--resolution", "32", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert f"{tmp_path / 'costs.csv'} must be a file" in printed.err
    assert printed.out == ""


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["costs", "--backbone", "test_resnet", "--resolution", "32", "--device", "cpu"]
    words += ["--blocks", "cbam, se", "--budget-seconds", "0.001"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "joint: gates for each channel and pixel\ncbam" in printed.out
    assert "10/10" in printed.err
    folder = tmp_path / "studies" / "costs" / "test_resnet-32-cpu-cbam-se"
    assert sorted(path.name for path in folder.iterdir()) == ["costs.csv", "costs.html"]
    assert main([*words, "--out", "mine"]) == 0
    assert (tmp_path / "mine" / "costs.csv").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone", "resnet81"], "timm knows no backbone 'resnet81'; the nearest: "),
        (["--resolution", "0"], "resolution must be at least 1, but got 0"),
        (["--backbone", "inception_v3", "--resolution", "16"], "does not run on images of 3 x 16 x 16"),
        (["--blocks", "se,gsm"], "unknown block 'gsm'; did you mean 'gam'?"),
        (["--blocks", ""], "unknown block ''"),
        (["--batch", "0"], "batch must be at least 1, but got 0"),
        (["--budget-seconds", "0"], "--budget-seconds must be positive and finite, but got 0.0"),
        (["--precision", "int4"], "precision must be one of float32, bfloat16, but got 'int4'"),
        (["--device", "cuda:99"], "device must be one of auto, "),
        (["--out", "/dev/null/x"], "cannot write into the folder /dev/null/x"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["costs", "--backbone", "test_resnet", "--resolution", "32", "--device", "cpu", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    for found in quick(device="cuda", blocks=("se", "gam"), precision="bfloat16").cells:
        assert found.added is not None
        assert found.added.percent > 0

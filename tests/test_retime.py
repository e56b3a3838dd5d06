"""The front on another device: what is timed, what is said of it, and one whole run of the verb."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import toy
from rows import make_row

from nas.cli import main
from nas.evaluation import Cost, EvaluationError, Latency
from nas.front import Row, mark_front
from nas.retime import CSV_COLUMNS, chosen, compare, csv_text, report, slug

SEARCH = ["--budget", "6", "--limit", "300", "--epochs", "1", "--batch-size", "32", "--latency-seconds", "0.02"]
SEARCH += ["--device", "cpu", "--sampler", "random", "--study", "small", "--repeats", "0"]
RETIME = ["retime", "--study", "small", "--device", "cpu", "--latency-seconds", "0.02"]


def rows() -> list[Row]:
    """The bare backbone, a front of three others, one dominated, and a control that is dominated, too."""
    return mark_front(
        [
            make_row(0, 0.80, 2.0, "bare"),
            make_row(1, 0.84, 2.2),
            make_row(2, 0.88, 2.4),
            make_row(3, 0.90, 3.0),
            make_row(4, 0.82, 2.8),
            make_row(5, 0.83, 2.9, "se everywhere"),
        ]
    )


def cost(ratio: float, *, unstable: bool = False) -> Cost:
    latency = Latency(
        median_ms=5 * ratio,
        low_ms=4.9 * ratio,
        high_ms=5.1 * ratio,
        bare_ms=5.0,
        ratio=ratio,
        ratio_low=ratio - 0.01,
        ratio_high=ratio + 0.01,
        n=30,
        batch_size=1,
        device="other",
        unstable=unstable,
    )
    return Cost(latency=latency, reference_ms=5.0, parameters=1000, macs=7, memory_bytes=9, nominal_ms=1.0)


def test_the_front_and_the_controls_are_timed_or_all() -> None:
    assert [row.trial for row in chosen(rows(), everything=False)] == [0, 1, 2, 3, 5]
    assert {row.left for row in chosen(rows(), everything=False)} == {1}
    assert {row.left for row in chosen(rows(), everything=True)} == {0}
    assert [row.trial for row in chosen(rows()[::-1], everything=True)] == [0, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("left", [[], [0], [1, 2]])
def test_too_few_are_refused(left: list[int]) -> None:
    with pytest.raises(ValueError, match="the bare backbone and one other trial must have finished"):
        chosen([row for row in rows() if row.trial in left], everything=True)


class TestComparison:
    def test_who_leaves_and_who_enters(self) -> None:
        costs = {0: cost(1.0), 1: cost(1.5), 2: cost(1.3), 3: cost(1.6), 4: cost(1.1), 5: cost(1.8)}
        result = compare(chosen(rows(), everything=True), costs)
        assert [row.trial for row in result.left] == [1]
        assert [row.trial for row in result.entered] == [4]
        assert [row.trial for row in result.after if row.on_front] == [0, 2, 3, 4]
        words = report(result, title="toy", facts={"Here": "there"})
        assert "Of 4 members of the study's front 1 leave it here and 1 enter it." in words
        assert "Trial 1, at 1.500 times the bare backbone's latency, is dominated by trial 2 at 1.300." in words
        assert "| 1 | 84.0 [81.6, 86.1] | 1.100 [1.089, 1.111] | 1.500 [1.490, 1.510] | 7.500 | **leaves** |" in words
        assert words.count("**enters**") == 1
        assert words.count("| stays |") == 3
        assert "- Here: there" in words

    def test_what_the_clock_cannot_tell_apart_is_said(self) -> None:
        costs = {0: cost(1.0), 1: cost(1.315), 2: cost(1.3), 3: cost(1.6)}
        words = report(compare(chosen(rows(), everything=False)[:4], costs), title="", facts={})
        assert "is dominated by trial 2 at 1.300, within the noise of the clock." in words

    def test_the_rank_correlation_leaves_the_bare_backbone_out(self) -> None:
        ratios = {0: 1.0, 1: 1.1, 2: 1.2, 3: 1.6, 4: 1.4, 5: 1.5}
        same = compare(chosen(rows(), everything=True), {trial: cost(ratio) for trial, ratio in ratios.items()})
        assert same.correlation is not None
        assert same.correlation.value == pytest.approx(1.0)
        assert same.left == same.entered == []
        turned = compare(chosen(rows(), everything=True), {k: cost(3 - r if k else 1.0) for k, r in ratios.items()})
        assert turned.correlation is not None
        assert turned.correlation.value == pytest.approx(-1.0)
        assert "is -1.00 [-1.00, -1.00], over 5 architectures" in report(turned, title="", facts={})

    def test_two_are_too_few_for_an_order(self) -> None:
        few = compare([rows()[0], rows()[1], rows()[2]], {k: cost(1 + k / 10) for k in range(3)})
        assert few.correlation is None
        assert "2 architectures besides the bare backbone are too few" in report(few, title="", facts={})

    def test_what_could_not_be_timed_is_left_out_and_named(self) -> None:
        costs = {0: cost(1.0), 2: cost(1.2), 3: cost(1.5, unstable=True)}
        result = compare(chosen(rows(), everything=False), costs, ["trial 1: out of memory"])
        assert [row.trial for row in result.after] == [0, 2, 3]
        words = report(result, title="", facts={})
        assert "- Failed: trial 1: out of memory" in words
        assert "1.500 [1.490, 1.510]?" in words
        with pytest.raises(EvaluationError, match="nothing but the bare backbone could be timed; the first failure: t"):
            compare(rows(), {0: cost(1.0)}, ["trial 1: out of memory"])

    def test_what_the_study_said_of_its_own_device_is_gone(self) -> None:
        ours = [dataclasses.replace(row, beyond="too slow", front_probability=0.5) for row in rows()]
        after = compare(ours, {row.trial: cost(1 + row.trial / 10) for row in ours}).after
        assert {(row.beyond, row.front_probability) for row in after} == {("", None)}
        assert [row.latency_ms for row in after] == pytest.approx([5 * (1 + k / 10) for k in range(6)])

    def test_the_csv_has_both(self) -> None:
        result = compare(rows(), {row.trial: cost(1 + row.trial / 10) for row in rows()})
        lines = list(csv.DictReader(csv_text(result).splitlines()))
        assert tuple(lines[0]) == CSV_COLUMNS
        assert [float(line["was_ratio"]) for line in lines] == [row.latency_ratio for row in rows()]
        assert [float(line["latency_ratio"]) for line in lines] == pytest.approx([1, 1.1, 1.2, 1.3, 1.4, 1.5])
        assert [line["on_front"] for line in lines] == ["True"] * 4 + ["False"] * 2


def test_a_file_is_named_after_where_and_how() -> None:
    protocol = dataclasses.replace(
        toy.PROTOCOL, latency_device="cuda: NVIDIA H200", latency_runtime="compile", latency_precision="bfloat16"
    )
    assert slug(protocol) == "cuda-NVIDIA-H200-compile-batch1-8px-bfloat16"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retime")
    assert main([*SEARCH, "--studies", str(folder)]) == 0
    return folder


def test_the_verb_times_without_data_and_keeps_what_it_found(
    studies: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.data.load", lambda *_, **__: pytest.fail("no data are needed"))
    asked = [*RETIME, "--studies", str(studies), "--latency-batch", "2", "--everything"]
    assert main(asked) == 0
    first = capsys.readouterr().out
    assert "# small on another device" in first
    assert "batch 2 of 32x32, float32" in first
    assert "- Timed: 6 of 6 finished trials" in first
    (table,) = (studies / "small").glob("retime-cpu-*-batch2-32px-float32.csv")
    assert len(table.read_text().splitlines()) == 7
    assert table.with_suffix(".md").read_text() in first
    ratios = [line.split(",")[8] for line in table.read_text().splitlines()]
    assert main(asked) == 0
    again = [line.split(",")[8] for line in table.read_text().splitlines()]
    unstable = [line.split(",")[11] == "True" for line in table.read_text().splitlines()]
    assert all(a == b or redone for a, b, redone in zip(ratios, again, unstable, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtime", "tensorrt"], "latency_runtime must be one of eager, compile, onnxruntime, but got 'tensorrt'"),
        (["--latency-batch", "0"], "--latency-batch must be at least 1, but got 0"),
        (["--latency-resolution", "0"], "--latency-resolution must be at least 1, but got 0"),
        (["--latency-seconds", "-1"], "--latency-seconds must be positive and finite"),
        (["--device", "cuda:99"], "device must be one of auto"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_a_line(
    studies: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*RETIME, "--studies", str(studies), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1

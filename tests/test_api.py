"""The search from Python, and the example that the documentation has of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from nas import report
from nas.cli import main
from nas.settings import Settings, declared_space
from nas.study import StudyError

ROOT = Path(__file__).parents[1]
SPACE = nas.SearchSpace(backbones=("test_resnet",), blocks={"se": {"reduction": (4, 8)}, "simam": {}}, stages=(3, 4))
SHORT: dict[str, Any] = {"limit": 300, "epochs": 1, "batch_size": 32, "latency_seconds": 0.02, "repeats": 0}
SHORT |= {"device": "cpu", "sampler": "random"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    nas.search(SPACE, budget=6, progress=False, study="small", studies=str(folder), **SHORT).close()
    return folder


@pytest.fixture
def study(folder: Path) -> Iterator[nas.Found]:
    with nas.open("small", studies=folder) as study:
        yield study


def test_a_study_answers(study: nas.Found) -> None:
    rows = study.rows()
    assert [row.trial for row in rows] == [0, 1, 2, 3, 4, 5]
    assert study.answer.startswith(("Take trial ", "Add nothing: "))
    assert {row.trial for row in study.front()} == {row.trial for row in rows if row.on_front}
    assert [row.latency_ms for row in study.front()] == sorted(row.latency_ms for row in study.front())
    assert repr(study) == f"<study 'small': 6 finished, {len(study.front())} on the front>"
    assert study.name == "small"


@pytest.mark.parametrize("how", [None, "knee", "accuracy", "fastest", "trial:4"])
def test_a_choice_builds_and_exports_the_same(study: nas.Found, tmp_path: Path, how: str | None) -> None:
    choice = study.best(how)
    assert choice.config["id"] == choice.architecture.id == choice.row.architecture.id
    choice.export(tmp_path / "best.json")
    model, again = choice.build(), nas.load(tmp_path / "best.json")
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(model.eval()(images), again.eval()(images))
    assert sum(parameter.numel() for parameter in model.parameters()) == choice.row.parameters


@pytest.mark.parametrize("name", report.FIGURES)
def test_figures_are_plotly_s(study: nas.Found, name: str) -> None:
    import plotly.graph_objects as go

    figure = study.figure(name)
    assert isinstance(figure, go.Figure)
    assert len(figure.data) > 0


def test_what_is_not_there_is_named(study: nas.Found, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="figure must be one of pareto, accuracy effects, .*, macs, but got 'loss'"):
        study.figure("loss")
    with pytest.raises(ValueError, match="no finished trial has the number 99"):
        study.best("trial:99")
    with pytest.raises(StudyError, match="no study 'large' in the database; its studies: small"):
        nas.open("large", studies=folder)
    with pytest.raises(TypeError, match="epoch"):
        nas.search(SPACE, budget=2, epoch=1, studies=str(tmp_path))
    with pytest.raises(ValueError, match="the budget must be at least 1"):
        nas.search(SPACE, budget=0, studies=str(tmp_path))


def test_the_only_study_needs_no_name(folder: Path) -> None:
    with nas.open(studies=folder) as study:
        assert study.name == "small"


def test_the_same_call_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with nas.search(SPACE, budget=6, study="small", studies=str(folder), **SHORT) as study:
        assert len(study.rows()) == 6
    assert "6/6" in capsys.readouterr().err


def test_spaces_that_were_declared_in_python_have_names_of_their_own() -> None:
    other = nas.SearchSpace(backbones=("test_resnet",), blocks=("se",))
    names = [Settings(space=each).study_name for each in (SPACE, SPACE, other)]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("space-") and name.endswith("-digits") for name in names)
    assert declared_space(Settings(space=other)) == other


@pytest.mark.slow
def test_workers_are_told_a_space_that_was_declared_in_python(tmp_path: Path) -> None:
    asked = {**SHORT, "workers_per_device": 2, "studies": str(tmp_path)}
    with nas.search(SPACE, budget=6, progress=False, **asked) as study:
        assert len(study.rows()) == 6


def test_the_example_runs(tmp_path: Path) -> None:
    example = ROOT / "docs" / "examples" / "digits.py"
    command = [sys.executable, str(example), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "the same logits: True" in done.stdout
    assert (tmp_path / "knee.json").exists()
    assert (tmp_path / "front.html").stat().st_size > 10_000


def test_the_verb_writes_the_pages_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folder / "small").iterdir():
        path.unlink()
    assert main(["report", "--studies", str(folder)]) == 0
    assert f"wrote {folder / 'small' / 'report.html'}" in capsys.readouterr().out
    written = sorted(path.name for path in (folder / "small").iterdir())
    assert written == ["best.json", "front.csv", "pareto.html", "report.html"]
    page = (folder / "small" / "report.html").read_text(encoding="utf-8")
    assert "the whole protocol" in page.lower()
    assert main(["report", "--studies", str(folder), "--study", "large"]) == 2
    assert "no study 'large' in the database" in capsys.readouterr().err


def test_a_study_writes_its_report(study: nas.Found, tmp_path: Path) -> None:
    assert study.report(tmp_path / "page.html") == tmp_path / "page.html"
    assert f"--study small --studies {study.folder.parent} --out best" in (tmp_path / "page.html").read_text()
    assert study.answer.split(";")[0][:40] in (tmp_path / "page.html").read_text(encoding="utf-8")

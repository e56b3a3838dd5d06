"""``run_search.py export --out DIR``, ``run_search.py check DIR``, and the same from Python."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import toy

import nas
from nas import placement
from nas.cli import main
from nas.export import folder, is_folder
from nas.space import SearchSpace
from nas.study import Study, run

FILES = ["README.md", "architecture.json", "model.py", "proof.json", "reference.safetensors"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study whose networks are timm's, and whose figures cost nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    stages = placement.stages(placement.create("test_resnet", num_classes=2, in_channels=1))
    space = SearchSpace(backbones=("test_resnet",), blocks=("se", "simam"), stages=(2, 3)).resolve(
        {"test_resnet": stages}
    )
    protocol = dataclasses.replace(toy.PROTOCOL, resolution=32)
    made = Study.create("small", toy.url(tmp_path / "studies"), space=space, protocol=protocol)
    run(made, toy.evaluate, space=space, budget=5, sampler="random")
    made.close()
    return tmp_path


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the slow part, the process without this program."""
    monkeypatch.setattr("nas.export.proof._compare_alone", lambda *_: {"logits": 0.0, "logits_of_weights": None})


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_export_and_check(here: Path, unproved: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--pick", "accuracy", "--out", "best"]
    assert main([*words, "--latency-seconds", "0.02"]) == 0
    said = capsys.readouterr()
    assert "wrote best: trial " in said.out
    assert "model.py, where nas cannot be imported: logits" in said.out
    assert "latency of model.py and of the original" in said.out
    assert said.out.endswith(
        "next:\n  python best/model.py\n  python run_search.py check best\n  python run_search.py train best\n"
    )
    assert sorted(path.name for path in Path("best").iterdir()) == FILES
    assert main(["check", "best", "--latency-seconds", "0"]) == 0
    said = capsys.readouterr()
    assert (
        f"best: {nas.Architecture.from_dict(json.loads(Path('best/architecture.json').read_text())['architecture']).id}"
        in said.out
    )
    assert "equal, bit for bit; at most 1e-06 of the largest is allowed" in said.out
    assert "every file is what it was when it was exported" in said.out
    assert said.err == ""
    with Path("best", "model.py").open("a") as file:
        file.write("#")
    assert refused(["check", "best"], capsys) == (
        "run_search.py: best/model.py was changed since the proof was made: its sha256 is another one"
    )


def test_a_check_says_only_what_was_compared(
    here: Path, unproved: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", "--pick", "accuracy", "--out", "best", "--latency-seconds", "0"]) == 0
    path = Path("best/proof.json")
    program = {"nas": "9.9", "timm": "1.0.0", "source": "0" * 16}
    with Path("best/model.py").open("a") as file:
        file.write("#")
    said = json.loads(path.read_text())
    said["files"]["model.py"] = folder._hash(Path("best/model.py"))
    path.write_text(folder._sealed({**said, "program": program}))
    capsys.readouterr()
    assert main(["check", "best"]) == 3
    ended = "every file is what it was when it was exported, but not all were compared: model.py was not executed\n"
    assert capsys.readouterr().out.endswith(ended)
    assert main(["check", "best", "--trust", "--latency-seconds", "0"]) == 0
    assert capsys.readouterr().out.endswith("exported, and they are one network\n")
    Path("best/model.onnx").touch()
    said["files"]["model.onnx"] = folder._hash(Path("best/model.onnx"))
    path.write_text(folder._sealed({**said, "program": program}))
    monkeypatch.setattr("nas.export.onnx_file.is_there", lambda _: False)
    assert main(["check", "best", "--trust", "--latency-seconds", "0"]) == 3
    assert capsys.readouterr().out.endswith(
        "but not all were compared: model.onnx was not compared, as onnxruntime is not installed\n"
    )


def test_the_same_from_python(here: Path, unproved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.export.proof._latency", lambda *_: None)
    with nas.open("small") as study:
        choice = study.best("accuracy")
        choice.export("from-python")
        choice.export("config.json")
        with pytest.raises(ValueError, match="weights and onnx take a folder, but got the file config.json"):
            choice.export("config.json", onnx=True)
    assert sorted(path.name for path in Path("from-python").iterdir()) == FILES
    assert Path("from-python", "architecture.json").read_bytes() == Path("config.json").read_bytes()
    assert list(nas.load("from-python").state_dict()) == list(nas.load("config.json").state_dict())
    assert folder.check("from-python", seconds=0).notes == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "--onnx"], "--onnx and --weights take a folder, but --out is the file best.json"),
        (["export", "--weights", "w.pth", "--out", "a.json"], "but --out is the file a.json; give --out DIR"),
        (["export", "--out", "studies"], "cannot write studies: the folder holds something else than an export"),
        (["export", "--out", "best", "--weights", "absent.pth"], "there is no file absent.pth"),
        (["export", "--out", "best", "--latency-seconds", "-1"], "must be at least 0 and finite, but got -1.0"),
        (["export", "--out", "best", "--latency-seconds", "nan"], "must be at least 0 and finite, but got nan"),
        (["export", "--study", "large", "--out", "best"], "no study 'large' in the database; its studies: small"),
        (["check", "absent"], "absent is no folder; give one that run_search.py export has written"),
        (["check", "studies"], "studies/proof.json is missing: studies is no export, or not a whole one"),
    ],
)
def test_wrong_use_is_refused_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(words, capsys)
    assert sorted(path.name for path in here.iterdir()) == ["studies"]


def test_which_paths_are_folders(tmp_path: Path) -> None:
    (tmp_path / "there.json").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    expected = {"there.json": True, "file": False, "link": False, "new": True, "new.json": False, "a.b": True}
    found: dict[str, Any] = {name: is_folder(tmp_path / name) for name in expected}
    assert found == expected


def test_a_file_that_no_export_has_written_is_not_replaced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = here / "notes.json"
    for content in ("precious", '{"notes": []}'):
        own.write_text(content)
        assert main(["export", "--out", str(own)]) == 2
        assert f"{own} is there already, and no export has written it" in capsys.readouterr().err
        with nas.open("small", studies=here / "studies") as study, pytest.raises(ValueError, match="is there already"):
            study.best().export(own)
        assert own.read_text() == content
    own.write_text("")
    assert main(["export", "--out", str(own)]) == 0
    assert main(["export", "--out", str(own)]) == 0
    assert nas.export.read(own)[1]["evidence"]["limit"] is None


def test_what_is_printed_can_be_pasted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = here / "it's here.json"
    assert main(["export", "--out", str(out)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(line.removeprefix("build it: "))
    assert words[:2] == ["python", "-c"]
    assert words[2] == f"import nas; model = nas.load({str(out)!r})"

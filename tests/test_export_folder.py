"""The folder of an export: it proves itself, here and where the program is not, and refuses what was changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import architecture_of, content_of
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

import nas
from nas import export
from nas.architecture import Placement
from nas.export import folder, onnx_file, page, selfcheck
from nas.export.config import ConfigError
from nas.export.isolated import load_model_file
from nas.export.proof import ProofError
from nas.export.selfcheck import answers, difference, fill

CONTENT = content_of(
    "test_resnet",
    Placement(stage=2, block="se", init="identity"),
    Placement(stage=4, block="sge", position="in_residual", init="identity"),
    channels=1,
)
OTHER = content_of("test_resnet", Placement(stage=3, block="eca"), channels=1)
FILES = ("README.md", "architecture.json", "model.py", "proof.json", "reference.safetensors")
ALONE = """
import runpy, sys

class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "nas":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export, to be copied."""
    out = tmp_path_factory.mktemp("exports") / "deep" / "made"
    folder.export(CONTENT, out, seconds=0)
    return out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copied")


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Leave out the slow part, the process without this program; tests that do so are about something else."""
    seen = []

    def compare(subject: Any, _model: Any) -> dict[str, Any]:
        seen.append(subject.folder)
        return {"logits": 0.0, "logits_of_weights": 0.0 if subject.weights else None}

    monkeypatch.setattr("nas.export.proof._compare_alone", compare)
    return seen


def weights_for(content: dict[str, Any], seed: int = 7) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = export.build(architecture_of(content), content)
    fill(model, torch.rand(4, 1, 32, 32), salt=seed)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def reseal(out: Path, *names: str, **changes: Any) -> None:
    """Do what somebody skilled does who changes a file: correct its hash, and the seal of the proof."""
    said = json.loads((out / "proof.json").read_text())
    said["files"] |= {name: folder._hash(out / name) for name in names}
    (out / "proof.json").write_text(folder._sealed({**said, **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "timm's x.y"}, "The backbone started from trained weights, timm's x.y, and was trained on."),
        ({"weights": "a", "freeze_backbone": True}, "started from trained weights, a, and stayed as it was."),
        ({}, "which `split.json` in the folder of the study records.\n"),
    ],
)
def test_the_page_says_with_which_weights_the_search_began(made: Path, changes: dict[str, Any], words: str) -> None:
    figures = json.loads((made / "proof.json").read_text())["figures"]
    content = {**CONTENT, "protocol": {**CONTENT["protocol"], **changes}}
    assert words in page.page(architecture_of(CONTENT), content, figures, ())


def test_an_export_says_what_it_is(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == sorted(FILES)
    architecture, content = export.read(made)
    assert content == json.loads(json.dumps(CONTENT))
    assert architecture.id == CONTENT["id"]
    said = json.loads((made / "proof.json").read_text())
    assert sorted(said["files"]) == sorted(set(FILES) - {"proof.json"})
    figures = said["figures"]
    assert figures["logits"] <= 1e-6
    assert figures["reference"] <= 1e-6
    assert figures["least_effect_of_a_block"] > 1e-3  # which a comparison would see
    assert figures["onnx"] == "not written"
    assert figures["latency"] is None
    assert figures["versions"]["torch"] == torch.__version__
    readme = (made / "README.md").read_text()
    for what, found in page.figures_table(figures):
        assert f"| {what} | {found} |" in readme
    assert "- stage 4 in_residual: sge(" in readme
    assert "python run_search.py check ." in readme
    assert (made / "reference.safetensors").stat().st_mode == (made / "model.py").stat().st_mode


@pytest.mark.slow
def test_a_check_repeats_the_proof(made: Path) -> None:
    checked = folder.check(made, seconds=0.02)
    assert checked.notes == ()
    assert checked.architecture.id == CONTENT["id"]
    assert checked.figures["logits"] <= 1e-6
    assert checked.figures["latency"]["ratio_low"] < checked.figures["latency"]["ratio_high"]
    assert sorted(path.name for path in made.iterdir()) == sorted(FILES)  # nothing is left behind


def alone(out: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-B", "-c", ALONE, str(out / "model.py")]
    return subprocess.run(words, capture_output=True, text=True, cwd=out.parent, check=False)


def test_it_proves_itself_where_the_program_is_not(copied: Path) -> None:
    ended = alone(copied)
    assert ended.returncode == 0, ended.stderr
    assert "filled by the formula: logits are equal" in ended.stdout


def test_the_self_check_sees_a_difference(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (copied / "model.py").read_text()
    (copied / "model.py").write_text(text.replace("torch.sigmoid(centred", "torch.tanh(centred"))
    code = load_model_file(str(copied / "model.py"), "changed")
    assert not code.self_check(code.build, copied)
    assert "filled by the formula: logits are DIFFERENT, off by" in capsys.readouterr().out


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_refused(copied: Path, name: str, place: float) -> None:
    content = bytearray((copied / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(folder.FolderError, match=f"{name} (was changed|cannot be read, it was changed)"):
        folder.check(copied, seconds=0)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(folder.FolderError, match=f"{name} is missing"):
        folder.check(copied, seconds=0)


@pytest.mark.parametrize("spaces", ["\n", " "])
def test_a_proof_is_read_to_the_letter(copied: Path, spaces: str) -> None:
    with (copied / "proof.json").open("a") as file:
        file.write(spaces)
    with pytest.raises(folder.FolderError, match="proof.json was changed"):
        folder.check(copied, seconds=0)


def test_a_skilled_change_of_the_code_is_refused_and_not_executed(copied: Path) -> None:
    with (copied / "model.py").open("a") as file:
        file.write("raise SystemExit('executed')\n")
    reseal(copied, "model.py")
    with pytest.raises(folder.FolderError, match="model.py is not what is written for architecture.json"):
        folder.check(copied, seconds=0)


def test_a_skilled_change_of_the_reference_is_refused(copied: Path) -> None:
    path = copied / "reference.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "logits": 1.01 * tensors["logits"]}, path)
    reseal(copied, path.name)
    with pytest.raises(ProofError, match="reference.safetensors: logits differ by"):
        folder.check(copied, seconds=0)
    save_file({"logits": tensors["logits"]}, path)
    reseal(copied, path.name)
    with pytest.raises(ProofError, match="it holds other tensors"):
        folder.check(copied, seconds=0)


def test_a_skilled_change_of_the_architecture_is_refused(copied: Path) -> None:
    text = json.dumps(OTHER, indent=2, sort_keys=True) + "\n"
    (copied / "architecture.json").write_text(text)
    reseal(copied, "architecture.json")
    with pytest.raises(folder.FolderError, match="is about .*, but architecture.json holds"):
        folder.check(copied, seconds=0)
    reseal(copied, id=OTHER["id"])
    with pytest.raises(folder.FolderError, match="model.py is not what is written for architecture.json"):
        folder.check(copied, seconds=0)


@pytest.mark.parametrize("listed", [{}, {"../model.py": "0"}, None, ["model.py"]])
def test_a_proof_lists_the_files_of_an_export_and_no_others(copied: Path, listed: Any) -> None:
    said = json.loads((copied / "proof.json").read_text())
    files = {**said["files"], **listed} if isinstance(listed, dict) and listed else listed
    reseal(copied, files=files)
    with pytest.raises(folder.FolderError, match="proof.json must list"):
        folder.check(copied, seconds=0)


@pytest.mark.slow
def test_code_of_another_version_is_executed_only_if_it_is_trusted(copied: Path) -> None:
    with (copied / "model.py").open("a") as file:
        file.write("print('executed')\n")
    program = {"nas": "9.9", "timm": "1.0.0", "source": "0" * 16}
    reseal(copied, "model.py", program=program)
    checked = folder.check(copied, seconds=0)
    assert "written by another version of this program (nas 9.9, timm 1.0.0)" in checked.notes[0]
    assert "was not executed" in checked.notes[0]
    assert checked.figures["logits"] is None
    assert ("`model.py`", "not executed") in page.figures_table(checked.figures)
    checked = folder.check(copied, seconds=0, trust=True)
    assert checked.figures["logits"] <= 1e-6
    assert "executed all the same" in checked.notes[0]
    with (copied / "model.py").open("a") as file:
        file.write("import nas\n")
    reseal(copied, "model.py")
    with pytest.raises(ProofError, match="model.py does not run alone: ModuleNotFoundError: nas must not be needed"):
        folder.check(copied, seconds=0, trust=True)


def test_what_else_lies_there_is_named(copied: Path, unproved: list[Path]) -> None:
    (copied / "notes.txt").write_text("mine")
    (copied / "__pycache__").mkdir()
    (copied / ".DS_Store").touch()
    assert folder.check(copied, seconds=0).notes == ("notes.txt is beside what was exported",)
    (copied / "train").mkdir()  # a person's
    assert folder.check(copied, seconds=0).notes[1] == "train is beside what was exported"
    (copied / "train" / "recipe.json").touch()  # of this program
    assert folder.check(copied, seconds=0).notes == ("notes.txt is beside what was exported",)


def test_a_training_after_the_proof_is_told_what_to_do(copied: Path, unproved: list[Path]) -> None:
    save_file(weights_for(CONTENT), copied / "weights.safetensors")
    folder.export(CONTENT, copied, seconds=0)
    save_file(weights_for(CONTENT, seed=8), copied / "weights.safetensors")
    again = f"run_search.py export --out {copied} --pick trial:3 --study toy"
    with pytest.raises(folder.FolderError, match=f"if that was meant, as after a training, .* again: {again}$"):
        folder.check(copied, seconds=0)


def test_a_block_that_the_comparison_does_not_see_is_not_proved(
    tmp_path: Path, unproved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.attention.channel.SE.forward", lambda _self, x: x)
    with pytest.raises(ProofError, match=r"nothing can be proved about block 1 \(SE\): .* by 0.0e\+00 of the largest"):
        folder.export(CONTENT, tmp_path / "out", seconds=0)
    assert not (tmp_path / "out").exists()


def test_the_limits_are_those_that_were_used(
    tmp_path: Path, unproved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "precise_answers", lambda model, images: answers(model, images.float()))
    figures = folder.export(CONTENT, tmp_path / "out", seconds=0)
    assert figures["limits"] == {"logits": 1e-6, "onnx": 1e-4, "reference": 1e-4}
    rows = dict(page.figures_table({**figures, "onnx": 0.0}))
    assert rows["`reference.safetensors`: logits"].endswith("at most 1e-04 of the largest is allowed")
    assert rows["`model.onnx`, by onnxruntime: logits"].endswith("at most 1e-04 of the largest is allowed")
    assert rows["`model.py`, where nas cannot be imported: logits"].endswith("at most 1e-06 of the largest is allowed")


def test_weights_that_came_later_are_named_and_have_to_fit(copied: Path, unproved: list[Path]) -> None:
    save_file(weights_for(CONTENT), copied / "weights.safetensors")
    (note,) = folder.check(copied, seconds=0).notes
    assert note == (
        "weights.safetensors came later; it fits. To make it part of the proof, export into the folder again: "
        f"run_search.py export --out {copied} --pick trial:3 --study toy"
    )
    save_file(weights_for(OTHER), copied / "weights.safetensors")
    with pytest.raises(ProofError, match="weights.safetensors is not of this network"):
        folder.check(copied, seconds=0)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_a_part_of_it(tmp_path: Path, suffix: str) -> None:
    weights = weights_for(CONTENT)
    given = tmp_path / f"trained{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": weights, "epoch": 3}, given)
    else:
        save_file(weights, given)
    out = tmp_path / "out"
    figures = folder.export(CONTENT, out, weights=given, seconds=0)
    assert figures["logits_of_weights"] <= 1e-6
    kept = load_file(out / "weights.safetensors")
    assert set(kept) == set(weights)
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights.items())
    loaded = nas.load(out)
    reference = load_file(out / "reference.safetensors")
    found = answers(loaded, reference["images"].double())
    assert difference(found, reference["logits_of_weights"]) <= 1e-6
    assert difference(reference["logits"], reference["logits_of_weights"]) > 1e-3
    ended = alone(out)
    assert ended.returncode == 0, ended.stderr
    assert "weights.safetensors: logits are equal" in ended.stdout
    assert 'load("weights.safetensors")' in (out / "README.md").read_text()
    (out / "weights.safetensors").write_bytes((out / "weights.safetensors").read_bytes()[:-1] + b"\0")
    with pytest.raises(folder.FolderError, match="weights.safetensors was changed .* export into the folder again"):
        folder.check(out, seconds=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("fc.bias"), "it lacks fc.bias"),
        (lambda weights: weights.update(extra=torch.ones(1)), "beyond those of the network, extra"),
        (
            lambda weights: weights.update({"fc.bias": torch.ones(3)}),
            r"fc.bias has the shape \(3,\) instead of \(10,\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, tmp_path: Path
) -> None:
    weights = weights_for(CONTENT)
    change(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ProofError, match=message):
        folder.export(CONTENT, tmp_path / "out", weights=tmp_path / "w.safetensors", seconds=0)
    assert not (tmp_path / "out").exists()


class Exploding:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('executed')",)


def test_files_that_are_no_weights_are_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"a": Exploding()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name, message in (
        ("code.pth", "holds no plain state dict"),
        ("list.pth", "must map names to tensors"),
        ("junk.safetensors", "is no safetensors file"),
        ("absent.safetensors", "there is no file"),
    ):
        with pytest.raises(ValueError, match=message):
            folder.export(CONTENT, tmp_path / "out", weights=tmp_path / name, seconds=0)
    assert not (tmp_path / "out").exists()


def test_a_refresh_keeps_the_weights(copied: Path, unproved: list[Path]) -> None:
    weights = weights_for(CONTENT)
    save_file(weights, copied / "weights.safetensors")
    (copied / "notes.txt").write_text("mine")
    newer = {**CONTENT, "evidence": {**CONTENT["evidence"], "trial": 44}}
    folder.export(newer, copied, seconds=0)
    assert "trial 44" in (copied / "model.py").read_text()
    assert all(torch.equal(load_file(copied / "weights.safetensors")[name], weights[name]) for name in weights)
    assert "weights.safetensors" in json.loads((copied / "proof.json").read_text())["files"]
    assert (copied / "notes.txt").read_text() == "mine"
    assert folder.check(copied, seconds=0).notes == ("notes.txt is beside what was exported",)
    assert unproved[0].name.startswith(".nas-export-")
    assert not list(copied.glob(".nas-export-*"))


@pytest.mark.parametrize("had_weights", [False, True])
@pytest.mark.parametrize("gives_weights", [False, True])
def test_weights_that_a_training_writes_meanwhile_stay(
    copied: Path, tmp_path: Path, had_weights: bool, gives_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, given = weights_for(CONTENT, seed=8), tmp_path / "given.safetensors"
    save_file(weights_for(CONTENT, seed=9), given)
    if had_weights:
        save_file(weights_for(CONTENT), copied / "weights.safetensors")

    def compare(subject: Any, _model: Any) -> dict[str, Any]:
        save_file(fresh, copied / "weights.safetensors")  # a training ends now
        return {"logits": 0.0, "logits_of_weights": 0.0 if subject.weights else None}

    monkeypatch.setattr("nas.export.proof._compare_alone", compare)
    before = {path.name: path.read_bytes() for path in copied.iterdir()} | {"weights.safetensors": b""}
    with pytest.raises(folder.FolderError, match="was written while this export ran, perhaps by a training; nothing"):
        folder.export(CONTENT, copied, weights=given if gives_weights else None, seconds=0)
    after = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert after.pop("weights.safetensors") == save(fresh)
    assert after == {name: text for name, text in before.items() if name != "weights.safetensors"}


def test_kept_weights_are_not_even_moved(copied: Path, unproved: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = copied / "weights.safetensors"
    kept.write_bytes(save(weights_for(CONTENT), {"epoch": "3"}))
    before, fresh = kept.stat().st_ino, save(weights_for(CONTENT, seed=8))
    folder.export(CONTENT, copied, seconds=0)
    assert kept.stat().st_ino == before
    with safe_open(kept, "pt") as opened:
        assert opened.metadata() == {"epoch": "3"}
    move = os.replace

    def replace(source: Path, to: Path) -> None:  # a training ends between the look at the weights and the move
        if to == copied / "architecture.json":
            kept.write_bytes(fresh)
        move(source, to)

    monkeypatch.setattr(os, "replace", replace)
    folder.export(CONTENT, copied, seconds=0)
    assert kept.read_bytes() == fresh


def test_another_architecture_or_another_folder_is_never_overwritten(copied: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(folder.FolderError, match=f"it holds another architecture, {CONTENT['id']} "):
        folder.export(OTHER, copied, seconds=0)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(folder.FolderError, match="the folder holds something else than an export"):
        folder.export(OTHER, tmp_path / "mine", seconds=0)
    with pytest.raises(folder.FolderError, match="it is no folder"):
        folder.export(OTHER, tmp_path / "mine" / "thesis.tex", seconds=0)
    with pytest.raises(ConfigError, match="cannot write into the folder"):
        folder.export(OTHER, tmp_path / "mine" / "thesis.tex" / "out", seconds=0)
    with pytest.raises(folder.FolderError, match="seconds of a latency must be at least 0"):
        folder.export(OTHER, tmp_path / "new", seconds=-1)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_what_fails_leaves_everything_as_it_was(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    source = folder.standalone.source
    monkeypatch.setattr(folder.standalone, "source", lambda *of: source(*of).replace("F.relu(", "F.gelu("))
    for out in (copied, tmp_path / "new"):
        with pytest.raises(ProofError, match="model.py: logits .* differ by"):
            folder.export(CONTENT, out, seconds=0)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_what_a_killed_export_left_is_no_obstacle(tmp_path: Path, unproved: list[Path]) -> None:
    left = tmp_path / "out" / ".nas-export-abc"
    left.mkdir(parents=True)
    (left / "model.py").touch()
    folder.export(CONTENT, tmp_path / "out", seconds=0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("killed_at", ["proof.json", "model.py", "README.md", "model.onnx"])
def test_an_export_that_was_killed_while_it_moved_can_be_repeated(
    copied: Path, killed_at: str, unproved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "model.onnx").touch()
    reseal(copied, "model.onnx")
    monkeypatch.setattr(onnx_file, "check_exporter", lambda: None)
    monkeypatch.setattr(onnx_file, "write", lambda _model, _images, path: path.touch())
    monkeypatch.setattr("nas.export.proof._compare_onnx", lambda _: 0.0)
    move = os.replace

    def replace(source: Path, to: Path) -> None:
        if to == copied / killed_at:
            raise KeyboardInterrupt
        move(source, to)

    newer = {**CONTENT, "evidence": {**CONTENT["evidence"], "trial": 44}}
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        folder.export(newer, copied, seconds=0)
    monkeypatch.setattr(os, "replace", move)
    folder.export(newer, copied, seconds=0)
    assert sorted(path.name for path in copied.iterdir()) == sorted([*FILES, "model.onnx"])
    assert folder.check(copied, seconds=0).notes == ()


def test_a_proof_stands_for_no_files_of_another_export(
    copied: Path, unproved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    move = os.replace

    def replace(source: Path, to: Path) -> None:
        if to == copied / "architecture.json":
            raise KeyboardInterrupt
        move(source, to)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        folder.export({**CONTENT, "evidence": {**CONTENT["evidence"], "trial": 44}}, copied, seconds=0)
    with pytest.raises(folder.FolderError, match="was changed since the proof was made"):
        folder.check(copied, seconds=0)


@pytest.mark.parametrize("name", ["README.md", "model.py", "reference.safetensors", "proof.json"])
def test_what_a_person_has_written_beside_a_config_is_never_replaced(tmp_path: Path, name: str) -> None:
    export.write(CONTENT, tmp_path / "architecture.json")
    (tmp_path / name).write_text('{"files": ["proof.json"]}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(folder.FolderError, match=f"no export has written its {name}, which would be replaced; move"):
        folder.export(CONTENT, tmp_path, seconds=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_persons_own_onnx_file_is_never_replaced(copied: Path, unproved: list[Path]) -> None:
    (copied / "model.onnx").write_text("mine")
    with pytest.raises(folder.FolderError, match=r"no export has written its model\.onnx, which"):
        folder.export(CONTENT, copied, onnx=True, seconds=0)
    folder.export(CONTENT, copied, seconds=0)
    assert (copied / "model.onnx").read_text() == "mine"
    assert folder.check(copied, seconds=0).notes == ("model.onnx is beside what was exported",)


def test_a_config_alone_becomes_a_folder(tmp_path: Path, unproved: list[Path]) -> None:
    export.write(CONTENT, tmp_path / "architecture.json")
    (tmp_path / "notes.txt").write_text("mine")
    folder.export(CONTENT, tmp_path, seconds=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])


def test_two_exports_into_one_folder_leave_each_other_alone(tmp_path: Path, unproved: list[Path]) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, filelock; f = filelock.FileLock(sys.argv[1]); f.acquire(); print(1, flush=True); sys.stdin.read()"
    )
    (out / ".nas-export-abc").mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".nas-export-lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "1\n"
        with pytest.raises(ConfigError, match="another export writes into .*out; wait for it, or give another"):
            folder.export(CONTENT, out, seconds=0)
        assert (out / ".nas-export-abc").is_dir()
        other.kill()  # the lock file stays, the lock does not
    folder.export(CONTENT, out, seconds=0)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}', "\0", '{"seal": NaN}'])
def test_what_is_no_proof_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "proof.json").write_text(content)
    with pytest.raises(folder.FolderError, match="was changed"):
        folder.check(tmp_path, seconds=0)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(folder.FolderError, match="is no folder; give one that run_search.py export has written"):
            folder.check(path)


def test_onnx_says_what_is_missing_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "is_there", lambda package: package != "onnxscript")
    with pytest.raises(onnx_file.OnnxError, match="--onnx needs onnxscript: pip install onnxruntime onnxscript"):
        folder.export(CONTENT, tmp_path / "out", onnx=True, seconds=0)
    assert not (tmp_path / "out").exists()


def test_what_the_exporter_says_is_cut_to_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        try:
            raise AttributeError("no dtype\nhere")
        except AttributeError as error:
            raise RuntimeError("step 3/3\n- report it") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(onnx_file, "is_there", lambda _: True)
    with pytest.raises(onnx_file.OnnxError, match="^the export to ONNX fails: AttributeError: no dtype$"):
        folder.export(CONTENT, tmp_path / "out", onnx=True, seconds=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_onnx_is_a_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = tmp_path / "out"
    figures = folder.export(CONTENT, out, onnx=True, seconds=0)
    assert 0 < figures["onnx"] <= 1e-4
    session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    reference = load_file(out / "reference.safetensors")
    (logits,) = session.run(["logits"], {"images": reference["images"].numpy()})
    assert difference(torch.from_numpy(logits), reference["logits"]) <= 1e-4
    assert str(Path.cwd()).encode() not in (out / "model.onnx").read_bytes()  # it goes to strangers
    assert folder.check(out, seconds=0).figures["onnx"] <= 1e-4
    save_file(weights_for(CONTENT), out / "weights.safetensors")
    folder.export(CONTENT, out, seconds=0)  # a refresh writes it anew, now with the weights
    session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    reference = load_file(out / "reference.safetensors")
    (logits,) = session.run(["logits"], {"images": reference["images"].numpy()})
    assert difference(torch.from_numpy(logits), reference["logits_of_weights"]) <= 1e-4
    monkeypatch.setattr(onnx_file, "is_there", lambda package: package != "onnxruntime")
    found = folder.check(out, seconds=0).figures
    assert found["onnx"] == "not compared, as onnxruntime is not installed"
    monkeypatch.undo()
    other = tmp_path / "other"
    folder.export(OTHER, other, onnx=True, seconds=0)
    shutil.copy(other / "model.onnx", out / "model.onnx")
    reseal(out, "model.onnx")
    with pytest.raises(ProofError, match="model.onnx: logits differ by"):
        folder.check(out, seconds=0)


FIVE = {
    "channel": ("resnet10t", {}, (Placement(stage=2, block="se"), Placement(stage=4, block="eca", init="identity"))),
    "spatial": ("mobilenetv3_small_050", {}, (Placement(stage=1, block="sge"), Placement(stage=2, block="cbam"))),
    "global": ("convnext_atto", {}, (Placement(stage=2, block="nonlocal"), Placement(stage=3, block="mhsa"))),
    "in_residual": ("resnet10t", {}, (Placement(stage=3, block="coord", position="in_residual", init="identity"),)),
    "tokens": ("vit_tiny_patch16_224", {"img_size": 64}, (Placement(stage=3, block="gc"),)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FIVE)
def test_five_kinds_prove_themselves(kind: str, tmp_path: Path) -> None:
    backbone, model_kwargs, placements = FIVE[kind]
    content = content_of(backbone, *placements, resolution=64, model_kwargs=model_kwargs)
    figures = folder.export(content, tmp_path / kind, seconds=0)
    assert figures["logits"] <= 1e-6
    assert figures["least_effect_of_a_block"] > 1e-4
    assert folder.check(tmp_path / kind, seconds=0).figures["logits"] <= 1e-6
    ended = alone(tmp_path / kind)
    assert ended.returncode == 0, ended.stderr

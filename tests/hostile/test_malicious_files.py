"""Files that somebody made to do harm: nothing in them is executed, and nothing is written where it does not belong."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import toy
from made_config import asked, write_config

import nas
from nas import cli, export, placement
from nas.architecture import Architecture
from nas.export import folder as folders
from nas.image_folder import list_folder
from nas.packed import check_unpacked
from nas.pauses import Pauses
from nas.placement import BackboneError
from nas.settings import Settings
from nas.study import Study, StudyError, check_name, run
from nas.train import full
from nas.train.settings import TrainingFailed


class Harm:
    """Is pickled as a call of os.system."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._mark}",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once something was executed."""
    return tmp_path / "executed"


def harmful(path: Path, mark: Path, *, plain: bool) -> Path:
    """Write a pickle that runs a command when it is loaded: bare, or in the archive that torch writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if plain:
        path.write_bytes(pickle.dumps({"state_dict": Harm(mark)}))
    else:
        torch.save({"state_dict": {"weight": torch.ones(2)}, "epoch": 1, "more": Harm(mark)}, path)
    return path


def test_the_files_would_do_harm(tmp_path: Path, mark: Path) -> None:
    torch.load(harmful(tmp_path / "x.pth", mark, plain=False), weights_only=False)
    assert mark.exists()


NAMES = ("x.pth", "x.pt", "x.bin", "x.safetensors", "x.pth.tar", "x")


@pytest.mark.parametrize("plain", [False, True], ids=["torch", "pickle"])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_not_executed(tmp_path: Path, mark: Path, name: str, plain: bool) -> None:
    path = harmful(tmp_path / name, mark, plain=plain)
    with pytest.raises(BackboneError, match="holds more than tensors|is no checkpoint of torch or safetensors"):
        placement.pretrained("test_resnet", num_classes=10, checkpoint=path)
    config = write_config(tmp_path / "best.json")
    with pytest.raises(ValueError, match=path.name):
        full.train(config, asked(tmp_path / "out", checkpoint=str(path)))
    with pytest.raises(ValueError, match=path.name):
        folders.export(json.loads(config.read_text()), tmp_path / "folder", weights=path, seconds=0)
    assert not mark.exists()
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("plain", [False, True], ids=["torch", "pickle"])
def test_weights_of_an_exported_folder_are_not_executed(tmp_path: Path, mark: Path, plain: bool) -> None:
    write_config(tmp_path / "best" / "architecture.json")
    harmful(tmp_path / "best" / "weights.safetensors", mark, plain=plain)
    with pytest.raises(ValueError, match="is no safetensors file"):
        nas.load(tmp_path / "best")
    assert not mark.exists()


@pytest.mark.parametrize("plain", [False, True], ids=["torch", "pickle"])
def test_a_paused_training_is_not_executed(tmp_path: Path, mark: Path, plain: bool) -> None:
    harmful(tmp_path / "stopped" / "key.pt", mark, plain=plain)
    assert Pauses(tmp_path / "stopped").get("key") is None
    assert not mark.exists()


@pytest.mark.parametrize("name", ["last.pth.tar", "tmp.pth.tar", "checkpoint-1.pth.tar"])
def test_the_checkpoint_of_a_training_is_not_executed(tmp_path: Path, mark: Path, name: str) -> None:
    config = write_config(tmp_path / "best.json")
    seed = asked(tmp_path).all_seeds(nas.protocol.Protocol.from_dict(json.loads(config.read_text())["protocol"]))[0]
    harmful(tmp_path / "out" / f"architecture-seed{seed}" / name, mark, plain=False)
    with pytest.raises(TrainingFailed, match="cannot be read: UnpicklingError"):
        full.train(config, asked(tmp_path / "out", epochs=1))
    assert not mark.exists()


def test_the_best_checkpoint_of_a_training_is_not_executed(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.train.keeping import Keeper

    config = write_config(tmp_path / "best.json")
    load_best = Keeper.load_best

    def exchanged(self: Keeper, *arguments: Any) -> int:
        harmful(self._folder / "model_best.pth.tar", mark, plain=False)
        return load_best(self, *arguments)

    monkeypatch.setattr(Keeper, "load_best", exchanged)
    with pytest.raises(TrainingFailed, match="model_best.pth.tar cannot be read: UnpicklingError"):
        full.train(config, asked(tmp_path / "out", epochs=1, select="best"))
    assert not mark.exists()


def test_tensors_of_a_checkpoint_still_load(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "x.pth")
    found = placement.pretrained("test_resnet", num_classes=7, in_channels=1, checkpoint=tmp_path / "x.pth")
    assert len(found.tensors) == found.total
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in found.tensors.items())


def bomb(path: Path) -> Path:
    """Write a checkpoint whose zeros are packed a thousandfold; torch would unpack them."""
    torch.save({"weight": torch.zeros(4_000_000)}, path.with_suffix(".plain"))
    with (
        zipfile.ZipFile(path.with_suffix(".plain")) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    path.with_suffix(".plain").unlink()
    assert path.stat().st_size < 100_000
    return path


def test_packed_checkpoints_are_refused(tmp_path: Path) -> None:
    path = bomb(tmp_path / "x.pth")
    message = "is packed: it has .* bytes and holds 16,0.*, but torch packs nothing; save it with torch.save"
    with pytest.raises(BackboneError, match=message):
        placement.pretrained("test_resnet", num_classes=10, checkpoint=path)
    with pytest.raises(ValueError, match=message):
        folders.export(
            json.loads(write_config(tmp_path / "c.json").read_text()), tmp_path / "f", weights=path, seconds=0
        )
    path.rename(tmp_path / "key.pt")
    assert Pauses(tmp_path).get("key") is None


def test_what_torch_writes_is_not_packed(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(10)}, tmp_path / "x.pth")
    check_unpacked(tmp_path / "x.pth")
    (tmp_path / "half").write_bytes((tmp_path / "x.pth").read_bytes()[:100])
    check_unpacked(tmp_path / "half")  # its reader says what it is
    check_unpacked(tmp_path / "none")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_half_a_checkpoint_is_refused_in_words(tmp_path: Path, name: str, share: float) -> None:
    from safetensors.torch import save_file

    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    save_file(state, tmp_path / name) if name.endswith("s") else torch.save(state, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BackboneError, match="is no checkpoint of torch or safetensors"):
        placement.pretrained("test_resnet", num_classes=10, checkpoint=tmp_path / name)


# Names that lead elsewhere.

OUTSIDE = (
    "../x",
    "/abs",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "con:",
    "con",
    "NUL",
    "aux.txt",
    "com1",
    "nul\0",
    "\0",
    "x.",
    "~",
    "-x",
)
OUTSIDE += ("x" * 101, "\ud800", "ä", "a\nb", "_artifacts", ".hidden")


@pytest.mark.parametrize("name", OUTSIDE, ids=range(len(OUTSIDE)))
def test_a_study_has_no_name_that_leads_elsewhere(name: str) -> None:
    with pytest.raises(StudyError, match="a study's name must be letters"):
        check_name(name)
    if name:
        with pytest.raises(StudyError):
            Settings(study=name)


def test_names_that_only_look_odd_are_names() -> None:
    for name in ("a", "A.b-c_d", "0", "console", "nullify", "com10x", "x.y"):
        check_name(name)


VERBS = ("report", "dashboard", "explain", "verify", "retime", "export")


@pytest.mark.parametrize("given", [True, False], ids=["named", "only one"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["../../x", "<img src=x onerror=alert(1)>"])
def test_a_database_with_a_study_that_leads_elsewhere(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    name: str,
    given: bool,
) -> None:
    here = tmp_path / "a" / "b"
    (here / "studies").mkdir(parents=True)
    monkeypatch.chdir(here)
    study = toy.create(here / "studies")
    run(study, toy.evaluate, space=toy.space(), budget=2, sampler="random")
    study.close()
    with sqlite3.connect(here / "studies" / "studies.db") as connection:
        connection.execute("UPDATE studies SET study_name = ?", (name,))
    connection.close()
    assert cli.main([verb, *(["--study", name] if given else [])]) == 2
    said = capsys.readouterr().err
    assert "a study's name must be letters" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "studies.db" not in path.name]


def test_the_dashboard_passes_over_such_a_study(tmp_path: Path) -> None:
    toy.create(tmp_path, "good").close()
    toy.create(tmp_path, "bad").close()
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("UPDATE studies SET study_name = '../bad' WHERE study_name = 'bad'")
    connection.close()
    study = Study.open("good", toy.url(tmp_path))
    assert study.sibling(study.number) is not None
    assert study.sibling(study.number + 1) is None
    study.close()


def test_a_config_does_not_lead_elsewhere(tmp_path: Path) -> None:
    """What a config names is looked for, and never written."""
    config = write_config(tmp_path / "best.json", data="../../nowhere/at/all", weights="x (sha256 0)")
    with pytest.raises(ValueError, match="the search started from x"):
        full.train(config, asked(tmp_path / "out"))
    with pytest.raises(ValueError, match="the search was made on '../../nowhere/at/all': say with --data"):
        full.train(config, asked(tmp_path / "out", fresh=True))
    for backbone in ("hf-hub:a/b", "local-dir:/tmp", "../x", "timm/../x"):
        content = json.loads(write_config(tmp_path / "other.json").read_text())
        content["architecture"] = Architecture(backbone=backbone).to_dict()
        content["id"] = Architecture(backbone=backbone).id
        export.write(content, tmp_path / "other.json")
        with pytest.raises(BackboneError, match="timm knows no backbone"):
            nas.load(tmp_path / "other.json")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "best"
    model = placement.create("test_resnet", num_classes=10, in_channels=1)
    bare = Architecture(backbone="test_resnet").canonical(placement.stages(model))
    config = write_config(tmp_path_factory.mktemp("config") / "best.json", placements=bare.placements)
    folders.export(json.loads(config.read_text()), out, seconds=0)
    return out


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "model.py/../../x", "proof.json"])
def test_an_exported_folder_that_lists_other_files(exported: Path, tmp_path: Path, name: str) -> None:
    said = json.loads((exported / "proof.json").read_text())
    for source in exported.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    said["files"][name] = "0" * 64
    (tmp_path / "proof.json").write_text(folders._sealed(said))
    with pytest.raises(folders.FolderError, match="must list .* and none but these"):
        folders.check(tmp_path, seconds=0)


def test_links_in_an_exported_folder_are_not_written_through(exported: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    config = json.loads((exported / "architecture.json").read_text())
    for name in ("model.py", "README.md", "proof.json", ".nas-export-lock"):
        out = tmp_path / f"out-{name}"
        out.mkdir()
        (out / "architecture.json").write_bytes((exported / "architecture.json").read_bytes())
        (out / name).symlink_to(victim)
        with pytest.raises(ValueError, match="which would be replaced|is a link, which no export makes"):
            folders.export(config, out, seconds=0)
        assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["weights.safetensors", "train/.lock"])
def test_links_in_a_folder_that_is_trained_are_not_written_through(exported: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "best"
    (folder / "train").mkdir(parents=True)
    (folder / "architecture.json").write_bytes((exported / "architecture.json").read_bytes())
    (folder / name).symlink_to(victim)
    with pytest.raises(ValueError, match="is a link"):
        full.train(folder, dataclasses.replace(asked(tmp_path, epochs=1), out=None))
    assert victim.read_text() == "precious"


def test_an_export_to_odd_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    study = toy.create(tmp_path / "studies")
    run(study, toy.evaluate, space=toy.space(), budget=2, sampler="random")
    study.close()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "dangling").symlink_to("none/there")
    assert cli.main(["export", "--out", "folder"]) == 2
    assert "the folder holds something else than an export" in capsys.readouterr().err
    assert cli.main(["export", "--out", "dangling"]) == 0  # a link stays a link, and leads where its owner wants
    assert (tmp_path / "none" / "there").is_file()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine.txt"]


def test_class_folders_are_names_and_nothing_else(tmp_path: Path) -> None:
    from PIL import Image

    names = ("<img src=x onerror=alert(1)>", "$(touch x)", "a\nb", "..x", "{0}%s", "\u202e")
    for name in names:
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name / f"{number}.png")
    listing = list_folder(tmp_path / "pets", 8)
    assert set(listing.classes) == set(names) - {"..x"}  # what begins with a point is hidden
    (tmp_path / "pets" / "$(touch x)" / "up").symlink_to(tmp_path / "pets" / "$(touch x)")
    with pytest.raises(ValueError, match="leads to a folder that is listed already"):
        list_folder(tmp_path / "pets", 8)

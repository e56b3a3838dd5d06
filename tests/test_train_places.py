"""Where a full training writes what: a folder of its own keeps to itself, an export folder gets the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_config import LIMIT, asked, write_config

from nas import cli
from nas.train import full


def test_a_folder_of_its_own_leaves_the_weights_of_another_training_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported, out = tmp_path / "exported", tmp_path / "other"
    write_config(exported / "architecture.json")
    words = ["train", str(exported), "--limit", str(LIMIT), "--epochs", "1", "--device", "cpu"]
    assert cli.main(words) == 0
    weights = exported / "weights.safetensors"
    said = capsys.readouterr().out
    assert f"wrote {weights} and, in {exported / 'train'}, train.json and train.md" in said
    assert f"`export --out {exported}`, of the same architecture again, makes these weights part of" in said

    before = weights.read_bytes()
    assert cli.main([*words, "--lr", "0.01", "--out", str(out)]) == 0
    assert weights.read_bytes() == before
    assert (out / "weights.safetensors").read_bytes() not in (b"", before)
    said = capsys.readouterr().out
    assert f"wrote weights.safetensors, train.json and train.md into {out}" in said
    assert "export --out" not in said


def test_the_folder_within_the_export_may_be_asked_for(tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    write_config(exported / "architecture.json")
    outcome = full.train(exported, asked(exported / "train", epochs=1))
    assert outcome.weights == exported / "train" / "weights.safetensors"
    assert not (exported / "weights.safetensors").exists()
    # What holds in this folder is claimed of this folder only: in another one the test images are looked at again.
    assert outcome.facts["Test split"].endswith(
        "each network met them once in this folder, after its training; looks from other folders are not counted"
    )

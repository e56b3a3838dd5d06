"""The verb `backbones`: families, one backbone, patterns, names that there are not."""

from __future__ import annotations

import pytest

from nas import backbones
from nas.cli import main
from nas.placement import BackboneError


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["backbones", *words]) == 0
    return capsys.readouterr().out


def test_families(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([], capsys)
    lines = text.splitlines()
    assert len(lines) > 60
    (resnets,) = [line for line in lines if line.startswith("resnet ")]
    assert int(resnets.split()[1]) > 50
    assert text.endswith("where each can hold blocks: run_search.py backbones PATTERN\n")


def test_one_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(["seresnet18"], capsys).splitlines() == [
        "seresnet18: 11.8 M parameters, probed with 3 x 224 x 224",
        "  stage  module  channels  1/  layout  after_stage  in_residual  replace",
        "  0      act1    64        2   NCHW    1 x 64       -            -",
        "  1      layer1  64        4   NCHW    1 x 64       2 x 64       2 x 64",
        "  2      layer2  128       8   NCHW    1 x 128      2 x 128      2 x 128",
        "  3      layer3  256       16  NCHW    1 x 256      2 x 256      2 x 256",
        "  4      layer4  512       32  NCHW    1 x 512      2 x 512      2 x 512",
    ]


def test_a_class_token_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(["test_vit"], capsys).splitlines()
    assert len(lines) == 9
    assert lines[2].split() == ["0", "blocks.0", "64", "16", "NLC", "1", "x", "64", "2", "x", "64", "-"]
    assert lines[7].split() == ["5", "blocks.5", "64", "16", "NLC", "-", "-", "-"]
    assert lines[8] == "  nothing after stage 5: the head reads only the tokens before the map, which pass a block by"


def test_several_widths_at_one_position() -> None:
    (text,) = backbones.listing("mobilenetv3_small_050")
    assert "1 x 64, 2 x 144, 2 x 72" in text


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("test_vit?", ["test_vit2", "test_vit3", "test_vit4"]),
        ("resnet18", ["resnet18"]),
        ("*eresnet18", ["legacy_seresnet18", "seresnet18"]),
        ("tiny_r_s16", ["vit_tiny_r_s16_p8_224", "vit_tiny_r_s16_p8_384"]),  # no pattern: a part of names
    ],
)
def test_patterns(pattern: str, found: list[str]) -> None:
    assert backbones.names(pattern) == found


@pytest.mark.parametrize("pattern", ["resnet81", "*nothing*", ""])
def test_unknown_names(pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", pattern]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"run_search.py: timm knows no backbone '{pattern}'; ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_tag_names_weights_of_an_architecture() -> None:
    assert backbones.names("resnet18.a1_in1k") == ["resnet18"]


def test_a_refused_backbone_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_model: object) -> None:
        raise BackboneError("it has no map")

    monkeypatch.setattr("nas.placement.plan_of", refuse)
    support = backbones.survey("test_resnet")
    assert (support.refusal, support.stages) == ("it has no map", ())
    assert (
        backbones.table(support)
        == f"test_resnet: {support.parameters / 1000:.0f} k parameters\n  refused: it has no map"
    )

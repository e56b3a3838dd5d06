"""``model.py``: the network written out as code is the network, and needs nothing of this program."""

from __future__ import annotations

import ast
import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from exported import architecture_of, content_of
from torch import nn

from nas import export
from nas.architecture import Placement
from nas.attention import BLOCKS
from nas.export import sources, standalone
from nas.export.isolated import load_model_file
from nas.export.selfcheck import answers, difference, fill, noise

LINE = 120


def code_of(content: dict[str, Any], folder: Path) -> Any:
    """Write a network out and import what was written."""
    path = folder / "model.py"
    path.write_text(standalone.source(architecture_of(content), content), encoding="utf-8")
    return load_model_file(str(path), "written")


def pair(content: dict[str, Any], folder: Path) -> tuple[nn.Module, nn.Module]:
    """Return the network as it is written out and as this program builds it, under one seed."""
    code = code_of(content, folder)
    torch.manual_seed(0)
    mine = code.build()
    torch.manual_seed(0)
    return mine, export.build(architecture_of(content), content)


def images_of(content: dict[str, Any], count: int) -> torch.Tensor:
    side = content["protocol"]["resolution"]
    return noise(f"{count} images", (count, content["in_channels"], side, side)).float()


def assert_equal(mine: nn.Module, original: nn.Module, content: dict[str, Any]) -> None:
    ours, theirs = mine.state_dict(), original.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)  # as one seed drew them
    assert mine.training == original.training
    for model in (mine, original):
        fill(model, images_of(content, 4))
    for count in (1, 3):
        images = images_of(content, count)
        assert difference(answers(mine, images), answers(original, images)) <= 1e-6
    original.load_state_dict(mine.state_dict())
    mine.load_state_dict(original.state_dict())


def variants() -> list[Placement]:
    """Return every block of the zoo with every choice of each of its options, on stages of test_resnet in turns."""
    widths = [stage["num_chs"] for stage in timm.create_model("test_resnet").feature_info]
    found: dict[Placement, None] = {}
    for spec in BLOCKS.values():
        wanted: list[dict[str, Any]] = [{}]
        for name, option in spec.options.items():
            with_it = {} if option.when is None else {option.when[0]: option.when[1][0]}
            wanted += [{**with_it, name: value} for value in option.choices if value != option.default]
        for options in wanted:
            stages = [(len(found) + offset) % len(widths) for offset in range(len(widths))]
            fitting = [stage for stage in stages if is_possible(spec.name, options, widths[stage])]
            if options and not fitting:
                continue  # all stages of this small network are too narrow for the choice
            stage = fitting[0]
            init = ("identity", "paper")[len(found) % 2]
            found[Placement(stage=stage, block=spec.name, options=options, init=init)] = None
    return list(found)


def is_possible(block: str, options: dict[str, Any], channels: int) -> bool:
    try:
        BLOCKS[block].check(options, channels)
    except ValueError:
        return False
    return BLOCKS[block].possible(channels) is None


def zoo() -> Iterator[tuple[Placement, ...]]:
    """Yield networks that together hold all variants, at most one at a stage."""
    left = variants()
    while left:
        chosen: dict[int, Placement] = {}
        for placement in left:
            chosen.setdefault(placement.stage, placement)
        left = [placement for placement in left if placement not in chosen.values()]
        yield tuple(chosen.values())


@pytest.mark.slow
def test_every_option_is_written_out(tmp_path: Path) -> None:
    for placements in zoo():
        content = content_of("test_resnet", *placements)
        assert_equal(*pair(content, tmp_path), content)


def test_every_block_is_written_out(tmp_path: Path) -> None:
    widths = [stage["num_chs"] for stage in timm.create_model("test_resnet").feature_info]
    left = list(BLOCKS)
    while left:
        chosen = [Placement(stage=stage, block=left.pop(), init="identity") for stage in range(len(widths)) if left]
        content = content_of("test_resnet", *chosen)
        assert_equal(*pair(content, tmp_path), content)


@pytest.mark.parametrize(
    ("backbone", "placements", "arguments"),
    [
        pytest.param("test_resnet", (), {"channels": 1}, id="bare"),
        pytest.param(
            "mobilenetv3_small_050",
            (
                Placement(stage=3, block="eca", position="replace", init="identity"),
                Placement(stage=3, block="se", position="in_residual"),
                Placement(stage=4, block="none", position="replace"),
            ),
            {},
            id="replace",
        ),
        pytest.param(
            "test_resnet",
            (
                Placement(stage=1, block="cbam", position="in_residual", init="identity"),
                Placement(stage=1, block="se"),
            ),
            {"model_kwargs": {"drop_path_rate": 0.1}},
            id="in_residual",
        ),
        pytest.param(
            "vit_tiny_patch16_224",
            (Placement(stage=2, block="mhsa"), Placement(stage=5, block="coord", position="in_residual")),
            {"resolution": 48, "model_kwargs": {"img_size": 48}},
            id="tokens",
        ),
        pytest.param(
            "swin_tiny_patch4_window7_224",
            (Placement(stage=1, block="se"), Placement(stage=3, block="sge", position="in_residual")),
            {"resolution": 64, "model_kwargs": {"img_size": 64}},
            id="NHWC",
        ),
        pytest.param(
            "convnext_atto", (Placement(stage=2, block="gc", options={"fusion": "scale"}),), {}, id="convnext"
        ),
        pytest.param(
            "hiera_tiny_224",
            (Placement(stage=1, block="cbam"),),
            {"resolution": 224},
            id="tokens in another order",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "crossvit_tiny_240",
            (Placement(stage=1, block="se"),),
            {"resolution": 240},
            id="lists of tokens",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_layout_and_position_is_written_out(
    backbone: str, placements: tuple[Placement, ...], arguments: dict[str, Any], tmp_path: Path
) -> None:
    content = content_of(backbone, *placements, **arguments)
    assert_equal(*pair(content, tmp_path), content)


FIXED = (Placement(stage=2, block="se", init="identity"), Placement(stage=4, block="mhsa", position="in_residual"))


def test_the_text_is_readable_and_says_where_blocks_stand(tmp_path: Path) -> None:
    content = content_of("test_resnet", *FIXED, model_kwargs={"drop_path_rate": 0.1})
    text = standalone.source(architecture_of(content), content)
    assert '"""test_resnet with 2 attention blocks: images of 3 x 32 x 32 to 10 classes.' in text
    assert "trial 3 of the study toy; 90.0 [80.0, 95.0] % of the validation images" in text
    assert "1.100 [1.050, 1.150] times the latency of the bare backbone on cpu: some" in " ".join(text.split())
    assert "    # after stage 2 (layer2): se(reduction=16), on 48 channels\n" in text
    assert 'attach(model, "layer2.0", "attention_2", SE(48, reduction=16, init="identity"), layout)' in text
    assert 'MODEL_KWARGS = {"drop_path_rate": 0.1}' in text
    assert max(map(len, text.splitlines())) <= LINE
    assert "class ECA" not in text  # beside SE in its file
    assert "Raises:\n        ValueError: On a value that the table" not in text  # nothing is checked any more
    assert imported(text) <= {"timm", "torch", "safetensors", *sys.stdlib_module_names}


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not installed")
def test_the_text_is_formatted_and_lints(tmp_path: Path) -> None:
    for number, placements in enumerate([(), FIXED, next(zoo())]):
        content = content_of("test_resnet", *placements)
        (tmp_path / f"{number}.py").write_text(standalone.source(architecture_of(content), content))
    for words in (["format", "--check"], ["check", "--select", "B,C4,E,F,I,PIE,SIM,UP,W"]):
        found = subprocess.run(
            ["ruff", *words, "--isolated", "--no-cache", "--line-length", str(LINE), str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stdout


def imported(text: str) -> set[str]:
    """Return the packages that a file imports."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


HOSTILE = ['"""\nraise SystemExit(7)\n"""', "\\", "' + str(1) + '", "\N{RIGHT-TO-LEFT OVERRIDE}", "{}", "\r\nimport os"]


@pytest.mark.parametrize("words", HOSTILE)
def test_what_a_config_says_is_never_executed(words: str) -> None:
    placement = Placement(stage=2, block="se")
    plain = content_of("test_resnet", placement)
    evidence = {"study": words, "trial": words, "latency": {**plain["evidence"]["latency"], "device": words}}
    hostile = content_of("test_resnet", placement, evidence=evidence)
    texts = [standalone.source(architecture_of(content), content) for content in (plain, hostile)]
    first, second = (ast.dump(ast.Module(ast.parse(text).body[1:], [])) for text in texts)
    assert first == second  # all but the docstring


def test_arguments_for_the_backbone_are_data() -> None:
    content = content_of("test_resnet", model_kwargs={"drop_path_rate": 0.1})
    content["protocol"]["model_kwargs"] = {'"x"': ["\\", "'\"", None, True, 1.5], "y}": "__import__('os')"}
    content["protocol"]["model_kwargs"] |= {"drop_rate": 0.1}
    text = standalone._build(architecture_of(content), content, [])
    assert ast.literal_eval(text.splitlines()[0].partition(" = ")[2]) == content["protocol"]["model_kwargs"]


def test_copies_pickles_compilers_and_exporters_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of("test_resnet", *FIXED)
    name = "written_for_pickles"
    text = standalone.source(architecture_of(content), content)
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    model = __import__(name).build()
    images = images_of(content, 3)
    fill(model, images)
    expected = answers(model, images)
    torch.save(model, tmp_path / "whole.pt")
    monkeypatch.delitem(sys.modules, name)  # the pickle has to find it by itself
    for twin in (copy.deepcopy(model), torch.load(tmp_path / "whole.pt", weights_only=False)):
        assert torch.equal(answers(twin, images), expected)
        assert twin.layer2[0].attention_2 is not model.layer2[0].attention_2
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), expected)
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
        torch.testing.assert_close(program.module()(images[:2]), expected[:2], rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_a_checkpoint_of_the_backbone_loads_by_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of("test_resnet", *FIXED)
    code = code_of(content, tmp_path)
    trained = timm.create_model("test_resnet", num_classes=1000)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    asked = []
    make = timm.create_model

    def from_file(*arguments: Any, **named: Any) -> nn.Module:
        asked.append(named["pretrained"])
        return make(*arguments, **named, pretrained_cfg_overlay={"file": str(tmp_path / "trained.pth")})

    monkeypatch.setattr(code.timm, "create_model", from_file)
    model = code.build(pretrained=True)
    assert asked == [True]
    kept = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("fc.")}
    assert len(kept) > 20
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in kept.items())
    assert model.num_classes == 10


def test_other_heads_and_images_can_be_asked_for(tmp_path: Path) -> None:
    content = content_of("test_resnet", *FIXED)
    model = code_of(content, tmp_path).build(num_classes=3, in_channels=1)
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_tracing_names_what_it_cannot_write() -> None:
    with pytest.raises(ValueError, match="nas.attention.channel does not define SEE"):
        sources.written([("nas.attention.channel", "SEE")])
    with pytest.raises(ValueError, match="nas.architecture, line .*: nearest may only check"):
        sources.written([("nas.architecture", "json_object")])
    with pytest.raises(ValueError, match="is defined in nas.* and in nas.*: one of them needs a new name"):
        sources.written([("nas.attention.mixing", "_branch"), ("nas.placement.sites", "_branch")])


def test_methods_that_nothing_refers_to_are_left_out() -> None:
    (section,) = [
        each
        for each in sources.written([("nas.placement.layout", "Layout")]).sections
        if each.module.endswith("layout")
    ]
    text = "\n".join(section.texts)
    assert "def channels_of" not in text
    assert "def map_shape" not in text
    attached = sources.written([("nas.placement.hosting", "attach")])
    text = "\n".join(text for each in attached.sections for text in each.texts)
    assert "def apply" in text  # by the name of the method alone
    assert "def _grid_of" in text
    assert "class Slot" not in text

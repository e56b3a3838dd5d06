"""Trained weights: from files and through timm's own way, in whole or in part, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from placed import bare, everywhere, put, spread
from safetensors.torch import save_file
from torch import Tensor, nn

from nas import placement
from nas.architecture import Architecture
from nas.placement import BackboneError, Weights


def trained(backbone: str = "test_resnet", **arguments: Any) -> dict[str, Tensor]:
    """A checkpoint whose every number differs from a fresh model's, statistics of norms included."""
    torch.manual_seed(17)
    state = timm.create_model(backbone, **arguments).state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.mul_(0.5).add_(0.3 * torch.rand(tensor.shape))
    return {name: tensor.contiguous() for name, tensor in state.items()}


def write(state: dict[str, Tensor], path: Path, form: str) -> Path:
    if form == "safetensors":
        save_file(state, path)
    elif form == "wrapped":
        prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": prefixed, "epoch": 3}, path)
    else:
        torch.save(state, path)
    return path


def read(path: Path, backbone: str = "test_resnet", classes: int = 5, **arguments: Any) -> Weights:
    return placement.pretrained(backbone, num_classes=classes, checkpoint=path, **arguments)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(trained(num_classes=5), tmp_path / "weights.pth", "plain")


FORMS = [
    ("plain", "w.pth"),
    ("plain", "w.pt"),
    ("plain", "w.bin"),
    ("wrapped", "w.pth"),
    ("safetensors", "w.safetensors"),
]


@pytest.mark.parametrize(("form", "name"), FORMS)
def test_a_file_loads_whole(form: str, name: str, tmp_path: Path) -> None:
    state = trained(num_classes=5)
    path = write(state, tmp_path / name, form)
    weights = read(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert weights.words == f"{name} (sha256 {digest})"
    assert weights.describe() == f"{weights.words}: {len(state)} of {len(state)} tensors of the backbone"
    model = placement.build(Architecture(backbone="test_resnet"), num_classes=5, weights=weights)
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_other_classes_start_fresh(backbone: str, tmp_path: Path) -> None:
    state = trained(backbone, num_classes=11)
    weights = read(write(state, tmp_path / "w.pth", "plain"), backbone)
    assert len(weights.tensors) == len(state) - 2
    assert weights.describe().endswith(
        f": {len(state) - 2} of {len(state)} tensors of the backbone; the classifier's 2 start fresh"
    )
    torch.manual_seed(4)
    fresh = placement.create(backbone, num_classes=5).state_dict()
    torch.manual_seed(4)
    found = placement.build(Architecture(backbone=backbone), num_classes=5, weights=weights).state_dict()
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name] if name in weights.tensors else fresh[name]), name


def test_other_channels_are_converted_as_timm_does(tmp_path: Path) -> None:
    state = trained(num_classes=5)
    weights = read(write(state, tmp_path / "w.pth", "plain"), in_channels=1)
    torch.testing.assert_close(weights.tensors["conv1.0.weight"], state["conv1.0.weight"].sum(1, keepdim=True))
    assert len(weights.tensors) == weights.total
    grey = write(trained(num_classes=5, in_chans=1), tmp_path / "grey.pth", "plain")
    assert torch.equal(read(grey, in_channels=1).tensors["conv1.0.weight"], torch.load(grey)["conv1.0.weight"])


def test_position_embeddings_are_fitted_to_the_image(tmp_path: Path) -> None:
    state = trained("test_vit", num_classes=5)
    path = write(state, tmp_path / "w.pth", "plain")
    weights = read(path, "test_vit", model_kwargs={"img_size": 64})
    assert weights.tensors["pos_embed"].shape[1] == 16 + 1 != state["pos_embed"].shape[1]
    assert len(weights.tensors) == weights.total
    model = placement.create("test_vit", num_classes=5, model_kwargs={"img_size": 64})
    weights.load(model)
    torch.testing.assert_close(model.pos_embed, weights.tensors["pos_embed"])
    assert torch.equal(read(path, "test_vit").tensors["pos_embed"], state["pos_embed"])


@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "test_vit",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("test_byobnet", "test_convnext", "test_mambaout")),
    ],
)
def test_identity_blocks_on_trained_weights_change_nothing(backbone: str, tmp_path: Path) -> None:
    weights = read(write(trained(backbone, num_classes=7), tmp_path / "w.safetensors", "safetensors"), backbone, 7)
    plain = placement.build(Architecture(backbone=backbone), num_classes=7, weights=weights).eval()
    wanted = everywhere(bare(backbone, device="meta"), "cbam", positions=("after_stage", "in_residual"))
    with_blocks = placement.build(wanted, num_classes=7, weights=weights).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = plain(images)
        assert torch.equal(with_blocks(images), expected)
        assert not torch.equal(bare(backbone)(images), expected)
    assert {id(block) for block in placement.blocks(with_blocks)}


def test_a_model_with_blocks_takes_them_too(file: Path) -> None:
    weights = read(file)
    model = placement.create("test_resnet", num_classes=5)
    model.asked = ("test_resnet", ())
    put(model, "se", "after_stage", "in_residual")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "attention_" in name}
    weights.load(model)
    found = model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.tensors.items())
    assert before
    assert set(found) - set(weights.tensors) == set(before)
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


def test_a_model_that_lacks_a_place_is_refused(file: Path) -> None:
    with pytest.raises(BackboneError, match=r"weights.pth \(sha256 .*\) has conv1.0.weight, for which .* has no place"):
        read(file).load(placement.create("test_resnet", num_classes=5, in_channels=1))
    with pytest.raises(BackboneError, match="has fc.weight, for which ResNet has no place"):
        read(file).load(placement.create("test_resnet", num_classes=6))


def test_weights_are_a_copy(file: Path) -> None:
    weights = read(file)
    kept = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    model = placement.build(spread(bare("test_resnet")), num_classes=5, weights=weights)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights.tensors.items())


class Runs:
    """Creates a file when it is read as a pickle."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.marker)],)


def unsafe(folder: Path) -> dict[str, Any]:
    return {**trained(num_classes=5), "note": Runs(folder / "ran")}


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.tar", "w"])
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_is_never_executed(name: str, save: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    save(unsafe(tmp_path), tmp_path / name)
    with pytest.raises(BackboneError, match=r"more than tensors, and reading it could run code; save .*state_dict\(\)"):
        read(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / name, weights_only=False) if save is torch.save else pickle.loads(
        (tmp_path / name).read_bytes()
    )
    assert (tmp_path / "ran").exists()  # so it was a trap


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(bare(), tmp_path / "model.pth")
    with pytest.raises(BackboneError, match="holds more than tensors"):
        read(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage " * 1000, b"PK\x03\x04 not really"])
def test_garbage_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BackboneError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_was_cut_off_is_refused(share: float, tmp_path: Path) -> None:
    for form, name in FORMS[-2:]:
        path = write(trained(num_classes=5), tmp_path / name, form)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(BackboneError, match=name):
            read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="there is no checkpoint .*nothing.pth"):
        read(tmp_path / "nothing.pth")
    with pytest.raises(BackboneError, match="there is no checkpoint"):
        read(tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = write(trained("test_efficientnet", num_classes=5), tmp_path / "w.pth", "plain")
    with pytest.raises(BackboneError, match=r"w.pth \(sha256 .*\) does not load into test_resnet: .*[Mm]issing key"):
        read(path)


@pytest.mark.parametrize("change", ["without a tensor", "with one more", "another shape", "nothing", "no tensors"])
def test_tensors_that_do_not_fit_are_refused(change: str, tmp_path: Path) -> None:
    state = trained(num_classes=5)
    if change == "without a tensor":
        del state["layer2.0.bn2.running_mean"]
    elif change == "with one more":
        state["extra.weight"] = torch.zeros(3)
    elif change == "another shape":
        state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"][:-1]
    elif change == "nothing":
        state = {}
    else:
        state = dict.fromkeys(state, 1.0)  # type: ignore[misc]
    path = write(state, tmp_path / "w.pth", "plain")
    with pytest.raises(BackboneError, match="w.pth"):
        read(path)


@pytest.mark.parametrize("classes", [5, 9])
def test_a_checkpoint_without_its_classifier_loads(classes: int, tmp_path: Path) -> None:
    state = trained(num_classes=5)
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    weights = read(write(body, tmp_path / "w.pth", "plain"), classes=classes)
    assert set(weights.tensors) == set(body)


def test_timms_own_weights_come_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's entry for the backbone points to a file here instead of the hub; all else is the way of a download."""
    state = trained()
    path = write(state, tmp_path / "timms.pth", "plain")
    entry = timm.models.get_pretrained_cfg("test_resnet")
    local = dataclasses.replace(entry, file=str(path), hf_hub_id=None, url=None)
    for name in ("test_resnet", f"test_resnet.{entry.tag}"):
        monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, name, local)
    weights = placement.pretrained("test_resnet", num_classes=5)
    assert weights.words == "timm's test_resnet"
    assert len(weights.tensors) == len(state) - 2
    assert torch.equal(weights.tensors["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    whole = placement.pretrained("test_resnet", num_classes=1000)
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in state.items())
    tagged = placement.pretrained(f"test_resnet.{entry.tag}", num_classes=5, in_channels=1)
    assert tagged.words == f"timm's test_resnet.{entry.tag}"
    torch.testing.assert_close(tagged.tensors["conv1.0.weight"], state["conv1.0.weight"].sum(1, keepdim=True))


def test_weights_that_leave_something_out_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where timm does not say which layers depend on the classes, nothing may be missing."""
    entry = timm.models.get_pretrained_cfg("test_resnet")
    path = write(trained(), tmp_path / "timms.pth", "plain")
    local = dataclasses.replace(entry, file=str(path), hf_hub_id=None, url=None, classifier=None)
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "test_resnet", local)
    with pytest.raises(
        BackboneError, match="test_resnet does not cover test_resnet: 2 tensors are missing, such as fc"
    ):
        placement.pretrained("test_resnet", num_classes=5)
    assert len(placement.pretrained("test_resnet", num_classes=1000).tensors) == 92


def test_a_backbone_that_timm_has_no_weights_for_is_refused() -> None:
    message = "timm's seresnet18 does not load into seresnet18: No pretrained weights exist for seresnet18"
    with pytest.raises(BackboneError, match=message):
        placement.pretrained("seresnet18", num_classes=5)


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv3_small_050", "test_vit", "pit_ti_distilled_224"])
def test_classifiers_depend_on_the_classes(backbone: str) -> None:
    model = placement.create(backbone, num_classes=13, device="meta")
    layers = placement.classifiers(model)
    assert len(layers) == (2 if "distilled" in backbone else 1)
    assert all(isinstance(layer, nn.Linear) and layer.out_features == 13 for layer in layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nonsense": 1}, r"timm cannot build test_resnet for 3-channel images, nonsense=1: TypeError"),
        *(
            ({name: 1}, f"the model argument {name} follows from the data and the flags and cannot be given")
            for name in ("num_classes", "in_chans", "pretrained", "features_only", "checkpoint_path", "pretrained_cfg")
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        placement.create("test_resnet", num_classes=5, model_kwargs=arguments)


def test_arguments_reach_the_model() -> None:
    model = placement.create("test_convnext", num_classes=5, model_kwargs={"drop_path_rate": 0.25})
    assert max(getattr(module, "drop_prob", None) or 0 for module in model.modules()) == 0.25


@pytest.mark.parametrize(
    ("backbone", "resolution", "given", "fitted"),
    [
        ("test_resnet", 32, {}, {}),
        ("test_vit", 64, {"dynamic_img_size": False}, {"dynamic_img_size": False, "img_size": 64}),
        ("test_vit", 64, {"img_size": 64}, {"img_size": 64}),
        ("swin_tiny_patch4_window7_224", 64, {}, {"img_size": 64}),
    ],
)
def test_a_backbone_is_made_for_the_size_of_the_images(
    backbone: str, resolution: int, given: dict[str, Any], fitted: dict[str, Any]
) -> None:
    found = placement.fit_kwargs(backbone, num_classes=5, in_channels=1, resolution=resolution, model_kwargs=given)
    assert found == fitted


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(BackboneError, match="inception_v3 does not run on images of 1 x 16 x 16: RuntimeError: Calc"):
        placement.fit_kwargs("inception_v3", num_classes=5, in_channels=1, resolution=16)
    with pytest.raises(BackboneError, match="swin_tiny_patch4_window7_224 does not run on images of 3 x 64 x 64"):
        placement.fit_kwargs(
            "swin_tiny_patch4_window7_224",
            num_classes=5,
            in_channels=3,
            resolution=64,
            model_kwargs={"img_size": 96},
        )

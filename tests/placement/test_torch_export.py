"""torch.compile, torch.export and ONNX agree with the model as it is, blocks included."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_torch_model import images, ready
from torch import nn

from nas import placement

SLOW = pytest.mark.slow
SIX = ("test_resnet", "mobilenetv3_small_050", "test_convnext", "test_mambaout", "test_vit", "hrnet_w18_small")
"""Six backbones of different layouts; all of them are compiled and exported without blocks, too."""
six = pytest.mark.parametrize(
    "backbone", [name if name == "test_mambaout" else pytest.param(name, marks=SLOW) for name in SIX]
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backbone", SIX)
def test_compiles_as_one_graph(backbone: str, training: bool) -> None:
    model, changed = ready(backbone)
    model.double().train(training)
    twin = copy.deepcopy(model)
    x = images(backbone, 4).double()
    expected = model(x)
    output = torch.compile(twin, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(output, expected)
    for result in (expected, output):
        result.square().sum().backward()
    for insertion in changed:
        blocks = [network.get_submodule(insertion.path) for network in (model, twin)]
        for ours, theirs in zip(*(block.parameters() for block in blocks), strict=True):
            assert theirs.grad is not None, insertion.path
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    if training:
        for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)


@six
def test_exports_for_any_batch(backbone: str) -> None:
    model, _ = ready(backbone)
    program = exported(model, backbone)
    assert any("attention_" in name for name in program.state_dict)
    with torch.no_grad():
        for size in (1, 5):
            x = images(backbone, size)
            close(program.module()(x), model(x))


def exported(model: nn.Module, backbone: str) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        return torch.export.export(model, (images(backbone, 3),), dynamic_shapes=({0: batch},))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SIX)
def test_onnx_agrees(backbone: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model, _ = ready(backbone)
    file = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(model, (images(backbone, 3),), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for size in (1, 5):
        x = images(backbone, size)
        (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            wanted = model(x)
            close(torch.from_numpy(output), wanted)
            plain = copy.deepcopy(model)
            placement.remove(plain)
            assert not torch.allclose(plain(x), wanted, rtol=1e-3)  # so a graph without blocks would have been seen


@pytest.mark.slow
def test_lists_of_tokens_export_and_compile() -> None:
    model, _ = ready("crossvit_tiny_240")
    x = images("crossvit_tiny_240", 2)
    with torch.no_grad():
        expected = model(x)
        close(torch.export.export(model, (x,)).module()(x), expected)
        close(torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")(x), expected)

"""A model with blocks stays an ordinary torch model: copies, states, checkpointing, means, DDP, timm's own calls."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from placed import bare, listen, plan, spread
from timm.utils import ModelEmaV3
from torch import nn
from torch.func import functional_call

from nas import placement
from nas.placement import Insertion

SLOW = pytest.mark.slow
MODELS: dict[str, dict[str, Any]] = {
    "test_resnet": {},  # NCHW
    "test_byobnet": {},  # NCHW with gates of its own
    "test_convnext": {},  # NCHW, before drop path
    "test_mambaout": {},  # NHWC
    "test_vit": {"img_size": 64},  # tokens, one before them
    "mobilenetv3_small_050": {},
    "crossvit_tiny_240": {},  # lists of tokens
    "hrnet_w18_small": {},  # lists of maps
}
QUICK = ("test_byobnet", "test_mambaout", "test_vit")
every = pytest.mark.parametrize(
    "backbone", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in MODELS]
)
tiny = pytest.mark.parametrize(
    "backbone",
    [name if name in QUICK else pytest.param(name, marks=SLOW) for name in MODELS if name.startswith("test_")],
)


def ready(backbone: str, init: str = "paper") -> tuple[nn.Module, tuple[Insertion, ...]]:
    """A model with various blocks at various positions, none of which is an identity."""
    model = bare(backbone, **MODELS[backbone])
    changed = placement.insert(model, spread(model, init=init), plan=plan(*model.asked))
    assert {"after_stage", "in_residual"} <= {insertion.placement.position for insertion in changed}
    return model, changed


def images(backbone: str, count: int = 2) -> torch.Tensor:
    size = 240 if backbone == "crossvit_tiny_240" else 64
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def saved_whole(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_whole])
@every
def test_a_copy_runs_its_own_blocks(backbone: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    model, changed = ready(backbone)
    twin = copied(model)
    x = images(backbone)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(twin(x), expected)
        assert {id(module) for module in twin.modules()}.isdisjoint(id(module) for module in model.modules())
        heard, unheard = listen(twin, changed), listen(model, changed)
        for insertion in changed:
            for parameter in twin.get_submodule(insertion.path).parameters():
                parameter.add_(0.5)
        assert not torch.equal(twin(x), expected)
        assert len(heard) == len(changed)
        assert unheard == []
        assert torch.equal(model(x), expected)


@every
def test_a_state_dict_goes_round(backbone: str) -> None:
    model, _ = ready(backbone)
    torch.manual_seed(1)
    other = placement.create(backbone, num_classes=7, model_kwargs=MODELS[backbone]).eval()
    placement.insert(other, spread(model))
    x = images(backbone)
    with torch.no_grad():
        assert not torch.equal(other(x), model(x))
        other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(other(x), model(x))


@every
def test_channels_last_agrees(backbone: str) -> None:
    model, _ = ready(backbone)
    x = images(backbone)
    with torch.no_grad():
        expected = model(x)
        found = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


NO_CHECKPOINTING = ("hrnet_w18_small", "crossvit_tiny_240")  # timm itself asserts that these have none
CHECKPOINTING = [name for name in MODELS if name not in NO_CHECKPOINTING]


@pytest.mark.parametrize(
    "backbone", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in CHECKPOINTING]
)
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint. the use_reentrant parameter")  # older timm's own call
def test_gradient_checkpointing_runs_the_blocks(backbone: str) -> None:
    model, changed = ready(backbone)
    x = images(backbone)
    expected = model(x)
    expected.square().sum().backward()
    wanted = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    model.set_grad_checkpointing()
    paths: list[str] = []
    for insertion in changed:
        block = model.get_submodule(insertion.path)
        block.register_forward_pre_hook(lambda _module, _inputs, path=insertion.path: paths.append(path))
    output = model(x)
    assert torch.equal(output, expected)
    output.square().sum().backward()
    assert max(paths.count(path) for path in paths) == 2  # some ran once more on the way back
    for name, gradient in wanted.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)
    assert sum("attention_" in name for name in wanted) > 4


@every
def test_another_classifier(backbone: str) -> None:
    model, changed = ready(backbone)
    with torch.no_grad():
        features = model.forward_features(images(backbone))
        model.reset_classifier(3)
        heard = listen(model, changed)
        assert model(images(backbone)).shape == (2, 3)
        assert len(heard) == len(changed)
        again = model.forward_features(images(backbone))
        for ours, theirs in zip(flat(again), flat(features), strict=True):
            assert torch.equal(ours, theirs)


def flat(output: Any) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else [leaf for item in output for leaf in flat(item)]


@every
def test_the_features_are_those_with_blocks(backbone: str) -> None:
    model, changed = ready(backbone)
    heard = listen(model, changed)
    with torch.no_grad():
        model.forward_features(images(backbone))
        assert len(heard) == len(changed)


@tiny
def test_the_intermediate_maps_are_those_with_blocks(backbone: str) -> None:
    model, changed = ready(backbone)
    heard = listen(model, changed)
    with torch.no_grad():
        found = model.forward_intermediates(images(backbone), intermediates_only=True)
        ran = [path for path, _ in heard]
        assert sorted(ran) == sorted(insertion.path for insertion in changed)
        placement.remove(model)
        plain = model.forward_intermediates(images(backbone), intermediates_only=True)
    assert len(found) == len(plain) > 3
    assert not torch.equal(found[-1], plain[-1])


@every
def test_a_functional_call(backbone: str) -> None:
    model, changed = ready(backbone)
    x = images(backbone)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = {name: tensor + 0.5 * (f"{changed[0].path}." in name) for name, tensor in state.items()}
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(functional_call(model, state, (x,)), expected)
        assert not torch.equal(functional_call(model, other, (x,)), expected)
        assert torch.equal(model(x), expected)


@tiny
def test_an_exponential_mean_follows_the_blocks(backbone: str) -> None:
    model, changed = ready(backbone)
    mean = ModelEmaV3(model, decay=0.5)
    x = images(backbone)
    with torch.no_grad():
        first = {name: tensor.clone() for name, tensor in model.named_parameters()}
        for parameter in model.parameters():
            parameter.add_(1.0)
        mean.update(model)
        for name, tensor in mean.module.named_parameters():
            torch.testing.assert_close(tensor, first[name] + 0.5)
        heard = listen(mean.module, changed)
        mean(x)
    assert len(heard) == len(changed)


@tiny
@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # of kernels of depth 1, with blocks or without
def test_ddp_trains_the_blocks(backbone: str, tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    model, changed = ready(backbone)
    model.train()
    alone = copy.deepcopy(model)
    x = images(backbone, 4)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        for network in (parallel, alone):
            network(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for insertion in changed:
        for name, parameter in model.get_submodule(insertion.path).named_parameters():
            assert parameter.grad is not None, f"{insertion.path}.{name}"
            torch.testing.assert_close(parameter.grad, alone.get_submodule(insertion.path).get_parameter(name).grad)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_the_plan_of_a_twin_saves_finding_it(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = placement.plan_of(bare(backbone, device="meta", **MODELS[backbone]))
    expected, _ = ready(backbone)
    model = bare(backbone, **MODELS[backbone])
    wanted = spread(model)

    def fail(_model: nn.Module) -> None:
        raise AssertionError("probed again")

    monkeypatch.setattr("nas.placement.insertion.plan_of", fail)
    placement.insert(model, wanted, plan=known)
    assert list(model.state_dict()) == list(expected.state_dict())
    model.load_state_dict(expected.state_dict())
    with torch.no_grad():
        assert torch.equal(model(images(backbone)), expected(images(backbone)))

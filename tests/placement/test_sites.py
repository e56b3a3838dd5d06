"""What is read off the structure of a network: stages, ends of residual branches, gates, what the head does not see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from handmade import (
    CBAM,
    ECA,
    GLU,
    SE,
    WIDTH,
    Branch,
    Dense,
    Drop,
    Iterating,
    LayerScale,
    Net,
    Spatial,
    Squash,
    SwappedSE,
    Transformer,
    conv,
)
from torch import Tensor, nn

from nas import placement
from nas.architecture import Architecture, Placement
from nas.placement import BackboneError
from nas.placement.plan import CLASS_TOKEN


def points(model: nn.Module, position: str, stage: int = 0) -> list[str]:
    return [point.path for point in placement.plan_of(model).points[stage, position]]


def branch_ends(stage: nn.Module) -> list[tuple[str, bool]]:
    found = placement.plan_of(Net(stage)).points[0, "in_residual"]
    return [(point.path, point.before) for point in found]


RESIDUALS = {
    "activation behind the sum": Branch(lambda m, x: torch.relu(m.both(x) + x)),
    "shortcut on the left": Branch(lambda m, x: torch.relu(x + m.both(x))),
    "sum in place": Branch(lambda m, x: m.both(x).add_(x)),
    "augmented sum": Branch(lambda m, x: augmented(m.both(x), x)),
    "torch.add": Branch(lambda m, x: torch.add(x, m.both(x))),
    "projection on the left": Branch(lambda m, x: m.proj(x) + m.both(x), proj=conv()),
    "projection on the right": Branch(lambda m, x: m.both(x) + m.proj(x), proj=conv()),
    "pooled projection": Branch(
        lambda m, x: m.both(x) + m.proj(x), proj=nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(), nn.BatchNorm2d(WIDTH))
    ),
    "scaled by a number": Branch(lambda m, x: x + 0.2 * m.both(x)),
    "scaled in place": Branch(lambda m, x: x + m.both(x).mul_(0.2)),
    "scaled by a parameter": Branch(lambda m, x: x + m.gamma * m.both(x), gamma=nn.Parameter(torch.ones(WIDTH, 1, 1))),
    "activation on the branch": Branch(lambda m, x: x + torch.relu(m.both(x))),
    "one activation twice": Branch(lambda m, x: m.act(x + m.act(m.both(x))), act=nn.ReLU()),
    "two things added to the shortcut": Branch(lambda m, x: m.both(x) + (x + 1.0)),
}


def augmented(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


@pytest.mark.parametrize("stage", RESIDUALS.values(), ids=RESIDUALS)
def test_a_branch_ends_in_its_last_norm(stage: nn.Module) -> None:
    assert branch_ends(stage) == [("stage.bn2", False)]


OTHER_ENDS = {
    "before the activation": (
        Branch(lambda m, x: x + m.conv2(torch.relu(m.bn2(m.conv1(m.bn1(x)))))),
        [("stage.conv2", False)],
    ),
    "before what drops it": (Branch(lambda m, x: x + m.drop(m.both(x)), drop=Drop()), [("stage.bn2", False)]),
    "scaled, before what drops it": (
        Branch(lambda m, x: x + m.drop(0.2 * m.both(x)), drop=Drop()),
        [("stage.drop", True)],
    ),
    "behind its own scale": (Branch(lambda m, x: x + m.ls(m.both(x)), ls=LayerScale()), [("stage.ls", False)]),
    "scale, then drop": (
        Branch(lambda m, x: x + m.drop(m.ls(m.both(x))), ls=LayerScale(), drop=Drop()),
        [("stage.ls", False)],
    ),
    "behind its gate": (Branch(lambda m, x: x + m.se(m.both(x)), se=SE()), [("stage.se", False)]),
    "in a sequence": (
        Branch(lambda m, x: x + m.path(x), path=nn.Sequential(conv(), nn.ReLU(), conv())),
        [("stage.path", False)],
    ),
    "an outer and an inner one": (
        Branch(lambda m, x: x + m.inner(x), inner=Branch(lambda m, x: x + m.both(x))),
        [("stage.inner.bn2", False), ("stage.inner", False)],
    ),
    "one after the other": (
        Branch(lambda m, x: (lambda y: y + m.conv2(torch.relu(y)))(x + m.conv1(torch.relu(x)))),
        [("stage.conv1", False), ("stage.conv2", False)],
    ),
    "two branches, no shortcut": (Branch(lambda m, x: m.conv1(x) + m.conv2(x)), []),
    "a tree of branches": (Branch(lambda m, x: m.conv1(x) + m.conv2(x) + m.proj(x), proj=conv()), []),
    "one convolution twice": (Branch(lambda m, x: x + m.conv1(torch.relu(m.conv1(x)))), []),
    "concatenation": (Branch(lambda m, x: m.conv2(torch.cat([x, m.conv1(x)], 1)[:, WIDTH:])), []),
    "a plain stack": (Branch(lambda m, x: m.both(x)), []),
    "another width": (Branch(lambda m, x: x + m.conv1(x).mean(1, keepdim=True)), []),
    "a bias": (Branch(lambda m, x: m.both(x) + m.bias, bias=nn.Parameter(torch.ones(1, WIDTH, 8, 8))), []),
    "no weights on the branch": (Branch(lambda m, x: m.both(x + torch.relu(x))), []),
}


@pytest.mark.parametrize(("stage", "expected"), OTHER_ENDS.values(), ids=OTHER_ENDS)
def test_ends_of_branches(stage: nn.Module, expected: list[tuple[str, bool]]) -> None:
    assert branch_ends(stage) == expected


GATES = {
    "SE": (SE(), ["stage"]),
    "SE, factors swapped": (SwappedSE(), ["stage"]),
    "a gate for each pixel": (SE(pooled=False), ["stage"]),
    "ECA": (ECA(), ["stage"]),
    "spatial": (Spatial(), ["stage"]),
    "CBAM: the outer one": (CBAM(), ["stage"]),
    "in a branch": (Branch(lambda m, x: x + m.se(m.both(x)), se=SE()), ["stage.se"]),
    "two in turn": (Branch(lambda m, x: m.two(m.one(m.both(x))), one=SE(), two=ECA()), ["stage.one", "stage.two"]),
    "one used twice": (Branch(lambda m, x: m.se(m.conv1(m.se(x))), se=SE()), []),
    "layer scale": (LayerScale(), []),
    "GLU": (GLU(), []),
    "swish": (Squash(), []),
    "a residual block": (RESIDUALS["scaled by a number"], []),
    "a gate of another input": (Branch(lambda m, x: m.conv1(x) * torch.sigmoid(m.conv2(x))), []),
}


@pytest.mark.parametrize(("stage", "expected"), GATES.values(), ids=GATES)
def test_gates(stage: nn.Module, expected: list[str]) -> None:
    plain = Branch(lambda m, x: m.rest(m.conv1(x)), rest=stage) if expected == ["stage"] else stage
    wanted = ["stage.rest"] if expected == ["stage"] else expected
    assert points(Net(plain), "replace") == wanted


@pytest.mark.parametrize(
    ("stage", "item"),
    [
        (Branch(lambda m, x: (m.both(x), None)), (0,)),
        (Branch(lambda m, x: [m.both(x), x.mean((2, 3))]), (0,)),
        (Branch(lambda m, x: ([m.both(x)], x.mean())), (0, 0)),
    ],
    ids=["tuple", "list", "nested"],
)
def test_a_map_inside_of_what_a_stage_returns(stage: nn.Module, item: tuple[int, ...]) -> None:
    model = Net(stage).eval()
    (point,) = placement.plan_of(model).points[0, "after_stage"]
    assert (point.path, point.layout.item) == ("stage", item)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(images)
        insert(model, "cbam", "identity")
        assert torch.equal(model(images), expected)
        placement.remove(model)
        insert(model, "cbam", "paper")
        assert not torch.equal(model(images), expected)
        assert [type(leaf) for leaf in model.stage(model.stem(images))] == [
            type(leaf) for leaf in stage.run(stage, model.stem(images))
        ]


def insert(model: nn.Module, block: str, init: str, stage: int = 0) -> str:
    placements = (Placement(stage=stage, block=block, init=init),)
    (changed,) = placement.insert(model, Architecture(backbone="handmade", placements=placements))
    return changed.path


@pytest.mark.parametrize(
    ("stage", "width", "path"),
    [
        (nn.Sequential(conv(), conv()), WIDTH, "stage.1.attention_0"),
        (nn.Sequential(conv(), nn.Sequential(conv(), nn.ReLU())), WIDTH, "stage.1.1.attention_0"),
        (Iterating({"a": conv(), "b": conv()}), WIDTH, "stage.b.attention_0"),
        (Iterating({"a": conv(), "b": nn.Sequential(conv(), conv())}), WIDTH, "stage.b.1.attention_0"),
        (Iterating({"a": conv(), "b": Iterating({"c": conv()})}), WIDTH, "stage.b.c.attention_0"),
        (Dense({"a": conv(8, 4), "b": conv(12, 4)}), 16, "stage.b.attention_0"),
    ],
    ids=["sequence", "nested sequence", "iterating", "iterating a sequence", "iterating twice", "dense"],
)
def test_a_module_that_runs_its_children_runs_the_block_once(stage: nn.Module, width: int, path: str) -> None:
    model = Net(stage, width=width).eval()
    assert insert(model, "se", "paper") == path
    images = torch.randn(2, 3, 16, 16)
    seen = []
    block = model.get_submodule(path)
    block.register_forward_hook(lambda _module, given, output: seen.append((given[0], output)))
    with torch.no_grad():
        output = model(images)
        ((given, result),) = seen
        placement.remove(model)
        expected = model.stage(model.stem(images))
        assert torch.equal(given, expected)
        assert torch.equal(output, model.fc(result.mean((2, 3))))


@pytest.mark.parametrize("kind", [lambda *parts: nn.Sequential(*parts), lambda a, b: Iterating({"a": a, "b": b})])
@pytest.mark.parametrize("first", [True, False])
def test_a_last_child_that_runs_elsewhere_too_runs_the_block_once(kind: Callable[..., nn.Module], first: bool) -> None:
    shared = nn.ReLU()
    model = Net(kind(conv(), shared)).eval()
    if first:
        model.stem = nn.Sequential(model.stem, shared)  # so that it is known by the other name
    else:
        model.after = shared
    calls = []
    block = model.get_submodule(insert(model, "se", "paper"))
    block.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(1, 3, 16, 16))
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["stage", "nothing.like.it", "", "fc"])
def test_a_stage_whose_name_is_wrong_is_found_by_what_it_returns(name: str) -> None:
    stage = nn.Sequential(conv(8, 16), nn.ReLU(), conv(16, 12))
    model = Net(stage, name=name, width=12)
    assert points(model, "after_stage") == ["stage"]
    assert insert(model, "se", "paper") == "stage.2.attention_0"


def test_a_stage_that_nothing_returns_is_refused() -> None:
    model = Net(conv())
    model.feature_info[0] |= {"num_chs": 99, "module": "stage"}
    with pytest.raises(BackboneError, match=r"handmade: no module returns stage 0 \('stage', 99 channels at 1/2 of"):
        placement.stages(model)


def test_a_map_that_the_result_does_not_need_is_no_stage() -> None:
    side = Branch(lambda m, x: (m.conv2(x), m.conv1(x))[1])
    model = Net(side, name="stage.conv2")
    assert points(model, "after_stage") == ["stage"]


def test_a_map_that_is_used_inside_the_stage_only_is_no_stage() -> None:
    """What comes out of a stage may be left lying: a block on that would do nothing, so it stands on what is used."""

    class Last(Net):
        def forward(self, x: Tensor) -> Tensor:
            _, x = self.stage(self.stem(x))
            return self.fc(x.mean((2, 3)))

    model = Last(Branch(lambda m, x: (lambda y: (y, m.bn2(m.conv2(y))))(m.conv1(x)))).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(images)
        assert insert(model, "se", "paper") == "stage.bn2.attention_0"
        assert not torch.equal(model(images), expected)


def test_a_norm_of_tokens_belongs_to_what_follows() -> None:
    class Normed(Transformer):
        def __init__(self) -> None:
            super().__init__("mean")
            self.between = nn.LayerNorm(WIDTH)
            self.feature_info[0]["module"] = "not.there"

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            tokens = self.between(self.blocks[0](torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)))
            return self.fc(self.blocks[1](tokens)[:, 1:].mean(1))

    assert points(Normed(), "after_stage") == ["blocks.0"]


def test_a_map_that_is_used_again_behind_the_stage_only() -> None:
    """What comes after the stage's end may use the same tensor: it is the one that the block stands behind."""
    side = Branch(lambda m, x: (lambda y: y + m.conv2(y))(m.conv1(x)))
    assert points(Net(side, name="stage.conv1"), "after_stage") == ["stage.conv1"]


def test_a_network_that_runs_on_no_image_is_refused() -> None:
    def fail(_module: nn.Module, _x: Tensor) -> Tensor:
        raise RuntimeError("never")

    with pytest.raises(
        BackboneError, match="handmade runs on no image that was tried; the first, 3 x 16 x 16: Runtime"
    ):
        placement.stages(Net(Branch(fail)))


@pytest.mark.parametrize("prefix", [1, 3])
@pytest.mark.parametrize(("pool", "dead"), [("token", True), ("mean", False), ("all", False)])
def test_what_the_head_does_not_see_is_refused(pool: str, dead: bool, prefix: int) -> None:
    model = Transformer(pool, prefix=prefix).eval()
    first, last = placement.stages(model)
    assert (first.layout, first.refusal, first.branches) == ("NLC", "", (WIDTH, WIDTH))
    assert (last.refusal, last.branches) == ((CLASS_TOKEN, ()) if dead else ("", (WIDTH, WIDTH)))
    assert points(model, "in_residual") == ["blocks.0.attn", "blocks.0.mlp"]
    assert placement.plan_of(model).points[0, "after_stage"][0].layout.prefix == prefix


@pytest.mark.parametrize("position", ["after_stage", "in_residual"])
def test_prefix_tokens_pass_by(position: str) -> None:
    model = Transformer("all", prefix=3).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model.blocks[0](tokens := torch.randn(2, 19, WIDTH))
        placements = (Placement(stage=0, block="cbam", position=position),)
        changed = placement.insert(model, Architecture(backbone="handmade", placements=placements))
        assert len(changed) == (1 if position == "after_stage" else 2)
        if position == "in_residual":
            attended = model.blocks[0].attn(model.blocks[0].norm(tokens))
            placement.remove(model)
            plain = model.blocks[0].attn(model.blocks[0].norm(tokens))
            assert torch.equal(attended[:, :3], plain[:, :3])
            assert not torch.equal(attended[:, 3:], plain[:, 3:])
        else:
            found = model.blocks[0](tokens)
            assert torch.equal(found[:, :3], expected[:, :3])
            assert not torch.equal(found[:, 3:], expected[:, 3:])
        assert model(images).isfinite().all()


def test_a_branch_that_is_dropped_by_keyword_gets_its_block() -> None:
    model = Net(Branch(lambda m, x: x + m.drop(x=0.2 * m.both(x)), drop=Drop())).eval()
    placements = (Placement(stage=0, block="se", position="in_residual"),)
    placement.insert(model, Architecture(backbone="handmade", placements=placements))
    assert model(torch.randn(1, 3, 16, 16)).isfinite().all()

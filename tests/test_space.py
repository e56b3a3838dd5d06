"""Search spaces: what they refuse, how they count, that they yield only distinct canonical architectures."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nas import space as spaces
from nas.architecture import Stage
from nas.attention import BLOCKS
from nas.space import ResolvedSpace, SearchSpace

STAGES = tuple(
    Stage(index=index, name=f"layer{index}", channels=width, reduction=2**index)
    for index, width in enumerate((32, 64, 256))
)


def resolve(stages: tuple[int, ...] | None = None, **arguments: Any) -> ResolvedSpace:
    arguments = {"backbones": ("toy",), "blocks": ("se", "eca"), "stages": stages, **arguments}
    return SearchSpace(**arguments).resolve({"toy": STAGES, "other": STAGES[:2]})


@pytest.mark.parametrize(
    ("blocks", "stages"),
    [(("se", "eca"), None), (("shuffle", "sge", "simam"), (0, 2)), (tuple(BLOCKS), (1,))],
)
def test_enumeration_yields_each_architecture_once(blocks: tuple[str, ...], stages: tuple[int, ...] | None) -> None:
    space = resolve(stages, blocks=blocks)
    found = list(space.enumerate())
    assert len(found) == len({architecture.id for architecture in found}) == space.size()
    assert found[0].placements == ()


def test_every_architecture_is_canonical() -> None:
    for architecture in resolve((0, 1), blocks=("se", "coord", "shuffle")).enumerate():
        assert architecture.canonical(STAGES) == architecture


def test_samples_are_members_of_the_space() -> None:
    space = resolve((0, 2), blocks=("se", "eca", "sge"))
    members = {architecture.id for architecture in space.enumerate()}
    generator = random.Random(0)
    drawn = {space.sample(lambda _, options: generator.choice(list(options))).id for _ in range(400)}
    assert drawn <= members
    assert len(drawn) > 30


def test_one_name_always_offers_the_same_options() -> None:
    space = resolve(backbones=("toy", "other"))
    asked: dict[str, tuple[Any, ...]] = {}
    generator = random.Random(0)

    def choose(name: str, options: Sequence[Any]) -> Any:
        assert asked.setdefault(name, tuple(options)) == tuple(options)
        assert len(options) > 1
        return generator.choice(list(options))

    backbones = {space.sample(choose).backbone for _ in range(300)}
    assert backbones == {"toy", "other"}
    assert space.size() == len(list(space.enumerate()))


def test_controls_are_the_bare_backbone_and_the_uniform_ones() -> None:
    controls = resolve().controls()
    assert [control.label for control in controls] == ["bare", "se everywhere", "eca everywhere", "cbam everywhere"]
    assert controls[0].architecture.placements == ()
    for control in controls[1:]:
        assert [placement.stage for placement in control.architecture.placements] == [0, 1, 2]


def test_the_choices_of_a_control_lead_to_it() -> None:
    space = resolve(blocks=("se", "cbam", "simam"))
    for control in space.controls():
        if control.choices:
            assert space.sample(lambda name, _, c=control: c.choices[name]) == control.architecture
    assert [bool(control.choices) for control in space.controls()] == [True, True, False, True]


def test_named_values_restrict_the_choice() -> None:
    space = resolve((2,), blocks={"se": {"reduction": (8, 4)}, "eca": {}})
    assert space.sites["toy"][0].blocks["se"] == {"reduction": (8, 4)}
    assert space.sites["toy"][0].blocks["eca"]["kernel_size"] == BLOCKS["eca"].valid("kernel_size", 256)


def test_values_that_clamp_to_one_network_are_one_choice() -> None:
    space = resolve((0,), blocks={"se": {"reduction": (8, 16, 32)}})
    assert space.size() == 2  # nothing, or four hidden units


def test_a_block_without_a_possible_value_is_not_offered() -> None:
    narrow = (Stage(index=0, name="stem", channels=3, reduction=2),)
    space = SearchSpace(backbones=("toy",), blocks=("se", "shuffle")).resolve({"toy": narrow})
    assert list(space.sites["toy"][0].blocks) == ["se"]


def test_init_reaches_every_placement() -> None:
    for architecture in resolve((0,), init="paper").enumerate():
        assert all(placement.init == "paper" for placement in architecture.placements)


def test_the_hash_tells_spaces_apart() -> None:
    assert resolve().hash == resolve().hash
    assert len({resolve().hash, resolve((0,)).hash, resolve(blocks=("se",)).hash, resolve(init="paper").hash}) == 4


def test_what_is_kept_belongs_to_one_space() -> None:
    space, other = resolve(), resolve(init="paper")
    space.controls().clear()
    assert len(space.controls()) == 4
    assert space.hash == resolve().hash
    assert dataclasses.replace(space, space=other.space).hash == other.hash
    assert dataclasses.replace(space, space=other.space).controls() == other.controls() != space.controls()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": ("se", "ecaa")}, "unknown block 'ecaa'; did you mean 'eca'"),
        ({"blocks": ("none", "se")}, "'none' is always a choice and is not listed"),
        ({"blocks": ()}, r"blocks must name at least one block, but got \(\)"),
        ({"blocks": "se"}, "blocks must name at least one block, but got 'se'"),
        ({"blocks": {"se": {"ratio": (4,)}}}, "ratio"),
        ({"blocks": {"se": {"reduction": 4}}}, "se.reduction must be a tuple of values, at least one, but got 4"),
        ({"blocks": {"se": {"reduction": ()}}}, "se.reduction must be a tuple of values, at least one"),
        ({"blocks": {"se": {"reduction": (0,)}}}, "reduction"),
        ({"blocks": {"se": (4,)}}, r"options of se must map names to tuples of values, but got \(4,\)"),
        ({"stages": ()}, r"stages must be a tuple of distinct entries, at least one, but got \(\)"),
        ({"stages": (1, 1)}, "stages must be a tuple of distinct entries"),
        ({"backbones": "toy"}, "backbones must be a tuple of distinct entries, at least one, but got 'toy'"),
        ({"init": "zero"}, "init must be one of paper, identity, but got 'zero'"),
        ({"positions": ("middle",)}, "position must be one of after_stage, in_residual, replace, but got 'middle'"),
        ({"positions": ()}, r"positions must be a tuple of distinct entries, at least one, but got \(\)"),
        ({"positions": ("replace", "replace")}, "positions must be a tuple of distinct entries"),
        ({"positions": "replace"}, "positions must be a tuple of distinct entries, at least one, but got 'replace'"),
        ({"positions": None}, "positions must be a tuple of distinct entries, at least one, but got None"),
        ({"stages": (0, 9)}, "toy has no stage 9; its stages: 0, 1, 2"),
        ({"blocks": {"shuffle": {"groups": (64,)}}}, r"stage 0 \(layer0, 32 channels\) of toy: .*groups"),
    ],
)
def test_a_wrong_space_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(**arguments)


@pytest.mark.parametrize("name", spaces.names())
def test_the_spaces_that_come_along_fit_any_width(name: str) -> None:
    space = spaces.load(name)
    widths = [Stage(index=i, name=str(i), channels=c, reduction=2) for i, c in enumerate((24, 40, 96, 1536))]
    assert space.resolve(dict.fromkeys(space.backbones, widths)).size() > 1000


def test_the_spaces_that_come_along() -> None:
    assert spaces.names() == ["channel_only", "default", "lightweight", "whole_zoo"]


def test_a_space_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from nas.space import SearchSpace\nSPACE = SearchSpace(backbones=('toy',), blocks=('se',))\n")
    assert list(spaces.load(str(path)).values) == ["se"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("SPACE = 3", r"must define SPACE = SearchSpace\(...\), but its SPACE is 3"),
        ("", r"must define SPACE = SearchSpace\(...\), but its SPACE is None"),
        ("SPACE = (", "failed: SyntaxError"),
        ("import missing_module", "failed: ModuleNotFoundError"),
        (
            "from nas.space import SearchSpace\nSPACE = SearchSpace(backbones=('a',), blocks=('xyz',))",
            "failed: ValueError: unknown block 'xyz'",
        ),
    ],
)
def test_a_malformed_space_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        spaces.load(str(path))


def test_an_unknown_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown space 'defualt'; did you mean 'default'"):
        spaces.load("defualt")
    with pytest.raises(ValueError, match="no space file"):
        spaces.load(str(tmp_path / "absent.py"))
    with pytest.raises(ValueError, match="no space file"):
        spaces.load(str(tmp_path))

"""Search spaces with positions: several places in a stage, of several widths, and built-in attention to take out."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from nas.architecture import NONE, POSITIONS, Architecture, Placement, Stage
from nas.attention import BLOCKS
from nas.space import REMOVE, ResolvedSpace, SearchSpace

STAGES = (
    Stage(index=0, name="stem", channels=32, reduction=2),
    Stage(index=1, name="blocks.0", channels=24, reduction=4, branches=(24, 24), slots=(80, 90, 80)),
    Stage(index=2, name="blocks.1", channels=40, reduction=8, branches=(40,), slots=(7, 64), refusal="two maps"),
    Stage(index=3, name="blocks.2", channels=64, reduction=16, branches=(64, 128)),
)
SUBSETS = [positions for count in (1, 2, 3) for positions in itertools.permutations(POSITIONS, count)]


def resolve(*positions: str, **arguments: Any) -> ResolvedSpace:
    arguments = {"backbones": ("toy",), "blocks": ("se", "shuffle"), "positions": positions, **arguments}
    return SearchSpace(**arguments).resolve({"toy": STAGES, "other": STAGES[1:]})


def brute_force(space: ResolvedSpace) -> set[str]:
    """Return the ids of all that can be built of the blocks' choices, whatever is possible where."""
    found = set()
    for backbone, stages in (("toy", STAGES), ("other", STAGES[1:])):
        if backbone not in space.sites:
            continue
        asked = [stage for stage in stages if space.space.stages is None or stage.index in space.space.stages]
        per_stage: list[list[Placement | None]] = []
        for stage in asked:
            per_stage.append([None])
            for position, block in itertools.product(space.space.positions, (NONE, *space.space.values)):
                names = space.space.values.get(block, {})
                options = {} if block == NONE else BLOCKS[block].options
                pools = [names.get(name, option.choices) for name, option in options.items()]
                for values in itertools.product(*pools):
                    chosen = dict(zip(options, values, strict=True))
                    arguments = {"block": block, "options": chosen, "position": position, "init": space.space.init}
                    try:
                        placement = Placement(stage=stage.index, **arguments)  # type: ignore[arg-type]
                        (placement,) = canonical(placement, backbone).placements
                    except ValueError:
                        continue
                    per_stage[-1].append(placement)
            per_stage[-1] = list(dict.fromkeys(per_stage[-1]))
        for combination in itertools.product(*per_stage):
            placements = tuple(placement for placement in combination if placement is not None)
            found.add(Architecture(backbone=backbone, placements=placements).id)
    return found


def canonical(placement: Placement, backbone: str = "toy") -> Architecture:
    return Architecture(backbone=backbone, placements=(placement,)).canonical(STAGES)


@pytest.mark.parametrize("positions", SUBSETS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"blocks": {"se": {"reduction": (16, 17, 18)}, "shuffle": {}}, "stages": (1, 2)},
        {"blocks": ("simam", "eca"), "init": "paper", "stages": (2, 3, 1)},
        {"blocks": ("gc", "nonlocal"), "stages": (1,), "backbones": ("toy", "other")},
        {"blocks": {"se": {"reduction": (8,)}}},
    ],
)
def test_enumeration_is_all_that_there_is(positions: tuple[str, ...], arguments: dict[str, Any]) -> None:
    space = resolve(*positions, **_feasible(arguments, positions))
    found = list(space.enumerate())
    ids = {architecture.id for architecture in found}
    assert len(found) == len(ids) == space.size()
    assert ids == brute_force(space)
    assert all(architecture.canonical(STAGES) == architecture for architecture in found)
    assert found[0].placements == ()


def _feasible(arguments: dict[str, Any], positions: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments without the stages that have none of the positions."""
    stages = arguments.get("stages")
    if stages is None:
        return arguments
    kept = tuple(index for index in stages if any(STAGES[index].widths(position) for position in positions))
    return {**arguments, "stages": kept}


@pytest.mark.parametrize("positions", SUBSETS)
def test_samples_are_members_and_reach_everything(positions: tuple[str, ...]) -> None:
    space = resolve(*positions, blocks={"se": {"reduction": (4, 8)}, "simam": {}}, stages=None)
    generator = random.Random(0)
    members = {architecture.id for architecture in space.enumerate()}
    assert {space.sample(lambda _, choices: generator.choice(list(choices))).id for _ in range(200)} <= members
    small = resolve(*positions, blocks={"se": {"reduction": (4, 8)}}, **_feasible({"stages": (1, 2)}, positions))
    drawn = {small.sample(lambda _, choices: generator.choice(list(choices))).id for _ in range(600)}
    assert drawn == {architecture.id for architecture in small.enumerate()}


@pytest.mark.parametrize("positions", SUBSETS)
@pytest.mark.parametrize("backbones", [("toy",), ("toy", "other")])
def test_one_name_always_offers_the_same_choices(positions: tuple[str, ...], backbones: tuple[str, ...]) -> None:
    space = resolve(*positions, blocks=tuple(BLOCKS), backbones=backbones)
    asked: dict[str, tuple[Any, ...]] = {}
    generator = random.Random(0)

    def choose(name: str, choices: Sequence[Any]) -> Any:
        assert asked.setdefault(name, tuple(choices)) == tuple(choices)
        assert len(choices) == len(set(choices)) > 1
        return generator.choice(list(choices))

    for _ in range(300):
        architecture = space.sample(choose)
        assert architecture.canonical(STAGES) == architecture
        stages = [placement.stage for placement in architecture.placements]
        assert len(stages) == len(set(stages))


def questions(space: ResolvedSpace) -> dict[str, tuple[Any, ...]]:
    asked: dict[str, tuple[Any, ...]] = defaultdict(tuple)
    generator = random.Random(0)

    def choose(name: str, choices: Sequence[Any]) -> Any:
        asked[name] = tuple(choices)
        return generator.choice(list(choices))

    for _ in range(300):
        space.sample(choose)
    return asked


def test_the_questions_of_one_position() -> None:
    asked = questions(resolve("replace"))
    assert {name: choices for name, choices in asked.items() if "reduction" not in name and "groups" not in name} == {
        "stage1.block": (NONE, REMOVE, "se", "shuffle"),
        "stage2.block": (NONE, REMOVE, "se"),  # shuffle cannot split 7 channels
    }
    assert asked["stage1.se.reduction"] == (4, 8, 16, 32)
    assert asked["stage1.shuffle.groups"] == ()  # 80 and 90 channels split alike by the paper's rule alone


def test_the_questions_of_several_positions() -> None:
    asked = questions(resolve("in_residual", "after_stage", "replace"))
    assert {name: choices for name, choices in asked.items() if "reduction" not in name and "groups" not in name} == {
        "stage0.block": (NONE, "se", "shuffle"),
        "stage1.block": (NONE, REMOVE, "se", "shuffle"),
        "stage1.se.position": ("in_residual", "after_stage", "replace"),
        "stage1.shuffle.position": ("in_residual", "after_stage", "replace"),
        "stage2.block": (NONE, REMOVE, "se", "shuffle"),
        "stage2.se.position": ("in_residual", "replace"),
        "stage3.block": (NONE, "se", "shuffle"),
        "stage3.se.position": ("in_residual", "after_stage"),
        "stage3.shuffle.position": ("in_residual", "after_stage"),
    }
    assert "stage0.after_stage.se.reduction" in asked
    assert "stage2.replace.se.reduction" in asked
    assert "stage2.in_residual.shuffle.groups" in asked


def test_a_block_at_a_place_fits_all_of_its_widths() -> None:
    space = resolve("replace", blocks=("se", "shuffle", "eca"))
    widths = {site.stage.index: site.widths for site in space.sites["toy"]}
    assert widths == {1: (80, 90), 2: (7, 64)}
    assert list(space.sites["toy"][1].blocks) == ["se", "eca"]
    assert space.sites["toy"][1].blocks["eca"] == {"kernel_size": (None, 3, 5, 7)}
    named = resolve("replace", blocks={"se": {"reduction": (18, 17, 16)}}, stages=(1,))
    assert named.sites["toy"][0].blocks["se"] == {"reduction": (17, 16)}


def test_named_numbers_are_floats() -> None:
    space = resolve("in_residual", blocks={"simam": {"lambda_": (1, 1.0, 0.5)}}, stages=(3,))
    assert space.sites["toy"][0].blocks["simam"] == {"lambda_": (1.0, 0.5)}


@pytest.mark.parametrize("positions", SUBSETS)
@pytest.mark.parametrize("blocks", [("se",), ("simam",), {"se": {"reduction": (2,)}, "eca": {}, "cbam": {}}])
@pytest.mark.parametrize("backbones", [("toy",), ("toy", "other")])
def test_the_choices_of_a_control_lead_to_it(positions: tuple[str, ...], blocks: Any, backbones: Any) -> None:
    space = resolve(*positions, blocks=blocks, backbones=backbones)
    controls = space.controls()
    assert len({control.architecture.id for control in controls}) == len(controls)
    for control in controls:
        assert control.architecture.canonical(STAGES) == control.architecture
        names = set()

        def choose(name: str, choices: Sequence[Any], control=control, names=names) -> Any:
            names.add(name)
            assert control.choices[name] in choices
            return control.choices[name]

        if control.choices:
            assert space.sample(choose) == control.architecture
            assert names == set(control.choices)
        else:
            assert control.label.removesuffix(" everywhere") not in blocks


def test_controls_stand_at_the_first_position_of_each_stage() -> None:
    labels = ["bare", "built-in attention removed", "se everywhere", "eca everywhere", "cbam everywhere"]
    controls = {control.label: control.architecture for control in resolve("replace", "after_stage").controls()}
    assert list(controls) == labels
    assert controls["built-in attention removed"].describe() == "1 replace: none; 2 replace: none"
    for label in labels[2:]:
        where = [(placement.stage, placement.position) for placement in controls[label].placements]
        assert where == [(0, "after_stage"), (1, "replace"), (2, "replace"), (3, "after_stage")]
    assert [control.label for control in resolve("in_residual").controls()] == ["bare", *labels[2:]]


def test_a_control_that_equals_another_comes_once() -> None:
    narrow = (Stage(index=0, name="stem", channels=1, reduction=2, slots=(1,)),)
    space = SearchSpace(backbones=("toy",), blocks=("nam",), positions=("replace",)).resolve({"toy": narrow})
    assert [control.label for control in space.controls()][:2] == ["bare", "built-in attention removed"]
    assert space.size() == 2
    assert len({control.architecture.id for control in space.controls()}) == len(space.controls())


def test_a_stage_without_any_of_the_positions_is_left_out() -> None:
    assert {site.stage.index for site in resolve("replace").sites["toy"]} == {1, 2}
    assert {site.stage.index for site in resolve("after_stage").sites["toy"]} == {0, 1, 3}
    sites = [(site.stage.index, site.position) for site in resolve("replace", "in_residual").sites["toy"]]
    assert sites == [(1, "replace"), (1, "in_residual"), (2, "replace"), (2, "in_residual"), (3, "in_residual")]


@pytest.mark.parametrize(
    ("positions", "arguments", "message"),
    [
        (
            ("in_residual", "replace"),
            {"stages": (1, 0)},
            r"stage 0 \(stem\) of toy: the stage has no position in_residual or replace; its positions: after_stage$",
        ),
        (
            ("after_stage",),
            {"stages": (2,)},
            r"stage 2 \(blocks.1\) of toy: the stage has no position after_stage; its positions: in_residual, replace; "
            "after_stage is refused: two maps",
        ),
        (
            ("after_stage", "replace"),
            {"stages": (0, 3)},
            "toy has no position replace at any of the stages 0, 3; their positions: after_stage, in_residual$",
        ),
        (
            ("replace",),
            {"blocks": {"shuffle": {}, "sge": {"groups": (16,)}}},
            r"replace of stage 1 \(blocks.0, 80, 90 channels\) of toy: sge: groups must be .*, "
            "but got 16 at 90 channels; choices: None",
        ),
        (
            ("replace",),
            {"blocks": {"shuffle": {"groups": (None,)}}},
            r"replace of stage 2 \(blocks.1, 7, 64 channels\) of toy: shuffle: groups must .* no value fits 7 channels",
        ),
    ],
)
def test_a_space_that_does_not_fit_the_stages_is_refused(
    positions: tuple[str, ...], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(*positions, **arguments)


def test_a_position_that_no_stage_has_is_refused() -> None:
    refused = [Stage(index=i, name=str(i), channels=8, reduction=2, refusal="a list", slots=(8,)) for i in range(2)]
    declared = SearchSpace(backbones=("toy",), blocks=("se",))
    with pytest.raises(
        ValueError,
        match="toy has no position after_stage at any of the stages 0, 1; their positions: replace; "
        "after_stage is refused: a list$",
    ):
        declared.resolve({"toy": refused})


def test_the_hash_tells_positions_and_their_order_apart() -> None:
    assert len({resolve(*positions).hash for positions in SUBSETS}) == len(SUBSETS)
    assert resolve("replace", "in_residual").hash == resolve("replace", "in_residual").hash


def test_the_record_holds_what_may_stand_where() -> None:
    assert resolve("replace", "in_residual", blocks={"se": {"reduction": (8,)}}, stages=(1,)).to_dict() == {
        "backbones": {
            "toy": {
                "stage1": {
                    "name": "blocks.0",
                    "channels": 24,
                    "positions": {
                        "replace": {"widths": [80, 90], "blocks": {"se": {"reduction": [8]}}},
                        "in_residual": {"widths": [24], "blocks": {"se": {"reduction": [8]}}},
                    },
                }
            }
        },
        "positions": ["replace", "in_residual"],
        "init": "identity",
    }

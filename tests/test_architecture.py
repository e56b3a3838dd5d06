"""Architectures as data: canonical, strict, with an id."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest

from nas.architecture import NONE, POSITIONS, Architecture, Placement, Stage

STAGES = (
    Stage(index=0, name="act1", channels=32, reduction=2),
    Stage(index=1, name="layer1", channels=64, reduction=4),
    Stage(index=2, name="layer2", channels=512, reduction=8),
)
PLACES = (
    Stage(index=0, name="stem", channels=32, reduction=2),
    Stage(index=1, name="blocks.0", channels=24, reduction=4, branches=(90, 80, 90), slots=(96, 144, 96)),
    Stage(index=2, name="blocks.1", channels=40, reduction=8, branches=(40,), refusal="it returns two maps"),
)


def placed(*placements: Placement) -> Architecture:
    return Architecture(backbone="resnet18", placements=placements)


def test_json_round_trip() -> None:
    architecture = placed(Placement(stage=2, block="cbam", options={"reduction": 8}, init="identity"))
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert Architecture.from_json(architecture.to_json()).id == architecture.id


def test_the_id_is_of_the_canonical_json() -> None:
    assert placed().id == "c9fe8ad16dbe"
    assert placed().to_json() == '{"backbone":"resnet18","placements":[],"schema":1}'


def test_the_order_of_placements_has_no_effect() -> None:
    first, second = Placement(stage=1, block="se"), Placement(stage=2, block="eca")
    assert placed(first, second) == placed(second, first)
    assert placed(first, second).id == placed(second, first).id


def test_defaults_that_are_spelt_out_have_no_effect() -> None:
    assert Placement(stage=1, block="se") == Placement(stage=1, block="se", options={"reduction": 16})
    assert hash(Placement(stage=1, block="se")) == hash(Placement(stage=1, block="se", options={"reduction": 16}))


def test_clamped_reductions_are_one_architecture() -> None:
    wide, narrow = (
        placed(Placement(stage=0, block="se", options={"reduction": reduction})).canonical(STAGES)
        for reduction in (16, 32)
    )
    assert wide.id == narrow.id
    at_512 = [
        placed(Placement(stage=2, block="se", options={"reduction": reduction})).canonical(STAGES).id
        for reduction in (16, 32)
    ]
    assert at_512[0] != at_512[1]


def test_the_papers_rule_is_resolved_at_the_width() -> None:
    adaptive = placed(Placement(stage=2, block="eca")).canonical(STAGES)
    fixed = placed(Placement(stage=2, block="eca", options={"kernel_size": 5})).canonical(STAGES)
    assert adaptive.id == fixed.id


def test_canonical_is_idempotent() -> None:
    architecture = placed(Placement(stage=0, block="coord"), Placement(stage=1, block="shuffle")).canonical(STAGES)
    assert architecture.canonical(STAGES) == architecture


def test_description() -> None:
    assert placed().describe() == "bare backbone"
    assert placed(Placement(stage=1, block="se")).describe() == "1: se(reduction=16)"


def test_the_widths_of_a_position_are_distinct_and_ascending() -> None:
    assert {position: PLACES[1].widths(position) for position in POSITIONS} == {
        "after_stage": (24,),
        "in_residual": (80, 90),
        "replace": (96, 144),
    }
    assert [stage.positions for stage in PLACES] == [("after_stage",), POSITIONS, ("in_residual",)]
    with pytest.raises(ValueError, match="position must be one of after_stage, in_residual, replace, but got 'end'"):
        PLACES[0].widths("end")


def test_options_equal_at_every_width_of_a_position_are_one_architecture() -> None:
    def reduced(reduction: int, position: str = "in_residual") -> Architecture:
        placement = Placement(stage=1, block="se", options={"reduction": reduction}, position=position)
        return placed(placement).canonical(PLACES)

    assert reduced(17) == reduced(18)  # 4 hidden units at 80 channels, 5 at 90
    assert reduced(17).canonical(PLACES) == reduced(17)
    assert reduced(16) != reduced(17) != reduced(19)
    assert len({reduced(16).id, reduced(16, "after_stage").id, reduced(16, "replace").id}) == 3


def test_one_block_may_stand_at_each_position_of_a_stage() -> None:
    placements = [Placement(stage=1, block="se", position=position) for position in POSITIONS]
    assert placed(*reversed(placements)).placements == tuple(placements)
    with pytest.raises(ValueError, match="at most one block may stand at a stage and position"):
        placed(placements[1], Placement(stage=1, block="eca", position="in_residual"))


def test_built_in_attention_can_be_taken_out() -> None:
    removed = placed(Placement(stage=1, block=NONE, position="replace", init="identity"))
    assert removed.placements[0].options == {}
    assert removed.canonical(PLACES) == placed(Placement(stage=1, block=NONE, position="replace"))
    assert Architecture.from_json(removed.to_json()) == removed
    assert pickle.loads(pickle.dumps(removed)) == removed
    assert removed.id != placed().id


def test_descriptions_tell_positions_apart() -> None:
    inside = Placement(stage=1, block="se", options={"reduction": 8}, position="in_residual")
    removed = Placement(stage=1, block=NONE, position="replace")
    assert placed(removed, inside).describe() == "1 in_residual: se(reduction=8); 1 replace: none"


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (
            Placement(stage=0, block="se", position="replace"),
            r"replace of stage 0 \(stem\) of resnet18: the stage has no position replace; its positions: after_stage$",
        ),
        (
            Placement(stage=0, block=NONE, position="replace"),
            r"stage 0 \(stem\) of resnet18: the stage has no position replace",
        ),
        (
            Placement(stage=2, block="se"),
            r"after_stage of stage 2 \(blocks.1\) of resnet18: the stage has no position after_stage; "
            "its positions: in_residual; after_stage is refused: it returns two maps",
        ),
        (
            Placement(stage=1, block="shuffle", options={"groups": 4}, position="in_residual"),
            r"in_residual of stage 1 \(blocks.0\) of resnet18: shuffle: groups must be .*, "
            "but got 4 at 90 channels; choices: None",
        ),
    ],
)
def test_a_placement_that_the_stage_cannot_have_is_refused(placement: Placement, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placed(placement).canonical(PLACES)


def test_a_stage_without_any_position_says_so() -> None:
    stage = Stage(index=0, name="stem", channels=8, reduction=2, refusal="it runs twice")
    with pytest.raises(ValueError, match="its positions: none; after_stage is refused: it runs twice"):
        placed(Placement(stage=0, block="se")).canonical((stage,))


def test_architectures_can_be_pickled_and_hashed() -> None:
    architecture = placed(Placement(stage=1, block="se"))
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    assert len({architecture, placed(Placement(stage=1, block="se"))}) == 1


def test_an_id_that_was_asked_for_changes_nothing_else() -> None:
    asked, fresh = placed(Placement(stage=1, block="se")), placed(Placement(stage=1, block="se"))
    assert asked.id is asked.id
    assert asked == fresh
    assert hash(asked) == hash(fresh)
    assert repr(asked) == repr(fresh)
    assert asked.to_json() == fresh.to_json()
    assert pickle.loads(pickle.dumps(asked)).id == fresh.id
    assert (
        dataclasses.replace(asked, backbone="resnet34").id
        == Architecture(backbone="resnet34", placements=fresh.placements).id
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": -1, "block": "se"}, "stage must be an integer >= 0, but got -1"),
        ({"stage": True, "block": "se"}, "stage must be an integer >= 0, but got True"),
        ({"stage": 1, "block": "sse"}, "unknown block 'sse'; did you mean 'se'.*known: se, eca"),
        ({"stage": 1, "block": ["se"]}, r"unknown block \['se'\]"),
        ({"stage": 1, "block": "se", "options": 3}, "options of se must be a mapping"),
        ({"stage": 1, "block": "se", "options": {"ratio": 8}}, "ratio"),
        ({"stage": 1, "block": "se", "options": {"reduction": 0}}, "reduction"),
        ({"stage": 1, "block": "se", "options": {"reduction": True}}, "reduction"),
        ({"stage": 1, "block": "cbam", "options": {"kernel_size": 4}}, "kernel_size"),
        (
            {"stage": 1, "block": "se", "position": "before"},
            "position must be one of after_stage, .*, but got 'before'",
        ),
        ({"stage": 1, "block": "none"}, "must stand at replace, but got 'after_stage'; nothing is placed by leaving"),
        ({"stage": 1, "block": "none", "position": "in_residual"}, "must stand at replace, but got 'in_residual'"),
        (
            {"stage": 1, "block": "none", "position": "replace", "options": {"reduction": 4}},
            "options of 'none' must be empty, but got {'reduction': 4}",
        ),
        ({"stage": 1, "block": "se", "init": "zero"}, "init must be one of paper, identity, but got 'zero'"),
    ],
)
def test_a_wrong_placement_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Placement(**arguments)  # type: ignore[arg-type]


def test_two_blocks_at_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match="at most one block may stand at a stage and position"):
        placed(Placement(stage=1, block="se"), Placement(stage=1, block="eca"))


def test_a_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet18 has no stage 7; its stages: 0, 1, 2"):
        placed(Placement(stage=7, block="se")).canonical(STAGES)


def test_an_option_that_is_impossible_at_the_width_is_refused() -> None:
    impossible = placed(Placement(stage=0, block="shuffle", options={"groups": 64}))
    with pytest.raises(ValueError, match=r"stage 0 \(act1\) of resnet18: .*groups"):
        impossible.canonical(STAGES)


GOOD = placed(Placement(stage=1, block="se")).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "architecture has the unknown key 'extra'"),
        ({"schema": 2}, "schema must be 1, but got 2"),
        ({"placements": {}}, "placements must be a list, but got {}"),
        ({"placements": [3]}, "placement 0 must be a JSON object, but got 3"),
        ({"placements": [{"stage": 1}]}, "placement 0 lacks the key 'block'; needed: stage, block"),
        ({"placements": [{"stage": 1, "block": "se", "option": {}}]}, "unknown key 'option'; did you mean 'options'"),
        ({"backbone": 5}, "backbone must be the name of a timm model, but got 5"),
    ],
)
def test_wrong_json_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture.from_json(json.dumps({**GOOD, **change}))


def test_a_missing_key_and_broken_json_are_refused() -> None:
    with pytest.raises(ValueError, match="architecture lacks the key 'backbone'"):
        Architecture.from_dict({"schema": 1, "placements": []})
    with pytest.raises(ValueError, match="an architecture must be JSON, but"):
        Architecture.from_json("{")

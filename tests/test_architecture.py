"""Architectures as data: canonical, strict, with an id."""

from __future__ import annotations

import json
import pickle

import pytest

from nas.architecture import Architecture, Placement, Stage

STAGES = (
    Stage(index=0, name="act1", channels=32, reduction=2),
    Stage(index=1, name="layer1", channels=64, reduction=4),
    Stage(index=2, name="layer2", channels=512, reduction=8),
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


def test_architectures_can_be_pickled_and_hashed() -> None:
    architecture = placed(Placement(stage=1, block="se"))
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    assert len({architecture, placed(Placement(stage=1, block="se"))}) == 1


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
        ({"stage": 1, "block": "se", "position": "before"}, "position must be one of after_stage, but got 'before'"),
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

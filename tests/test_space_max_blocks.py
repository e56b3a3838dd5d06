"""A space that bounds at how many stages something is placed."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import numpy as np
import pytest

from nas.architecture import Stage
from nas.settings import Settings, declared_space
from nas.space import ResolvedSpace, SearchSpace
from nas.study.encoding import Encoding
from nas.study.gain import _candidates

STAGES = tuple(Stage(index=i, name=f"layer{i}", channels=32 * 2**i, reduction=2**i) for i in range(4))


def resolve(most: int | None, blocks: tuple[str, ...] = ("se", "eca", "simam"), **fields: object) -> ResolvedSpace:
    declared = SearchSpace(backbones=("toy",), blocks=blocks, max_blocks=most, **fields)  # type: ignore[arg-type]
    return declared.resolve({"toy": STAGES})


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_bounded_space_is_the_part_of_the_whole_with_so_few_placements(most: int) -> None:
    whole = {each.id for each in resolve(None).enumerate() if len(each.placements) <= most}
    found = [each.id for each in resolve(most).enumerate()]
    assert len(found) == len(set(found)) == resolve(most).size()
    assert set(found) == whole


def test_the_bare_backbone_comes_first() -> None:
    assert next(resolve(2).enumerate()).placements == ()


@pytest.mark.parametrize("bound", [4, 9])
def test_a_bound_that_bounds_nothing_leaves_the_space_what_it_is(bound: int) -> None:
    assert resolve(bound).hash == resolve(None).hash
    assert resolve(bound).size() == resolve(None).size()


def test_another_bound_is_another_space() -> None:
    assert len({resolve(most).hash for most in (None, 1, 2, 3)}) == 4


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "2"])
def test_an_impossible_bound_is_refused(bound: object) -> None:
    with pytest.raises(ValueError, match="max_blocks must be an integer >= 1"):
        resolve(bound)  # type: ignore[arg-type]


def test_drawn_architectures_favour_no_stage() -> None:
    space, generator = resolve(1), random.Random(0)
    drawn = [space.sample(lambda _, options: generator.choice(list(options))) for _ in range(2000)]
    assert max(len(each.placements) for each in drawn) == 1
    used = Counter(each.placements[0].stage for each in drawn if each.placements)
    assert set(used) == {0, 1, 2, 3}
    assert max(used.values()) < 1.3 * min(used.values())


def test_answers_lead_back_to_every_architecture() -> None:
    space = resolve(2)
    for architecture in space.enumerate():
        answers = space.answers(architecture)
        assert answers is not None
        assert space.sample(lambda name, _, given=answers: given[name]) == architecture


def test_what_is_beyond_the_bound_is_not_in_the_space() -> None:
    whole, space = resolve(None), resolve(2)
    beyond = next(each for each in whole.enumerate() if len(each.placements) == 3)
    assert whole.answers(beyond) is not None
    assert space.answers(beyond) is None


def test_the_controls_stay_the_same_and_say_that_the_space_lacks_them() -> None:
    controls = {control.label: control for control in resolve(2).controls()}
    unbounded = {control.label: control for control in resolve(None).controls()}
    assert list(controls) == list(unbounded)
    assert all(controls[label].architecture == unbounded[label].architecture for label in controls)
    assert not controls["se everywhere"].choices
    assert controls["bare"].choices == {"stages": "none"}


def test_a_control_that_fits_is_in_the_space() -> None:
    few = SearchSpace(backbones=("toy",), blocks=("se",), stages=(1, 2), max_blocks=1)
    assert not few.resolve({"toy": STAGES}).controls()[1].choices
    one = SearchSpace(backbones=("toy",), blocks=("se",), stages=(1,), max_blocks=1).resolve({"toy": STAGES})
    assert one.controls()[1].choices


def test_taking_attention_out_counts() -> None:
    slotted = tuple(
        Stage(index=i, name=f"layer{i}", channels=32, reduction=2, slots=(32,) if i else ()) for i in range(4)
    )
    declared = SearchSpace(backbones=("toy",), blocks=("simam",), positions=("replace",), max_blocks=1)
    space = declared.resolve({"toy": slotted})
    found = list(space.enumerate())
    assert max(len(each.placements) for each in found) == 1
    assert sum(each.placements[:1] != () and each.placements[0].block == "none" for each in found) == 3
    (removed,) = (each for each in space.controls() if each.label == "built-in attention removed")
    assert len(removed.architecture.placements) == 3


def test_a_search_may_bound_the_space_that_it_names() -> None:
    assert declared_space(Settings()).max_blocks is None
    assert declared_space(Settings(max_blocks=2)).max_blocks == 2


def test_the_encoding_stays_within_the_bound() -> None:
    space = resolve(2)
    encoding, generator = Encoding(space), np.random.default_rng(0)
    architectures = {each.id: each for each in space.enumerate()}
    good = np.array([encoding.vector(key, partial(lambda each: each, each)) for key, each in architectures.items()])
    drawn = encoding.draw(500, 0.1, generator)
    assert drawn.shape == (500, 4)
    assert ((drawn > 0).sum(axis=1) <= 2).all()
    assert ((drawn > 0).mean(axis=0) > 0.3).all()  # no stage is favoured: each has half of the blocks
    assert ((_candidates(encoding, good, generator) > 0).sum(axis=1) <= 2).all()
    for vector in good[:40]:
        near = encoding.neighbours(vector)
        assert {encoding.architecture(each).id for each in near} <= set(architectures)
        assert ((near != vector).sum(axis=1) == 1).all()
    full = good[(good > 0).sum(axis=1) == 2][0]
    assert (((encoding.neighbours(full) > 0).sum(axis=1)) < 3).all()

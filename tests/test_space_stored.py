"""A space that is read back from what a study keeps of it asks the same questions in the same order."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from typing import Any

import pytest
import toy

from nas.space import ResolvedSpace, SearchSpace, restored

SPACES = {
    "plain": toy.space(),
    "another order": toy.space(("simam", "cbam", "shuffle", "se")),
    "some stages": toy.space(stages=(1, 3)),
    "positions": toy.space(positions=("in_residual", "after_stage")),
    "replace": toy.space(positions=("replace", "after_stage")),
    "bounded": SearchSpace(backbones=("toy",), blocks=("eca", "se"), max_blocks=2, init="paper").resolve(
        {"toy": toy.STAGES}
    ),
    "named values": SearchSpace(backbones=("toy",), blocks={"se": {"reduction": (16, 4)}, "eca": {}}).resolve(
        {"toy": toy.STAGES}
    ),
}


def read_back(space: ResolvedSpace) -> ResolvedSpace:
    return restored(json.loads(json.dumps(space.to_dict())), {"toy": toy.STAGES})


def asked(space: ResolvedSpace) -> list[tuple[str, tuple[Any, ...]]]:
    """All questions that some architectures take, with their choices."""
    questions: list[tuple[str, tuple[Any, ...]]] = []
    generator = random.Random(0)

    def choose(name: str, options: Any) -> Any:
        questions.append((name, tuple(options)))
        return generator.choice(list(options))

    for _ in range(50):
        space.sample(choose)
    return questions


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_it_is_the_same_space(space: ResolvedSpace) -> None:
    again = read_back(space)
    assert again.hash == space.hash
    assert again.to_dict() == space.to_dict()
    assert asked(again) == asked(space)
    assert again.controls() == space.controls()
    assert again.size() == space.size()
    for architecture in itertools.islice(space.enumerate(), 0, 3000, 97):
        assert again.answers(architecture) == space.answers(architecture) is not None


def test_other_widths_are_refused() -> None:
    wider = tuple(dataclasses.replace(stage, channels=2 * stage.channels) for stage in toy.STAGES)
    with pytest.raises(
        ValueError, match=r"after_stage of stage0 of toy had \[32\] channels when .* but has \[64\] now"
    ):
        restored(toy.space().to_dict(), {"toy": wider})
    with pytest.raises(ValueError, match=r"after_stage of stage3 of toy had \[256\] channels .* but has none now"):
        restored(toy.space().to_dict(), {"toy": toy.STAGES[:3]})

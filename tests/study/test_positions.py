"""A study over positions: its parameters hold where blocks stand, and lead back to the same architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from nas.architecture import NONE, POSITIONS
from nas.study import run
from nas.study.sampler import Known, Proposal, propose


def search(sampler: str, count: int, **arguments: tuple[str, ...]) -> list[Proposal]:
    space = toy.space(**arguments)  # type: ignore[arg-type]
    known: list[Known] = []
    proposals: list[Proposal] = []
    while len(proposals) < count and (proposal := propose(space, known, sampler=sampler, seed=0)) is not None:
        proposals.append(proposal)
        evaluation = toy.evaluate(proposal.architecture)
        values = (evaluation.accuracy, evaluation.nominal_ms)
        known.append(Known(id=proposal.architecture.id, params=proposal.params, values=values, memory=proposal.memory))
    return proposals


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "gp", "additive"])
def test_proposals_are_distinct_repeatable_and_follow_from_their_parameters(sampler: str) -> None:
    count = 14 if sampler == "gp" else 40
    proposals = search(sampler, count, positions=POSITIONS)
    found = [proposal.architecture for proposal in proposals]
    assert len(set(found)) == count
    assert found == [proposal.architecture for proposal in search(sampler, count, positions=POSITIONS)]
    space = toy.space(positions=POSITIONS)
    for proposal in proposals:
        if proposal.params:
            assert space.sample(lambda name, _, params=proposal.params: params[name]) == proposal.architecture
    placements = [placement for architecture in found for placement in architecture.placements]
    assert {placement.position for placement in placements} == set(POSITIONS)
    assert NONE in {placement.block for placement in placements}


def test_a_small_space_is_used_up() -> None:
    arguments = {"blocks": ("nam",), "stages": (0, 2), "positions": ("after_stage", "replace")}
    proposals = search("tpe", 100, **arguments)  # type: ignore[arg-type]
    inside = [proposal for proposal in proposals if not proposal.control.endswith("everywhere")]
    assert len(inside) == toy.space(**arguments).size() == 2 * 4  # type: ignore[arg-type]


def test_a_study_over_positions_is_resumed(tmp_path: Path) -> None:
    space = toy.space(positions=("in_residual", "replace"))
    for budget in (5, 12):
        study = toy.create(tmp_path, resolved=space)
        run(study, toy.evaluate, space=space, budget=budget, sampler="tpe", seed=0)
        assert study.finished() == budget
        labels = {row.control for row in study.rows()}
        assert {"bare", "built-in attention removed", "se everywhere"} <= labels
        study.close()

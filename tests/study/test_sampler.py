"""Proposals: controls first, never a duplicate, and a pure function of what is known."""

from __future__ import annotations

import pytest
import toy

from nas.space import SearchSpace
from nas.study.sampler import SAMPLERS, Known, Proposal, propose, resolve_sampler


def search(
    sampler: str, count: int, *, seed: int = 0, blocks: tuple[str, ...] = ("se", "eca", "cbam", "simam")
) -> list[Proposal]:
    space = toy.space(blocks)
    known: list[Known] = []
    proposals: list[Proposal] = []
    for _ in range(count):
        proposal = propose(space, known, sampler=sampler, seed=seed)
        if proposal is None:
            break
        proposals.append(proposal)
        known.append(finished(proposal))
    return proposals


def finished(proposal: Proposal) -> Known:
    evaluation = toy.evaluate(proposal.architecture)
    return Known(
        id=proposal.architecture.id,
        params=proposal.params,
        values=(evaluation.accuracy, evaluation.nominal_ms),
        memory=proposal.memory,
    )


def ids(proposals: list[Proposal]) -> list[str]:
    return [proposal.architecture.id for proposal in proposals]


def test_the_controls_come_first() -> None:
    assert [proposal.control for proposal in search("random", 5)] == [
        "bare",
        "se everywhere",
        "eca everywhere",
        "cbam everywhere",
        "",
    ]


def test_a_control_that_the_space_lacks_is_evaluated_without_parameters() -> None:
    cbam = search("random", 4, blocks=("simam",))[3]
    assert cbam.control == "cbam everywhere"
    assert not cbam.params
    assert {placement.block for placement in cbam.architecture.placements} == {"cbam"}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "gp", "additive"])
def test_proposals_are_distinct_and_repeatable(sampler: str) -> None:
    count = 14 if sampler == "gp" else 40
    first = ids(search(sampler, count))
    assert len(set(first)) == count
    assert first == ids(search(sampler, count))


def test_another_seed_proposes_other_architectures() -> None:
    assert ids(search("random", 10)) != ids(search("random", 10, seed=1))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "additive"])
def test_a_small_space_is_used_up(sampler: str) -> None:
    space = toy.space(("simam",), stages=(0, 1))
    proposals = []
    known: list[Known] = []
    while (proposal := propose(space, known, sampler=sampler, seed=0)) is not None:
        proposals.append(proposal)
        known.append(finished(proposal))
    inside = [proposal for proposal in proposals if proposal.params or not proposal.architecture.placements]
    assert len(inside) == space.size()
    assert len(set(ids(proposals))) == len(proposals)


def test_evolution_goes_on_from_its_generation() -> None:
    generations = {
        value
        for proposal in search("nsga2", 60)
        for key, value in proposal.memory.items()
        if key == "NSGAIISampler:generation"
    }
    assert max(generations) >= 1


def test_pending_and_failed_architectures_are_not_proposed_again() -> None:
    space = toy.space()
    known = [finished(proposal) for proposal in search("random", 8)]
    proposal = propose(space, known, sampler="random", seed=0)
    assert proposal is not None
    blocked = [
        *known,
        Known(id=proposal.architecture.id, params=proposal.params, values=None, pending=True),
    ]
    failed = [*known, Known(id=proposal.architecture.id, params=proposal.params, values=None)]
    for state in (blocked, failed):
        other = propose(space, state, sampler="random", seed=0)
        assert other is not None
        assert other.architecture.id != proposal.architecture.id


def test_auto_is_our_own() -> None:
    assert resolve_sampler("auto") == "additive"
    assert [resolve_sampler(name) for name in SAMPLERS[1:]] == list(SAMPLERS[1:])


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sampler must be one of auto, .*, but got 'bayes'"):
        resolve_sampler("bayes")


def test_several_backbones_are_left_to_optuna() -> None:
    declared = SearchSpace(backbones=("toy", "toy2"), blocks=("se", "simam"))
    space = declared.resolve({"toy": toy.STAGES, "toy2": toy.STAGES[:1]})
    known: list[Known] = []
    for _ in range(12):
        proposal = propose(space, known, sampler="auto", seed=0)
        assert proposal is not None
        known.append(finished(proposal))
    assert len({entry.id for entry in known}) == 12

"""Proposals: controls first, never a duplicate, and a pure function of what is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import toy

from nas.space import SearchSpace
from nas.study.gain import PAIRS, STARTUP, Observed
from nas.study.sampler import (
    SAMPLERS,
    Known,
    Proposal,
    _rebuild,
    _values,
    goes_on,
    propose,
    resolve_sampler,
)
from search_spaces import default, whole_zoo


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
        curve=(evaluation.accuracy - 0.2, evaluation.accuracy),
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


def test_controls_that_the_space_lacks_tell_our_own_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace(backbones=("toy",), blocks=("se", "simam"), max_blocks=2).resolve({"toy": toy.STAGES})
    known: list[Known] = []
    while (proposal := propose(space, known, sampler="additive", seed=0)) is not None and proposal.control:
        known.append(finished(proposal))
    assert [bool(entry.params) for entry in known] == [True, False, False, False]
    told: list[Observed] = []
    monkeypatch.setattr("nas.study.gain.suggest", lambda _encoding, observed, *_: told.append(observed))
    propose(space, known, sampler="additive", seed=0)
    (observed,) = told
    assert (observed.vectors > 0).sum(axis=1).tolist() == [0, 4]  # bare, and se; the space has no eca and no cbam
    assert observed.accuracy.tolist() == [entry.values[0] for entry in known[:2] if entry.values]
    monkeypatch.undo()
    for _ in range(30):  # of which it proposes none
        proposal = propose(space, known, sampler="additive", seed=0)
        assert proposal is not None
        assert len(proposal.architecture.placements) <= 2
        assert proposal.params
        known.append(finished(proposal))


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


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("blocks", [default.SPACE.blocks, whole_zoo.SPACE.blocks], ids=["default", "whole zoo"])
def test_the_default_shows_every_block_and_every_stage_early(blocks: dict[str, Any], seed: int) -> None:
    proposals = search("auto", STARTUP, seed=seed, blocks=tuple(blocks))
    shown = [placement for proposal in proposals for placement in proposal.architecture.placements]
    assert {placement.block for placement in shown} == set(blocks)
    assert {placement.stage for placement in shown if placement.block not in ("se", "eca", "cbam")} == {0, 1, 2, 3}


def stopped(proposal: Proposal, accuracy: float = 0.5) -> Known:
    return Known(
        id=proposal.architecture.id,
        params=proposal.params,
        values=None,
        nominal_ms=toy.evaluate(proposal.architecture).nominal_ms,
        curve=(accuracy,),
    )


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "gp"])
def test_what_was_stopped_is_not_proposed_again(sampler: str) -> None:
    space = toy.space(("simam",), stages=(0, 1))
    known: list[Known] = []
    while (proposal := propose(space, known, sampler=sampler, seed=0)) is not None:
        known.append(finished(proposal) if proposal.control else stopped(proposal))
    assert len({entry.id for entry in known}) == len(known)
    assert sum(bool(entry.params) or entry.id == known[0].id for entry in known) == space.size()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_optuna_is_told_nothing_of_what_was_stopped(sampler: str) -> None:
    space = toy.space()
    proposals = search("random", 14)
    known = [finished(proposal) for proposal in proposals[:10]] + [stopped(proposal) for proposal in proposals[10:]]
    told = _rebuild(space, known).get_trials(deepcopy=False)
    assert len(told) == sum(bool(entry.params) for entry in known[:10])
    assert all(_values(entry, known) is None for entry in known[10:])
    other = [*known[:10], *(stopped(proposal, 0.99) for proposal in proposals[10:])]
    first, second = (propose(space, each, sampler=sampler, seed=0) for each in (known, other))
    assert first == second
    rejected = Known(id="0" * 12, params=known[5].params, values=None, nominal_ms=1.1, excess={"latency": 0.2})
    assert _values(rejected, known) == _values(rejected, known[:10])  # nor is it part of the average


class TestWhatWasStopped:
    """Our own sampler may take it up again."""

    def told(self, monkeypatch: pytest.MonkeyPatch, known: list[Known]) -> Observed:
        told: list[Observed] = []
        with monkeypatch.context() as patch:
            patch.setattr("nas.study.gain.suggest", lambda _encoding, observed, *_: told.append(observed))
            propose(toy.space(), known, sampler="additive", seed=0)
        return told[0]

    def test_the_model_is_told_what_it_had_at_the_rung(self, monkeypatch: pytest.MonkeyPatch) -> None:
        proposals = search("additive", 16)
        known = [finished(proposal) for proposal in proposals[:12]]
        last = [stopped(proposal, 0.2) for proposal in proposals[12:]]
        observed = self.told(monkeypatch, [*known, *last])
        assert observed.early.tolist() == [*(entry.curve[0] for entry in known), 0.2, 0.2, 0.2, 0.2]
        assert np.isnan(observed.accuracy[12:]).all()
        assert observed.finished.tolist() == [True] * 12 + [False] * 4
        assert observed.stopped.tolist() == [False] * 12 + [True] * 4
        assert observed.rest[12:].tolist() == [0.5] * 4
        assert observed.excess.shape == (16, 0)  # nothing failed
        assert observed.nominal_ms[12:].tolist() == [entry.nominal_ms for entry in last]

    def test_in_work_again_it_is_pending_and_what_it_had_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        proposals = search("additive", 13)
        first = stopped(proposals[12])
        known = [*(finished(proposal) for proposal in proposals[:12]), first]
        waits = Known(id=first.id, params=first.params, values=None, pending=True)
        observed = self.told(monkeypatch, [*known, waits])
        assert (observed.pending[-1], observed.early[-1], observed.stopped.any()) == (True, 0.5, False)
        assert observed.nominal_ms[-1] == first.nominal_ms
        assert len(observed.vectors) == 13
        observed = self.told(monkeypatch, [*known, replace(waits, pending=False)])  # it failed
        assert not observed.stopped.any()
        assert observed.excess[-1, 0] == 1
        observed = self.told(monkeypatch, [*known, finished(proposals[12])])
        assert observed.finished.all()

    def test_the_last_one_says_which_rung_counts_and_each_has_its_own_rest(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proposals = search("additive", 16)
        known = [replace(finished(proposal), curve=(0.1, 0.2, 0.3, 0.8)) for proposal in proposals[:12]]
        lengths = [(0.1,), (0.1,), (0.1, 0.2, 0.3), (0.1, 0.2, 0.3)]
        last = [replace(stopped(one), curve=curve) for one, curve in zip(proposals[12:], lengths, strict=True)]
        observed = self.told(monkeypatch, [*known, *last])
        assert observed.rest[12:].tolist() == [0.75, 0.75, 0.25, 0.25]
        assert observed.stopped.tolist() == [False] * 12 + [True] * 4
        assert observed.early[11:].tolist() == [0.3, *[pytest.approx(np.nan, nan_ok=True)] * 2, 0.3, 0.3]
        assert observed.excess.shape == (16, 0)

    def test_a_promising_one_is_taken_up_again_and_a_poor_one_is_not(self) -> None:
        space, proposals = toy.space(), search("additive", 16)
        known = [finished(proposal) for proposal in proposals[:12]]
        for accuracy, resumes in ((0.2, False), (0.9, True)):
            last = [stopped(proposals[12], accuracy), *(stopped(one, 0.2) for one in proposals[13:])]
            proposal = propose(space, [*known, *last], sampler="additive", seed=0)
            assert proposal is not None
            assert proposal.resumes == resumes
            assert (proposal.architecture == proposals[12].architecture) == resumes
            if resumes:
                assert proposal.params == proposals[12].params
        assert goes_on(space, [*known, stopped(proposals[12], 0.9)], proposals[12].architecture.id, seed=0)
        assert not goes_on(space, [*known, stopped(proposals[12], 0.2)], proposals[12].architecture.id, seed=0)

    def test_the_first_go_on_whatever_they_promise(self) -> None:
        space, proposals = toy.space(), search("additive", PAIRS + 1)
        known = [finished(proposal) for proposal in proposals[: PAIRS - 1]]
        assert goes_on(space, [*known, stopped(proposals[-1], 0.01)], proposals[-1].architecture.id, seed=0)
        known.append(finished(proposals[PAIRS - 1]))
        assert not goes_on(space, [*known, stopped(proposals[-1], 0.01)], proposals[-1].architecture.id, seed=0)

    def test_controls_that_the_space_lacks_do_not_count_as_the_first(self) -> None:
        blocks = ("simam", "gc")
        space, proposals = toy.space(blocks), search("additive", 9, blocks=blocks)
        known = [finished(proposal) for proposal in proposals[: 3 + PAIRS - 1]]
        last = proposals[3 + PAIRS - 1]
        assert goes_on(space, [*known, stopped(last, 0.01)], last.architecture.id, seed=0)
        known.append(finished(last))
        last = proposals[3 + PAIRS]
        assert not goes_on(space, [*known, stopped(last, 0.01)], last.architecture.id, seed=0)

    def test_a_good_one_goes_on_however_few_are_known(self) -> None:
        """Which are shown first is not asked of the model; whether they go on is."""
        space = toy.space()
        known = [finished(proposal) for proposal in search("additive", PAIRS)]
        assert PAIRS + 1 < STARTUP
        one = next(each for each in space.enumerate() if len(each.placements) == 1)
        begun = Proposal(architecture=one, params=space.answers(one) or {})
        assert goes_on(space, [*known, stopped(begun, 0.95)], one.id, seed=0)
        assert not goes_on(space, [*known, stopped(begun, 0.5)], one.id, seed=0)

    def test_where_nothing_is_new_it_is_finished_until_all_are(self) -> None:
        space = toy.space(("simam",), stages=(0, 1))
        known: list[Known] = []
        while (proposal := propose(space, known, sampler="additive", seed=0)) is not None:
            begun = not proposal.control and not proposal.resumes
            known.append(stopped(proposal) if begun else finished(proposal))
        inside = [entry for entry in known if entry.params or entry.id == known[0].id]
        assert len({entry.id for entry in inside}) == space.size()
        assert {entry.id for entry in inside if entry.values} == {entry.id for entry in inside}

    def test_nothing_finished_is_no_reason_to_fail(self) -> None:
        known = [stopped(proposal) for proposal in search("random", 8)]
        proposal = propose(toy.space(), known, sampler="additive", seed=0)
        assert proposal is not None
        assert proposal.architecture.id not in {entry.id for entry in known}


def test_random_depends_on_the_seed_and_on_how_much_is_known() -> None:
    space = toy.space()
    known = [finished(proposal) for proposal in search("random", 8)]
    better = [replace(entry, values=(0.99, 1.0)) for entry in known]
    first, again, other = (
        propose(space, each, sampler="random", seed=seed) for each, seed in ((known, 0), (better, 0), (known, 1))
    )
    assert first == again
    assert first != other
    assert first is not None
    assert space.sample(lambda name, _options: first.params[name]) == first.architecture
    assert set(first.params) == set(space.answers(first.architecture) or {})


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

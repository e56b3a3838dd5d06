"""What is beyond the limits is not trained, takes nothing from the budget, and teaches the sampler what to avoid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import toy

from nas.architecture import Architecture
from nas.evaluation import Counted, Evaluation
from nas.limits import BeyondLimitsError, Limits
from nas.study import Study, StudyError, run
from nas.study.loop import MOST_REJECTED
from nas.study.sampler import Known, propose

TWO_BLOCKS = Limits(slowdown=0.115)
"""Two blocks of the toy add 10 to 11 %, three add at least 15 %."""


def create(folder: Path, limits: Limits) -> Study:
    return Study.create("toy", toy.url(folder), space=toy.space(), protocol=toy.PROTOCOL, limits=limits)


def evaluator(limits: Limits) -> tuple[Callable[[Architecture], Evaluation], list[Architecture]]:
    """Return what evaluates, as the real one does, and the architectures that it trained."""
    trained = []

    def evaluate(architecture: Architecture) -> Evaluation:
        evaluation = toy.evaluate(architecture)
        if architecture.placements and max(limits.excess(evaluation).values()) > 0:
            raise BeyondLimitsError(limits, evaluation)
        trained.append(architecture)
        return evaluation

    return evaluate, trained


@pytest.mark.parametrize(
    "sampler",
    [
        "additive",
        pytest.param("gp", marks=pytest.mark.slow),
        "tpe",
        pytest.param("nsga2", marks=pytest.mark.slow),
        "random",
    ],
)
def test_the_budget_is_spent_within_the_limits(sampler: str, tmp_path: Path) -> None:
    study = create(tmp_path, TWO_BLOCKS)
    evaluate, trained = evaluator(TWO_BLOCKS)
    outcome = run(study, evaluate, space=toy.space(), budget=12, sampler=sampler)
    assert (outcome.finished, outcome.exhausted, outcome.too_costly) == (12, False, False)
    assert len(trained) == len({architecture.id for architecture in trained}) == 12
    assert all(len(architecture.placements) <= 2 for architecture in trained)
    rejected = study.rejected()
    assert {each.architecture.describe().count(":") for each in rejected} <= {3, 4}
    assert len(rejected) >= 3  # the controls stand on all four stages
    assert all(each.excess > 0 for each in rejected)
    assert "latency, where +11.5% are allowed" in rejected[0].reason
    assert study.failures() == []


@pytest.mark.parametrize("sampler", ["additive", pytest.param("gp", marks=pytest.mark.slow), "tpe"])
def test_what_was_only_counted_is_turned_away_alike(sampler: str, tmp_path: Path) -> None:
    limits = Limits(parameters=1002)
    assert not limits.need_clock
    study = create(tmp_path, limits)

    def evaluate(architecture: Architecture) -> Evaluation:
        evaluation = toy.evaluate(architecture)
        fields = [field.name for field in dataclasses.fields(Counted)]
        counted = Counted(**{name: getattr(evaluation, name) for name in fields})
        if architecture.placements and limits.excess(counted)["parameters"] > 0:
            raise BeyondLimitsError(limits, counted)
        return evaluation

    assert run(study, evaluate, space=toy.space(), budget=12, sampler=sampler).finished == 12
    assert len(study.rejected()) >= 3
    assert study.rejected()[0].reason.endswith("parameters, where 1,002 are allowed")
    assert all(each.excess > 0 for each in study.rejected())
    assert study.failures() == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tight_limits_are_learnt_from_what_was_rejected(seed: int, tmp_path: Path) -> None:
    one_block = Limits(slowdown=0.061)
    study = create(tmp_path, one_block)
    outcome = run(study, evaluator(one_block)[0], space=toy.space(), budget=12, seed=seed)
    assert outcome.finished == 12
    assert len(study.rejected()) < 15


def test_optuna_knows_the_constraints(tmp_path: Path) -> None:
    study = create(tmp_path, TWO_BLOCKS)
    run(study, evaluator(TWO_BLOCKS)[0], space=toy.space(), budget=5, sampler="random")
    trials = optuna.load_study(study_name="toy", storage=toy.url(tmp_path)).trials
    states = {(trial.state.name, trial.constraints["slowdown"] > 0) for trial in trials}
    assert states == {("COMPLETE", False), ("PRUNED", True)}


def test_the_sampler_avoids_what_is_beyond_the_limits() -> None:
    space = toy.space()
    shares = []
    for limits in (TWO_BLOCKS, Limits(slowdown=9.0)):
        known: list[Known] = []
        beyond = 0
        for number in range(40):
            proposal = propose(space, known, sampler="tpe", seed=0)
            assert proposal is not None
            evaluation = toy.evaluate(proposal.architecture)
            excess = limits.excess(evaluation)
            fits = excess["slowdown"] <= 0
            beyond += number >= 20 and len(proposal.architecture.placements) > 2
            entry = Known(
                id=proposal.architecture.id,
                params=proposal.params,
                values=(evaluation.accuracy, evaluation.nominal_ms) if fits else None,
                nominal_ms=evaluation.nominal_ms,
                excess=excess,
                memory=proposal.memory,
            )
            known.append(entry)
        shares.append(beyond)
    assert shares[0] < shares[1]


@pytest.mark.slow
def test_the_bare_backbone_is_always_evaluated_and_a_hopeless_run_ends(tmp_path: Path) -> None:
    limits = Limits(latency_ms=0.9, parameters=10)
    study = create(tmp_path, limits)
    evaluate, trained = evaluator(limits)
    outcome = run(study, evaluate, space=toy.space(), budget=12, sampler="random")
    assert (outcome.finished, outcome.too_costly) == (1, True)
    assert [architecture.placements for architecture in trained] == [()]
    rejected = study.rejected()
    assert len(rejected) == MOST_REJECTED
    assert rejected[0].reason.endswith("ms, where 0.9 ms are allowed; 1,004 parameters, where 10 are allowed")
    nearest = min(rejected, key=lambda each: each.excess)
    assert nearest.excess == pytest.approx(1001 / 10 - 1)


def test_a_small_space_beyond_the_limits_is_exhausted(tmp_path: Path) -> None:
    space = toy.space(("simam",), stages=(0, 1))
    limits = Limits(slowdown=0.0)
    study = Study.create("toy", toy.url(tmp_path), space=space, protocol=toy.PROTOCOL, limits=limits)
    outcome = run(study, evaluator(limits)[0], space=space, budget=12, sampler="random")
    assert (outcome.finished, outcome.exhausted, outcome.too_costly) == (1, True, False)


def test_a_study_keeps_its_limits(tmp_path: Path) -> None:
    study = create(tmp_path, TWO_BLOCKS)
    run(study, evaluator(TWO_BLOCKS)[0], space=toy.space(), budget=1)
    assert Study.open("toy", toy.url(tmp_path)).limits == TWO_BLOCKS
    with pytest.raises(StudyError, match=r"limits.slowdown: 0.115 -> null"):
        create(tmp_path, Limits())
    create(tmp_path, TWO_BLOCKS)


@pytest.mark.parametrize("limits", [{"latency_ms": 0.0}, {"slowdown": -1.0}, {"parameters": -5}, {"latency_ms": 1e999}])
def test_limits_that_cannot_be_meant_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"a limit of {next(iter(limits))} must be"):
        Limits(**limits)  # type: ignore[arg-type]


def test_an_unstable_ratio_counts_by_the_lower_end_of_its_interval() -> None:
    evaluation = toy.evaluate(toy.space().controls()[1].architecture)
    wide = dataclasses.replace(evaluation.latency, ratio=1.5, ratio_low=1.04, ratio_high=2.2)
    busy = dataclasses.replace(evaluation, latency=wide)
    limits = Limits(slowdown=0.05, latency_ms=1.05)
    assert {name: excess > 0 for name, excess in limits.excess(busy).items()} == {"slowdown": True, "latency_ms": True}
    busy = dataclasses.replace(busy, latency=dataclasses.replace(busy.latency, unstable=True))
    assert max(limits.excess(busy).values()) < 0
    busy = dataclasses.replace(busy, latency=dataclasses.replace(busy.latency, ratio_low=1.06))
    assert min(limits.excess(busy).values()) > 0


def test_a_negative_slowdown_asks_for_a_speed_up() -> None:
    evaluation = toy.evaluate(Architecture(backbone="toy"))
    quicker = dataclasses.replace(evaluation, latency=dataclasses.replace(evaluation.latency, ratio=0.8))
    limits = Limits(slowdown=-0.1)
    assert limits.excess(evaluation)["slowdown"] > 0 > limits.excess(quicker)["slowdown"]
    assert not Limits()
    assert Limits().words(evaluation) == ""

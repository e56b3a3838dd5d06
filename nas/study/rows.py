"""A row of a study's table: one finished trial, from its evaluation and its further trainings."""

from __future__ import annotations

from statistics import fmean

from optuna.trial import FrozenTrial

from nas.architecture import Architecture
from nas.evaluation import Evaluation, wilson_interval
from nas.front import Row
from nas.limits import Limits
from nas.seeds import Replicate, SeedNoise, estimate


def noise_of(evaluations: dict[str, Evaluation], replicates: dict[str, list[Replicate]]) -> SeedNoise | None:
    """Return the noise of the seed from evaluations and further trainings, both by architecture id."""
    return estimate(
        [evaluation.accuracy, *(replicate.accuracy for replicate in replicates.get(key, []))]
        for key, evaluation in evaluations.items()
    )


def make_row(
    trial: FrozenTrial,
    architecture: Architecture,
    evaluation: Evaluation,
    replicates: list[Replicate],
    noise: SeedNoise | None,
    limits: Limits,
) -> Row:
    """Return the row of a finished trial; its accuracy is the mean over its evaluation and its further trainings."""
    accuracy, low, high = evaluation.accuracy, evaluation.accuracy_low, evaluation.accuracy_high
    if replicates:
        accuracy = fmean([accuracy, *(replicate.accuracy for replicate in replicates)])
        low, high = wilson_interval(accuracy, replicates[0].val_images)
    seeds = 1 + len(replicates)
    return Row(
        trial=trial.number,
        architecture=architecture,
        control=trial.user_attrs.get("control", ""),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        seeds=seeds,
        seed_error=noise.error(seeds) if noise is not None else None,
        seed_degrees=noise.degrees if noise is not None else 0,
        latency_ms=evaluation.latency_ms,
        unstable=evaluation.latency.unstable,
        beyond=limits.words(evaluation),
        latency_ratio=evaluation.latency.ratio,
        ratio_low=evaluation.latency.ratio_low,
        ratio_high=evaluation.latency.ratio_high,
        graph_ratio=evaluation.latency.graph_ratio,
        memory_bytes=evaluation.memory_bytes,
        parameters=evaluation.parameters,
        macs=evaluation.macs,
    )

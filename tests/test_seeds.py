"""The noise of the seed, and which seeds are used for what."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import toy

from nas.seeds import MOST_SEEDS, Replicate, SeedNoise, estimate, full_seeds, further_seeds, half_width

REPLICATE = Replicate(
    architecture="0123456789ab",
    seed=1,
    epochs=3,
    accuracy=0.9,
    val_images=100,
    curve=(0.5, 0.8, 0.9),
    train_seconds=1.5,
    versions={"torch": "2"},
)


def test_the_noise_is_pooled_within_architectures() -> None:
    noise = estimate([[0.90, 0.92], [0.5], [0.70, 0.74, 0.72]])
    assert noise is not None
    assert noise.degrees == 3
    assert noise.sd == pytest.approx(math.sqrt((0.0002 + 0.0008) / 3))
    assert noise.error(4) == noise.sd / 2
    assert estimate([[0.9], [0.8]]) is None
    assert estimate([]) is None


def test_the_interval_holds_the_true_noise() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        noise = estimate((0.9 + 0.02 * generator.standard_normal((2, 3))).tolist())
        low, high = noise.interval()
        held += low <= 0.02 <= high
    assert 0.92 <= held / 300 <= 0.98


def test_the_noise_in_words() -> None:
    # The quantiles of chi-square with 3 degrees of freedom are 0.2158 and 9.348.
    words = SeedNoise(sd=0.02, degrees=3).describe()
    assert words == "2.00 [1.13, 7.46] points of accuracy between seeds (standard deviation, 3 degrees of freedom)"
    assert SeedNoise(sd=0.0, degrees=3).interval() == (0, 0)


def test_half_width_is_students() -> None:
    assert half_width(0.01, 3) == pytest.approx(0.0318, abs=1e-4)
    assert half_width(0.0, 0) == 0
    assert half_width(0.01, 3, 10) > half_width(0.01, 3)


def test_full_trainings_use_no_seed_of_the_search() -> None:
    protocol = dataclasses.replace(toy.PROTOCOL, seed=7)
    assert further_seeds(protocol, 3) == [8, 9, 10]
    searched = {protocol.seed, *further_seeds(protocol, MOST_SEEDS)}
    assert searched.isdisjoint(full_seeds(protocol, MOST_SEEDS))
    assert max(full_seeds(dataclasses.replace(protocol, seed=2**32 - 1), 3)) < 2**32
    with pytest.raises(ValueError, match="further seeds must be between 0 and 999, but got 1000"):
        further_seeds(protocol, 1000)


def test_a_family_shares_all_but_seed_and_epochs() -> None:
    other = dataclasses.replace(toy.PROTOCOL, seed=5, epochs=9)
    assert other.family_hash == toy.PROTOCOL.family_hash
    assert dataclasses.replace(other, batch_size=9).family_hash != toy.PROTOCOL.family_hash
    assert dataclasses.replace(other, latency_seconds=9.0).family_hash == toy.PROTOCOL.family_hash  # trains the same
    averaged = dataclasses.replace(other, epochs=3, average_epochs=3)  # more epochs than a family's one
    assert averaged.family_hash != toy.PROTOCOL.family_hash
    assert averaged.family_hash == dataclasses.replace(averaged, epochs=7).family_hash


def test_a_replicate_comes_back_as_it_was() -> None:
    assert Replicate.from_json(REPLICATE.to_json()) == REPLICATE
    assert REPLICATE.kind == "val"
    assert dataclasses.replace(REPLICATE, test_accuracy=0.9, test_images=50).kind == "val+test"
    with pytest.raises(ValueError, match="not the JSON of a replicate"):
        Replicate.from_json("{}")

"""The model of a space: its vectors and features, what it learns from few trials, and the gain that it expects."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import toy
from scipy.linalg import LinAlgError

from nas.architecture import Architecture, Placement
from nas.space import SearchSpace
from nas.study.encoding import Encoding, Floats, Ints
from nas.study.gain import STARTUP, Gain, Observed, log_odds, suggest
from nas.study.surrogate import EXACT, Chain, Model

BLOCKS = ("se", "eca", "cbam", "simam")


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    return Encoding(toy.space(BLOCKS))


def drawn(encoding: Encoding, count: int, seed: int = 0) -> Ints:
    vectors = encoding.draw(count, 0.4, np.random.default_rng(seed))
    return np.unique(vectors, axis=0)


def effects(encoding: Encoding, seed: int) -> Floats:
    """Return the effect of each feature, drawn as the model takes them to be."""
    return np.random.default_rng(seed).standard_normal(encoding.tables[0].shape[1])


def observed(
    vectors: Ints,
    accuracy: Floats,
    latency: Floats,
    excess: Floats | None = None,
    pending: int = 0,
    early: Floats | None = None,
) -> Observed:
    """Return what is known; the last ``pending`` are in work. Half of a training is left after the rung."""
    none = np.empty((len(vectors), 0))
    pending_now = np.arange(len(vectors)) >= len(vectors) - pending
    stopped = np.isfinite(early) & np.isnan(accuracy) if early is not None else np.zeros(len(vectors), dtype=bool)
    return Observed(
        vectors=vectors,
        pending=pending_now,
        accuracy=accuracy,
        early=np.full(len(vectors), np.nan) if early is None else early,
        rest=np.full(len(vectors), np.nan) if early is None else np.where(stopped & ~pending_now, 0.5, np.nan),
        nominal_ms=latency,
        excess=none if excess is None else excess,
    )


class TestEncoding:
    @pytest.mark.parametrize("positions", [("after_stage",), ("in_residual", "replace"), ("replace", "after_stage")])
    def test_vectors_architectures_and_answers_name_the_same(self, positions: tuple[str, ...]) -> None:
        space = toy.space((*BLOCKS, "ge", "sk"), positions=positions)
        encoding = Encoding(space)
        vectors = drawn(encoding, 200)
        assert len(vectors) > 150
        for vector in vectors:
            architecture = encoding.architecture(vector)
            found = encoding.vector(architecture.id, lambda made=architecture: made)
            assert found is not None
            assert found.tolist() == vector.tolist()
            answers = space.answers(architecture)
            assert answers is not None
            assert space.sample(lambda name, _options, known=answers: known[name]) == architecture

    def test_everything_in_the_space_has_a_vector(self) -> None:
        space = toy.space(("se", "simam"), stages=(0, 2))
        encoding = Encoding(space)
        vectors = {encoding.vector(each.id, lambda made=each: made).tobytes() for each in space.enumerate()}
        assert len(vectors) == space.size()

    def test_what_the_space_lacks_has_none(self, encoding: Encoding) -> None:
        other = Architecture(backbone="toy", placements=(Placement(stage=0, block="gc"),))
        assert encoding.vector(other.id, lambda: other) is None
        assert toy.space(BLOCKS).answers(other) is None
        stranger = Architecture(backbone="another")
        assert encoding.vector(stranger.id, lambda: stranger) is None

    def test_equal_spaces_have_equal_vectors(self) -> None:
        first, second = (Encoding(toy.space(blocks)) for blocks in (BLOCKS, BLOCKS[::-1]))
        assert first.stages == second.stages

    def test_two_backbones_are_refused(self) -> None:
        space = SearchSpace(backbones=("toy", "toy2"), blocks=BLOCKS)
        with pytest.raises(ValueError, match="an encoding takes one backbone, but the space has toy, toy2"):
            Encoding(space.resolve({"toy": toy.STAGES, "toy2": toy.STAGES[:2]}))

    def test_features_say_what_two_have_in_common(self, encoding: Encoding) -> None:
        def row(*placed: tuple[int, str, dict[str, object]]) -> Floats:
            placements = tuple(
                Placement(stage=stage, block=block, options=options, init="identity")
                for stage, block, options in placed
            )
            architecture = Architecture(backbone="toy", placements=placements).canonical(toy.STAGES)
            vector = encoding.vector(architecture.id, lambda: architecture)
            assert vector is not None
            return encoding.rows(vector[None])[0]

        mine = row((1, "se", {"reduction": 8}))
        assert not row().any()
        ordered = [
            mine @ other
            for other in (
                row((1, "se", {"reduction": 8})),
                row((1, "se", {"reduction": 16})),
                row((2, "se", {"reduction": 8})),
                row((2, "eca", {})),
            )
        ]
        assert ordered == sorted(ordered, reverse=True)
        assert len(set(ordered)) == 4
        assert mine @ row((1, "eca", {})) > 0
        two = row((1, "se", {"reduction": 8}), (2, "eca", {}))
        assert two == pytest.approx(mine + row((2, "eca", {})))

    def test_products_and_norms_need_no_features(self, encoding: Encoding) -> None:
        some, others = drawn(encoding, 40), drawn(encoding, 20, seed=1)
        rows = encoding.rows(some)
        products = encoding.products(some, encoding.projected(encoding.rows(others)))
        assert products == pytest.approx(rows @ encoding.rows(others).T)
        assert encoding.norms(some) == pytest.approx((rows**2).sum(axis=1))

    def test_neighbours_differ_in_one_stage(self, encoding: Encoding) -> None:
        vector = drawn(encoding, 5)[0]
        near = encoding.neighbours(vector)
        assert ((near != vector).sum(axis=1) == 1).all()
        assert len(np.unique(near, axis=0)) == len(near) == sum(len(options) - 1 for options in encoding.stages)


class TestModel:
    def test_a_sum_of_effects_is_learnt_from_fewer_trials_than_it_has_effects(self, encoding: Encoding) -> None:
        vectors = drawn(encoding, 300)
        rows = encoding.rows(vectors)
        shares = []
        for seed in range(5):
            values = rows @ effects(encoding, seed)
            few = np.random.default_rng(seed).permutation(len(rows))[:40]
            mean, _ = Model(rows[few], values[few], (EXACT,)).predict(rows)
            rest = np.setdiff1d(np.arange(len(rows)), few)
            shares.append(np.var(values[rest] - mean[rest]) / np.var(values[rest]))
        assert rows.shape[1] > 40
        assert np.median(shares) < 0.15

    def test_its_intervals_hold_the_truth(self, encoding: Encoding) -> None:
        vectors = drawn(encoding, 300)
        rows = encoding.rows(vectors)
        inside = []
        for seed in range(10):
            generator = np.random.default_rng(seed)
            truth = rows @ effects(encoding, seed)
            noise = 0.5 * truth.std()
            few = generator.permutation(len(rows))[:40]
            mean, deviation = Model(rows[few], truth[few] + noise * generator.standard_normal(40)).predict(rows)
            inside.append((np.abs(mean - truth) < 1.96 * deviation).mean())
        assert 0.85 < np.mean(inside) < 0.995

    @pytest.mark.parametrize("value", [0.5, 0.1, 0.3])  # the mean of equal values is not always exact
    def test_equal_values_are_no_reason_to_fail(self, encoding: Encoding, value: float) -> None:
        rows = encoding.rows(drawn(encoding, 20))
        mean, deviation = Model(rows, np.full(len(rows), value)).predict(rows)
        assert mean == pytest.approx(value)
        assert np.isfinite(deviation).all()
        assert (deviation > 1e-9).all()

    def test_values_that_are_no_numbers_are_refused(self, encoding: Encoding) -> None:
        rows = encoding.rows(drawn(encoding, 2))
        with pytest.raises(ValueError, match="values must be finite numbers, but got"):
            Model(rows, np.array([1.0, np.nan]))
        with pytest.raises(LinAlgError, match="the covariance of 2 values must be positive definite, but its minor 1"):
            Model(rows, np.arange(2.0), (-1e9,))


class TestChain:
    """Accuracy at the end is a line of that at the rung, and a process of its own."""

    def world(self, encoding: Encoding, count: int = 60) -> tuple[Floats, Floats, Floats]:
        """Return features, log-odds at the rung and at the end: ahead there is half as far ahead at the end."""
        rows = encoding.rows(drawn(encoding, count))
        noise = np.random.default_rng(5)
        early = rows @ effects(encoding, 1) + 0.1 * noise.standard_normal(len(rows))
        end = 2 + 0.5 * early + 0.3 * rows @ effects(encoding, 2) + 0.05 * noise.standard_normal(len(rows))
        return rows, early, end

    def test_it_foretells_what_was_stopped_better_than_what_was_never_begun(self, encoding: Encoding) -> None:
        rows, early, end = self.world(encoding)
        whole = np.arange(len(rows)) < 15
        chain = Chain(rows, early, np.where(whole, end, np.nan))
        alone = Model(rows[whole], end[whole])
        errors = [np.abs(model.mean(rows[~whole]) - end[~whole]).mean() for model in (chain, alone)]
        assert errors[0] < 0.7 * errors[1]
        assert chain._slope == pytest.approx(0.5, abs=0.2)
        mean, deviation = chain.predict(rows[~whole])
        assert mean == pytest.approx(chain.mean(rows[~whole]))
        assert 0.5 < np.std((mean - end[~whole]) / deviation) < 2

    def test_before_any_was_finished_but_one_it_moves_as_at_the_rung(self, encoding: Encoding) -> None:
        rows, early, end = self.world(encoding)
        chain = Chain(rows, early, np.where(np.arange(len(rows)) == 3, end, np.nan))
        assert chain.mean(rows) - chain.early.mean(rows) == pytest.approx(end[3] - early[3])

    def test_a_rung_that_foretells_the_opposite_foretells_nothing(self, encoding: Encoding) -> None:
        rows, early, _ = self.world(encoding)
        chain = Chain(rows, early, np.where(np.arange(len(rows)) < 40, -early, np.nan))
        assert chain._slope == 0


class TestGain:
    def test_it_is_the_expected_growth_of_the_area(self, encoding: Encoding) -> None:
        generator = np.random.default_rng(3)
        vectors = drawn(encoding, 24, seed=5)
        rows = encoding.rows(vectors)
        latency = 1 + 0.1 * np.abs(rows @ effects(encoding, 1))
        accuracy = 0.8 + 0.02 * rows @ effects(encoding, 2) + 0.01 * generator.standard_normal(len(rows))
        gain = Gain(encoding, observed(vectors, accuracy, latency))
        others = drawn(encoding, 30, seed=6)
        mean, deviation = gain._odds.predict(encoding.rows(others))
        middle, doubt = gain._latency.predict(encoding.rows(others))
        reference = (share(gain._edges[0]), gain._heights[-1])
        believed = list(zip(share(gain._odds.predict(rows)[0]), latency, strict=True))
        before = area(believed, reference)
        expected = gain(others)
        rare = 1e-3 * expected.max()  # what happens in none of so many draws
        for number in range(0, len(others), 3):
            draws = generator.standard_normal((2, 4000))
            a, h = share(mean[number] + deviation[number] * draws[0]), middle[number] + doubt[number] * draws[1]
            grown = np.array([area([*believed, point], reference) for point in zip(a, h, strict=True)]) - before
            # Accuracy is taken to be straight pieces of log-odds, which leaves a percent or two.
            doubtful = 4 * grown.std() / np.sqrt(len(grown)) + 0.02 * grown.mean() + rare
            assert expected[number] == pytest.approx(grown.mean(), abs=doubtful)

    def test_it_is_small_where_a_limit_is_likely_to_be_passed(self, encoding: Encoding) -> None:
        vectors = drawn(encoding, 60)
        rows = encoding.rows(vectors)
        latency = 3 + 0.1 * rows @ effects(encoding, 1)
        accuracy = 0.8 + 0.01 * rows @ effects(encoding, 2)
        excess = latency[:, None] / np.median(latency) - 1
        beyond = excess[:, 0] > 0
        assert 5 < beyond.sum() < 55
        known = np.where(beyond, np.nan, accuracy)
        free = Gain(encoding, observed(vectors, known, latency))
        bound = Gain(encoding, observed(vectors, known, latency, excess))
        others = drawn(encoding, 200, seed=9)
        far = 3 + 0.1 * encoding.rows(others) @ effects(encoding, 1) > np.quantile(latency, 0.8)
        assert bound(others)[far].sum() < 0.5 * free(others)[far].sum()

    def test_what_was_stopped_is_believed_but_on_no_front(self, encoding: Encoding) -> None:
        vectors = drawn(encoding, 30)[:30]
        rows = encoding.rows(vectors)
        latency = 1 + 0.05 * (vectors > 0).sum(axis=1)
        accuracy = 0.8 + 0.01 * rows @ effects(encoding, 4)
        early, one = accuracy - 0.2, np.arange(30) == 7
        accuracy[7], early[7] = 0.95, 0.75
        unknown = np.where(one, np.nan, accuracy)
        sure = Gain(encoding, observed(vectors, accuracy, latency))
        stopped = Gain(encoding, observed(vectors, unknown, latency, early=early))
        without = Gain(encoding, observed(vectors, unknown, latency))
        assert vectors[7].tolist() in sure.good.tolist()
        assert vectors[7].tolist() not in stopped.good.tolist()
        means = [gain._odds.mean(rows[7:8])[0] for gain in (without, stopped)]
        assert means[0] < means[1]

    def test_where_none_was_stopped_what_they_had_at_the_rung_changes_nothing(self, encoding: Encoding) -> None:
        vectors = drawn(encoding, 30)[:30]
        accuracy = 0.8 + 0.01 * encoding.rows(vectors) @ effects(encoding, 4)
        plain = observed(vectors, accuracy, 1 + 0.05 * (vectors > 0).sum(axis=1))
        ruled = replace(plain, early=np.linspace(0.1, 0.4, 30))
        others = drawn(encoding, 50, seed=9)
        assert Gain(encoding, plain)(others).tolist() == Gain(encoding, ruled)(others).tolist()

    def test_one_in_work_that_was_stopped_keeps_what_it_had_at_the_rung(self, encoding: Encoding) -> None:
        vectors = drawn(encoding, 30)[:30]
        accuracy = 0.8 + 0.01 * encoding.rows(vectors) @ effects(encoding, 4)
        latency, early = 1 + 0.05 * (vectors > 0).sum(axis=1), accuracy - 0.2
        accuracy[20:] = np.nan
        waiting = observed(vectors, accuracy, latency, pending=3, early=early)
        assert waiting.stopped.tolist() == [False] * 20 + [True] * 7 + [False] * 3
        gain, before = Gain(encoding, waiting), Gain(encoding, replace(waiting, pending=np.zeros(30, dtype=bool)))
        assert isinstance(gain._odds, Chain)
        assert gain(vectors[-1:])[0] < before(vectors[-1:])[0]
        fresh = replace(waiting, early=np.where(waiting.pending, np.nan, early))  # has not been at the rung yet
        assert np.isfinite(Gain(encoding, fresh)(vectors)).all()

    def test_it_reaches_half_way_to_the_slowest(self, encoding: Encoding) -> None:
        vectors = np.r_[np.zeros((1, 4), dtype=np.int64), drawn(encoding, 9)[1:]]
        latency = np.r_[1.0, np.linspace(1.5, 3.0, len(vectors) - 1)]
        gain = Gain(encoding, observed(vectors, np.r_[0.9, np.linspace(0.6, 0.7, len(vectors) - 1)], latency))
        assert gain.good.tolist() == [[0, 0, 0, 0]]
        assert gain._heights[-1] == 2.0


def share(odds: Floats) -> Floats:
    """Return the accuracy of log-odds."""
    return 1 / (1 + np.exp(-odds))


def area(points: list[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area between points (accuracy, latency) and a reference point, from the quickest point on."""
    total, best = 0.0, reference[0]
    for accuracy, latency in sorted(points, key=lambda point: point[1]):
        if accuracy > best and latency < reference[1]:
            total += (accuracy - best) * (reference[1] - latency)
            best = accuracy
    return total


class TestSuggestions:
    def known(self, encoding: Encoding, count: int) -> Observed:
        vectors = drawn(encoding, count)[:count]
        rows = encoding.rows(vectors)
        latency = 1 + 0.05 * (vectors > 0).sum(axis=1)
        return observed(vectors, 0.8 + 0.01 * rows @ effects(encoding, 4), latency)

    def test_they_are_new_and_repeatable(self, encoding: Encoding) -> None:
        known = self.known(encoding, 30)
        found = [suggest(encoding, known, seed) for seed in (0, 0, 1)]
        assert all(vector is not None for vector in found)
        assert found[0].tolist() == found[1].tolist()
        assert {vector.tobytes() for vector in found}.isdisjoint({vector.tobytes() for vector in known.vectors})

    def test_the_first_ones_show_every_block_and_every_stage(self, encoding: Encoding) -> None:
        vectors = np.zeros((1, 4), dtype=np.int64)
        for seed in range(STARTUP - 1):
            unknown = np.full(len(vectors), np.nan)
            vector = suggest(encoding, observed(vectors, unknown, unknown), seed)
            assert vector is not None
            vectors = np.r_[vectors, vector[None]]
        shown = [placement for vector in vectors for placement in encoding.architecture(vector).placements]
        assert {placement.block for placement in shown} == set(BLOCKS)
        assert {placement.stage for placement in shown} == set(range(4))
        # Four architectures of four blocks: nearly all of them are shown somewhere new.
        assert len({(placement.stage, placement.block) for placement in shown}) >= 12

    def test_one_in_work_is_not_suggested_nor_its_like(self, encoding: Encoding) -> None:
        known = self.known(encoding, 30)
        first = suggest(encoding, known, 0)
        assert first is not None
        nan = np.array([np.nan])
        waiting = observed(
            np.r_[known.vectors, first[None]],
            np.r_[known.accuracy, nan],
            np.r_[known.nominal_ms, nan],
            pending=1,
        )
        second = suggest(encoding, waiting, 0)
        assert second is not None
        assert second.tolist() != first.tolist()
        failed = replace(waiting, pending=np.zeros_like(waiting.pending))
        assert Gain(encoding, failed)(known.vectors) == pytest.approx(Gain(encoding, known)(known.vectors))
        # What is in work lowers what the same again would gain.
        assert Gain(encoding, waiting)(first[None])[0] < Gain(encoding, known)(first[None])[0]

    def test_nothing_is_suggested_where_all_is_known(self) -> None:
        encoding = Encoding(toy.space(("simam",), stages=(0, 1)))
        vectors = np.array(list(itertools.product(*(range(len(options)) for options in encoding.stages))))
        assert len(vectors) > STARTUP
        assert suggest(encoding, observed(vectors, np.linspace(0, 1, len(vectors)), np.ones(len(vectors))), 0) is None


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        pytest.param((0.75, 0.9), (0.75, 0.9), id="as they are"),
        pytest.param((0.0, 1.0, 0.98, 0.5), (0.01, 0.99, 0.98, 0.5), id="both ends"),
        pytest.param((0.0, 0.0), (0.5, 0.5), id="nothing learnt"),
        pytest.param((1.0, 0.6), (0.8, 0.6), id="all right"),
        pytest.param((0.8, 0.2, 0.8), (0.8, 0.2, 0.8), id="nothing at an end"),
        pytest.param((np.nan, 0.6), (np.nan, 0.6), id="not trained"),
        pytest.param((), (), id="nothing known"),
    ],
)
def test_accuracies_are_believed_in_as_log_odds(accuracies: tuple[float, ...], expected: tuple[float, ...]) -> None:
    shares = np.array(expected)
    assert log_odds(np.array(accuracies)) == pytest.approx(np.log(shares / (1 - shares)), nan_ok=True)

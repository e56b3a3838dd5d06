"""The cut of a data set and what is recorded of it, on the embedded digits; wrong arguments."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from nas import data
from nas.data import DataError, Splits, apportion, load


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


def indices(splits: Splits) -> tuple[tuple[int, ...], ...]:
    return splits.train.indices, splits.val.indices, splits.test.indices


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load()


class TestDigits:
    def test_shapes_types_and_sizes(self, digits: Splits) -> None:
        assert sizes(digits) == (1078, 362, 357)
        assert digits.train.images.shape == (1078, 1, 32, 32)
        assert digits.train.images.dtype == torch.uint8
        assert digits.train.labels.dtype == torch.int64
        assert digits.classes == tuple("0123456789")
        assert (digits.channels, digits.resolution) == (1, 32)
        assert int(digits.train.images.max()) == 255

    def test_splits_are_disjoint_complete_and_stratified(self, digits: Splits) -> None:
        assert sorted(sum(indices(digits), ())) == list(range(1797))
        whole = torch.cat([digits.train.labels, digits.val.labels, digits.test.labels]).bincount()
        for split, share in ((digits.train, 0.6), (digits.val, 0.2), (digits.test, 0.2)):
            assert torch.all((split.labels.bincount() - share * whole).abs() < 1)

    def test_same_seed_same_cut_another_seed_another(self, digits: Splits) -> None:
        again, other = load(seed=0), load(seed=1)
        assert indices(again) == indices(digits)
        assert again.hash == digits.hash
        assert indices(other) != indices(digits)
        assert other.hash != digits.hash

    def test_hash_depends_on_resolution(self, digits: Splits) -> None:
        small = load(resolution=16)
        assert small.train.images.shape[-1] == 16
        assert small.hash != digits.hash
        assert len(small.hash) == 16

    def test_statistics_are_those_of_the_training_images(self, digits: Splits) -> None:
        pixels = digits.train.images.double() / 255
        assert digits.mean == pytest.approx([float(pixels.mean())], abs=1e-9)
        assert digits.std == pytest.approx([float(pixels.std(correction=0))], abs=1e-9)

    def test_record_is_json_with_every_index(self, digits: Splits) -> None:
        record = json.loads(json.dumps(digits.record()))
        assert record["sizes"] == {"train": 1078, "val": 362, "test": 357}
        assert record["indices"]["test"] == list(digits.test.indices)
        assert record["origins"]["val"] == "20% of all images"
        assert record["hash"] == digits.hash
        assert "files" not in record

    def test_a_limit_keeps_the_shares_of_the_classes(self) -> None:
        splits = load(limit=100)
        assert sum(sizes(splits)) == 100
        counts = torch.cat([splits.train.labels, splits.val.labels, splits.test.labels]).bincount()
        assert counts.tolist() == [10] * 10
        assert indices(splits) == indices(load(limit=100))

    def test_search_data_have_no_way_to_the_test_split(self, digits: Splits) -> None:
        search = digits.search()
        assert not hasattr(search, "test")
        held = {value.images.data_ptr() for value in vars(search).values() if isinstance(value, data.Split)}
        assert held == {digits.train.images.data_ptr(), digits.val.images.data_ptr()}
        seen = set(search.train.indices) | set(search.val.indices)
        assert not seen & set(digits.test.indices)

    def test_to_moves_the_tensors(self, digits: Splits) -> None:
        assert digits.train.to("cpu") is digits.train
        moved = digits.search().to("meta")
        assert moved.train.images.device.type == moved.val.labels.device.type == "meta"


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"resolution": 7}, "resolution must be an integer of at least 8, but got 7"),
            ({"resolution": 32.0}, r"resolution must be an integer of at least 8, but got 32\.0"),
            ({"resolution": True}, "resolution must be an integer"),
            ({"limit": 0}, "limit must be an integer of at least 1, but got 0"),
            ({"limit": 29}, "limit must be at least 30 .*, but got 29"),
            ({"seed": -1}, "seed must be an integer of at least 0, but got -1"),
            ({"data_dir": "x"}, "data_dir='x' is for timm dataset names .* the data are 'digits'"),
            ({"download": True}, "download is for timm dataset names"),
            ({"source": "digit"}, "there is no data 'digit'; give digits, .*; nearest: digits"),
            ({"source": "cifar10"}, "nearest: torch/cifar10"),
            ({"source": ""}, "there is no data ''; give digits"),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            load(**arguments)


class TestApportion:
    @pytest.mark.parametrize(
        ("total", "weights", "least", "expected"),
        [
            (10, [0.7, 0.15, 0.15], [1, 1, 1], [7, 2, 1]),
            (3, [0.7, 0.15, 0.15], [1, 1, 1], [1, 1, 1]),
            (4, [0.98, 0.01, 0.01], [1, 1, 1], [2, 1, 1]),
            (10, [0.7, 0.3], [1, 1], [7, 3]),
            (5, [1.0], [1], [5]),
            (12, [100, 1, 1], [3, 3, 3], [6, 3, 3]),
        ],
    )
    def test_examples(self, total: int, weights: list[float], least: list[int], expected: list[int]) -> None:
        assert apportion(total, weights, least) == expected

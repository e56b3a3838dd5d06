"""From bytes to batches: resident or streamed, cropped, mirrored, cut out, normalised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import small
import torch
import torch.nn.functional as F

from nas import batches, proxy
from nas.data import SearchData, load
from nas.placement import create
from nas.trainer import Trainer

CPU = torch.device("cpu")
PROTOCOL = replace(small.PROTOCOL, batch_size=32)


@pytest.fixture(scope="module")
def data() -> SearchData:
    return load("digits", limit=300, resolution=16).search()


class TestStreaming:
    @pytest.mark.parametrize("sizes", [[], [1], [7, 7], [5, 3, 9, 1, 2, 2]])
    def test_streamed_batches_equal_resident_ones(self, data: SearchData, sizes: list[int]) -> None:
        rows = torch.split(torch.randperm(len(data.train))[: sum(sizes)], sizes)
        resident = list(batches.batches(data.train, rows, CPU))
        streamed = list(batches._streamed(data.train, rows, CPU))
        assert [len(labels) for _, labels in resident] == sizes
        for (images, labels), (ours, own_labels), chosen in zip(resident, streamed, rows, strict=True):
            assert torch.equal(images, data.train.images[chosen])
            assert torch.equal(labels, data.train.labels[chosen])
            assert torch.equal(images, ours)
            assert torch.equal(labels, own_labels)

    def test_batches_are_sent_ahead_of_their_use(self, data: SearchData) -> None:
        asked: list[int] = []

        class Watched(list[torch.Tensor]):
            def __iter__(self) -> Iterator[torch.Tensor]:
                for number, chosen in enumerate(super().__iter__()):
                    asked.append(number)
                    yield chosen

        stream = batches._streamed(data.train, Watched(torch.split(torch.arange(60), 10)), CPU)
        next(stream)
        assert asked == list(range(1 + batches.AHEAD))
        next(stream)
        assert asked == list(range(2 + batches.AHEAD))
        assert len(list(stream)) == 4

    def test_streaming_changes_no_curve(self, data: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
        protocol = replace(PROTOCOL, augmentation="shift+flip+cutout", mirror_validation=True, channels_last=True)

        def trained() -> tuple[proxy.Curve, list[torch.Tensor]]:
            torch.manual_seed(0)
            model = create("test_resnet", num_classes=10, in_channels=1)
            return proxy.train(model, data, protocol, device=CPU), list(model.state_dict().values())

        resident, weights = trained()
        monkeypatch.setattr(batches, "_is_resident", lambda *_: False)
        streamed, others = trained()
        assert (streamed.accuracies, streamed.losses) == (resident.accuracies, resident.losses)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, others, strict=True))

    @pytest.mark.parametrize(
        ("room", "workers", "stays"), [(1.9, 1, True), (2.1, 1, False), (7.9, 4, True), (8.1, 4, False)]
    )
    def test_images_that_would_crowd_a_gpu_stay_on_the_host(
        self, data: SearchData, monkeypatch: pytest.MonkeyPatch, room: float, workers: int, stays: bool
    ) -> None:
        size = data.train.images.nbytes + data.val.images.nbytes
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(room * size), 10 * size))
        moved: list[object] = []
        monkeypatch.setattr(SearchData, "to", lambda given, device: moved.append(device) or given)
        assert batches.place(data, torch.device("cuda:0"), workers) is data
        assert moved == ([] if stays else [torch.device("cuda:0")])

    def test_nothing_is_asked_of_cuda_for_a_cpu(self, data: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(torch.cuda, "mem_get_info")
        placed = batches.place(data, CPU)
        assert placed.train is data.train

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_a_gpu(self, data: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
        device = proxy.select_device("cuda")
        rows = torch.split(torch.randperm(len(data.train)).repeat(20), 16)
        for (images, labels), chosen in zip(batches.batches(data.train, rows, device), rows, strict=True):
            assert images.device == labels.device == device
            torch.empty_like(images).random_()  # takes memory that a batch gave back too early
            assert torch.equal(images.cpu(), data.train.images[chosen])
            assert torch.equal(labels.cpu(), data.train.labels[chosen])
        monkeypatch.setattr(batches, "RESIDENT_SHARE", 0.0)
        trainer = Trainer(data, PROTOCOL, device)
        assert trainer.data.train.images.device == CPU
        model = create("test_resnet", num_classes=10, in_channels=1)
        losses = trainer.train(model).losses
        assert losses[1] < losses[0]


class TestAugmentation:
    def test_crop_equals_padding_slicing_and_flipping(self) -> None:
        torch.manual_seed(0)
        images = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)
        draws = torch.stack([torch.randint(-2, 3, (9,)), torch.randint(-2, 3, (9,)), torch.arange(9) % 2])
        cropped = batches._crop(images, draws)
        padded = F.pad(images.float(), (2, 2, 2, 2), mode="reflect")
        for index, (down, right, flip) in enumerate(draws.T.tolist()):
            expected = padded[index, :, 2 + down : 18 + down, 2 + right : 18 + right]
            expected = expected.flip(-1) if flip else expected
            assert torch.equal(cropped[index].float(), expected)

    @pytest.mark.parametrize(("size", "side"), [(16, 4), (11, 2), (3, 1)])
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_cutout_equals_slicing(self, size: int, side: int, channels_last: bool) -> None:
        centres = torch.tensor([[0, size - 1, size // 2], [size - 1, 1, size // 2]])
        images = torch.rand(3, 2, size, size) + 1
        cut = images.clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        batches._cut_out(cut, centres)
        for index, (row, column) in enumerate(centres.T.tolist()):
            expected = images[index].clone()
            top, left = row - side // 2, column - side // 2
            expected[:, max(0, top) : top + side, max(0, left) : left + side] = 0
            assert torch.equal(cut[index], expected)
        assert (cut[2] == 0).sum() == 2 * side**2

    @pytest.mark.parametrize(
        ("augmentation", "reach", "flips", "rows"),
        [
            ("none", 0, {0}, 3),
            ("shift", 2, {0}, 3),
            ("shift+flip", 2, {0, 1}, 3),
            ("shift+flip+cutout", 2, {0, 1}, 5),
        ],
    )
    def test_draws(self, augmentation: str, reach: int, flips: set[int], rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        draws = batches.draw(500, replace(PROTOCOL, augmentation=augmentation), generator)
        assert len(draws) == rows
        down, right, flip = draws[:3]
        assert set(down.tolist()) == set(right.tolist()) == set(range(-reach, reach + 1))
        assert set(flip.tolist()) == flips
        for centre in draws[3:]:
            assert set(centre.tolist()) == set(range(16))


class TestInputs:
    def test_training_images_are_normalised(self, data: SearchData) -> None:
        inputs = batches.inputs(data.train.images, batches.normalisation(data, CPU), PROTOCOL)
        assert inputs.dtype == torch.float32
        assert float(inputs.mean()) == pytest.approx(0, abs=1e-4)
        assert float(inputs.std()) == pytest.approx(1, abs=1e-4)

    def test_cutout_leaves_the_mean(self, data: SearchData) -> None:
        protocol = replace(PROTOCOL, augmentation="shift+flip+cutout")
        norm = batches.normalisation(data, CPU)
        draws = torch.tensor([[0], [0], [0], [8], [8]])
        image = data.train.images[:1]
        cut, whole = batches.inputs(image, norm, protocol, draws), batches.inputs(image, norm, protocol)
        assert (cut[..., 6:10, 6:10] == 0).all()
        kept = torch.ones(16, 16, dtype=torch.bool)
        kept[6:10, 6:10] = False
        assert torch.equal(cut[..., kept], whole[..., kept])

    @pytest.mark.parametrize("name", ["flip", "shift+", "cutout+shift+flip", ""])
    def test_other_augmentations_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="augmentation must be one of none, shift, shift.flip, shift.flip.cutout"):
            replace(PROTOCOL, augmentation=name)

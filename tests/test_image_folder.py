"""Folders of images, good and bad; every folder is made here."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import DataError, Splits, load


def write_images(folder: Path, count: int, *, side: int = 8, suffix: str = ".png", level: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((side, side, 3), level, np.uint8)
        pixels[0, 0] = number  # so that every image differs
        Image.fromarray(pixels).save(folder / f"{number:03}{suffix}")


def make_folder(root: Path, counts: Mapping[str, int], classes: Sequence[str] = ("cat", "dog")) -> Path:
    """Write class folders below each part of ``counts``; the part "" is the root itself."""
    for part, count in counts.items():
        for position, name in enumerate(classes):
            write_images(root / part / name, count, level=60 + 90 * position)
    return root


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


def indices(splits: Splits) -> tuple[tuple[int, ...], ...]:
    return splits.train.indices, splits.val.indices, splits.test.indices


class TestFolder:
    @pytest.mark.parametrize(
        ("counts", "expected", "origin_of_val"),
        [
            ({"": 20}, (28, 6, 6), "15% of all images"),
            ({"train": 20}, (28, 6, 6), "15% of train/"),
            ({"train": 10, "test": 3}, (16, 4, 6), "20% of train/"),
            ({"train": 20, "val": 3}, (34, 6, 6), "as delivered"),
            ({"train": 20, "validation": 3}, (34, 6, 6), "as delivered"),
            ({"train": 10, "valid": 3, "test": 2}, (20, 6, 4), "as delivered"),
        ],
    )
    def test_layouts(
        self, tmp_path: Path, counts: Mapping[str, int], expected: tuple[int, int, int], origin_of_val: str
    ) -> None:
        splits = load(str(make_folder(tmp_path, counts)))
        assert sizes(splits) == expected
        assert splits.origins["val"] == origin_of_val
        assert splits.classes == ("cat", "dog")
        every = sorted(sum(indices(splits), ()))
        assert every == list(range(len(splits.names)))

    def test_a_delivered_test_split_stays_apart(self, tmp_path: Path) -> None:
        files = load(str(make_folder(tmp_path, {"train": 10, "test": 3}))).record()["files"]
        assert {name.split("/")[0] for name in files["test"]} == {"test"}
        assert {name.split("/")[0] for name in files["train"] + files["val"]} == {"train"}

    def test_labels_and_pixels_belong_to_the_named_files(self, tmp_path: Path) -> None:
        splits = load(str(make_folder(tmp_path, {"": 20})), resolution=8)
        for split in (splits.train, splits.val, splits.test):
            for image, label, index in zip(split.images, split.labels, split.indices, strict=True):
                name, file = splits.names[index].split("/")
                assert splits.classes[label] == name
                assert int(image[0, 0, 0]) == int(Path(file).stem)
                assert int(image[0, -1, -1]) == 60 + 90 * int(label)

    def test_limit_applies_to_each_delivered_split(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"train": 20, "val": 10, "test": 10})
        assert sizes(load(str(folder), limit=40)) == (20, 10, 10)

    def test_hidden_and_other_files_are_passed_over(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 4})
        (folder / "README.md").write_text("cats and dogs")
        (folder / "cat" / "notes.txt").write_text("a cat")
        (folder / "cat" / "._000.png").write_bytes(b"left by a file manager")
        (folder / ".cache").mkdir()
        (folder / "__MACOSX").mkdir()
        assert sum(sizes(load(str(folder)))) == 8

    def test_images_lie_at_any_depth(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 4})
        write_images(folder / "cat" / "indoors" / "asleep", 2)
        assert sum(sizes(load(str(folder)))) == 10

    def test_train_may_be_a_class(self, tmp_path: Path) -> None:
        splits = load(str(make_folder(tmp_path, {"": 4}, classes=("bus", "train"))))
        assert splits.classes == ("bus", "train")

    def test_every_pixel_mode_becomes_rgb(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 4})
        grey = np.full((8, 8), 130, np.uint8)
        Image.fromarray(grey).save(folder / "cat" / "000.png")
        Image.fromarray(grey.astype(np.uint16) * 256).save(folder / "cat" / "001.png")
        Image.fromarray(np.full((8, 8, 4), 130, np.uint8)).save(folder / "cat" / "002.png")
        Image.fromarray(grey).convert("P").save(folder / "cat" / "003.png")
        splits = load(str(folder), resolution=8)
        images = torch.cat([s.images[s.labels == 0] for s in (splits.train, splits.val, splits.test)])
        assert images.shape == (4, 3, 8, 8)
        assert torch.all(images == 130)

    def test_the_short_side_is_scaled_and_the_centre_cropped(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 4})
        wide = np.zeros((40, 120, 3), np.uint8)
        wide[:, 40:80] = 200  # the middle third is what remains
        for number in range(4):
            Image.fromarray(wide).save(folder / "cat" / f"{number:03}.png")
        splits = load(str(folder), resolution=20)
        assert torch.all(splits.train.images[splits.train.labels == 0][..., 1:-1] == 200)

    @pytest.mark.parametrize(("side", "expected"), [(8, 32), (70, 64), (300, 224)])
    def test_default_resolution(self, tmp_path: Path, side: int, expected: int) -> None:
        for name in ("cat", "dog"):
            write_images(tmp_path / name, 3, side=side, suffix=".jpg")
        assert load(str(tmp_path)).resolution == expected


class TestBadInput:
    def test_misspelt_folder(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "photographs", {"": 3})
        with pytest.raises(DataError, match=f"nearest: {tmp_path}/photographs"):
            load(str(tmp_path / "photograps" / "train"))

    def test_an_archive(self, tmp_path: Path) -> None:
        archive = tmp_path / "photographs.zip"
        archive.write_bytes(b"PK")
        with pytest.raises(DataError, match=r"photographs\.zip is a file; the data must be a folder .*unpack"):
            load(str(archive))

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is empty; images are expected as ROOT/train/<class>/<image>"):
            load(str(tmp_path))

    def test_unreadable_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def iterdir(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "iterdir", iterdir)
        with pytest.raises(DataError, match=r"cannot read the folder .*: Permission denied"):
            load(str(tmp_path))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes as POSIX has them")
    def test_links_in_a_circle_and_pipes(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "root", {"": 9})
        (root / "cat" / "again").symlink_to("..")
        with pytest.raises(DataError, match="again.cat leads to a folder that is listed already"):
            load(str(root))
        (root / "cat" / "again").unlink()
        (root / "cat" / "above").symlink_to(".")
        with pytest.raises(DataError, match="above leads to a folder that is listed already; remove the link"):
            load(str(root))
        (root / "cat" / "above").unlink()
        os.mkfifo(root / "cat" / "pipe.png")
        with pytest.raises(DataError, match=r"pipe.png is no regular file"):
            load(str(root))

    def test_no_class_folders(self, tmp_path: Path) -> None:
        write_images(tmp_path, 2)
        with pytest.raises(DataError, match=r"has no class folders, only files \(000\.png\)"):
            load(str(tmp_path))

    def test_splits_without_class_folders(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", 2)
        write_images(tmp_path / "test", 2)
        with pytest.raises(DataError, match="train has no class folders"):
            load(str(tmp_path))

    def test_one_class(self, tmp_path: Path) -> None:
        write_images(tmp_path / "cat", 9)
        with pytest.raises(DataError, match=r"has one class only, cat/; at least 2 class folders are needed$"):
            load(str(tmp_path))

    def test_the_folder_above(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "pets", {"train": 3})
        with pytest.raises(DataError, match=f"has one class only, pets/.*; nearest: {tmp_path}/pets"):
            load(str(tmp_path))

    def test_a_class_without_images(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 3})
        (folder / "labels").mkdir()
        (folder / "labels" / "boxes.xml").write_text("<boxes/>")
        with pytest.raises(DataError, match=r"labels holds no images but \.xml files; remove it, or add images"):
            load(str(folder))

    def test_an_unsupported_kind_of_image(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 3})
        (folder / "dog" / "rex.HEIC").write_bytes(b"ftypheic")
        with pytest.raises(DataError, match=r"rex\.HEIC: \.heic is not supported; convert to one of \.bmp"):
            load(str(folder))

    def test_splits_of_different_classes(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"train": 3, "val": 3})
        write_images(folder / "val" / "hamster", 3)
        with pytest.raises(DataError, match="same class folders; train and val differ in hamster/"):
            load(str(folder))

    def test_no_train_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is test/ but no train/ beside it"):
            load(str(make_folder(tmp_path, {"test": 3})))

    def test_two_names_of_one_split(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="val/ and validation/ name the same split"):
            load(str(make_folder(tmp_path, {"train": 3, "val": 3, "validation": 3})))

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ({"": 2}, "class 'cat' has 2 images; it needs 3, one for each of train, val, test"),
            ({"train": 1, "test": 1}, "class 'cat' has 1 images in train/; it needs 2, one for each of train, val"),
        ],
    )
    def test_too_few_of_a_class(self, tmp_path: Path, counts: Mapping[str, int], message: str) -> None:
        with pytest.raises(DataError, match=message):
            load(str(make_folder(tmp_path, counts)))

    def test_limit_below_one_of_each(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"limit must be at least 6 .*but got 5"):
            load(str(make_folder(tmp_path, {"train": 9, "test": 9})), limit=5)

    @pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "truncated"])
    def test_a_corrupt_image_is_named(self, tmp_path: Path, content: bytes | None) -> None:
        folder = make_folder(tmp_path, {"": 6})
        path = folder / "dog" / "bad.jpg"
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:900] if content is None else content)
        with pytest.raises(DataError, match=r"cannot decode .*dog/bad\.jpg: .*; replace or remove it") as caught:
            load(str(folder), resolution=16)
        assert "\n" not in str(caught.value)

    def test_floating_point_pixels_are_refused(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 3})
        Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "cat" / "depth.tif")
        with pytest.raises(DataError, match=r"depth\.tif: its pixels are floating-point numbers"):
            load(str(folder))

    def test_the_warnings_of_pillow_do_not_leak(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, {"": 3})

        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        # A palette image whose transparency is given as bytes: Pillow warns when it is converted to RGB.
        header = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
        pixels = zlib.compress(b"\0\0\1\0\1\0\1\0\1" * 8)
        chunks = [
            (b"IHDR", header),
            (b"PLTE", b"\1\2\3\4\5\6"),
            (b"tRNS", b"\x10\x80"),
            (b"IDAT", pixels),
            (b"IEND", b""),
        ]
        png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)
        (folder / "cat" / "palette.png").write_bytes(png)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(str(folder))
        assert caught == []

    def test_too_much_for_the_memory(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match="images of 3x40000000x40000000 do not fit into memory; lower limit or resolution"
        ):
            load(str(make_folder(tmp_path, {"": 3})), resolution=40_000_000)

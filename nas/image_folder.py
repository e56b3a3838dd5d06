"""A folder of images as a source of data: split folders with class folders in them, or class folders directly."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from nas.datasets import DataError, Listing, Pixels, default_resolution, square

T = TypeVar("T")

READABLE = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNREADABLE = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".svg")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
FORM = "ROOT/train/<class>/<image> or ROOT/<class>/<image>"


def list_folder(root: Path, resolution: int | None) -> Listing:
    """List a folder: ``train/`` (and ``val/``, ``test/``, if there) holding class folders, or class folders directly.

    Images lie at any depth below their class folder. Hidden files, and files that are no images, are passed over.
    Without a resolution the median short side of up to 64 images decides, see :func:`nas.datasets.default_resolution`.

    Raises:
        DataError: If the folder does not have this form, or cannot be read.
    """
    found = {
        part: {path.name: _image_files(path) for path in _class_folders(folder)}
        for part, folder in _part_folders(root).items()
    }
    classes = tuple(next(iter(found.values())))
    for part, images_of in found.items():
        odd = sorted(set(classes) ^ set(images_of))
        if odd:
            raise DataError(
                f"{root}: the splits must hold the same class folders; train and {part} differ in {odd[0]}/"
            )
    listed = [
        (path, label, part)
        for part, images_of in found.items()
        for label, name in enumerate(classes)
        for path in images_of[name]
    ]
    files = [path for path, _, _ in listed]
    side = resolution or _usual_resolution(files)
    return Listing(
        classes=classes,
        labels=tuple(label for _, label, _ in listed),
        parts=tuple(part for _, _, part in listed),
        names=tuple(path.relative_to(root).as_posix() for path in files),
        read=lambda index: _read(files[index], side),
        channels=3,
        resolution=side,
    )


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split that the root delivers, or the root itself under ""."""
    folders = {path.name.lower(): path for path in _entries(root) if path.is_dir()}
    parts: dict[str, Path] = {}
    for part, names in SPLIT_FOLDERS.items():
        present = [folders[name] for name in names if name in folders]
        if len(present) > 1:
            raise DataError(f"{root}: {present[0].name}/ and {present[1].name}/ name the same split; keep one of them")
        if present:
            parts[part] = present[0]
    # "train" is a class, too, beside "truck": it is a split if folders lie in it, or nothing but splits beside it.
    holds_classes = any(path.is_dir() for part in parts.values() for path in _entries(part))
    if not parts or not (holds_classes or len(parts) == len(folders)):
        return {"": root}
    if "train" not in parts:
        raise DataError(f"{root}: there is {next(iter(parts.values())).name}/ but no train/ beside it")
    return parts


def _class_folders(folder: Path) -> list[Path]:
    entries = _entries(folder)
    classes = [path for path in entries if path.is_dir()]
    if not entries:
        raise DataError(f"{folder} is empty; images are expected as {FORM}")
    if not classes:
        raise DataError(f"{folder} has no class folders, only files ({entries[0].name}); images are expected as {FORM}")
    if len(classes) == 1:
        inner = classes[0]
        hint = f"; nearest: {inner}" if any(path.is_dir() for path in _entries(inner)) else ""
        raise DataError(f"{folder} has one class only, {inner.name}/; at least 2 class folders are needed{hint}")
    return classes


def _image_files(folder: Path) -> list[Path]:
    """Return the images at any depth below a class folder, sorted; at least one."""
    files: list[Path] = []
    others: Counter[str] = Counter()
    pending, seen = [folder], {folder.resolve()}
    while pending:
        for path in _entries(pending.pop()):
            suffix = path.suffix.lower()
            if path.is_dir():
                if path.resolve() in seen:  # a link to a folder above would list the same images again, without end
                    raise DataError(f"{path} leads to a folder that is listed already; remove the link")
                seen.add(path.resolve())
                pending.append(path)
            elif not path.is_file():
                raise DataError(f"{path} is no regular file; remove it, or its link")
            elif suffix in UNREADABLE:
                raise DataError(
                    f"cannot decode {path}: {suffix} is not supported; convert to one of {', '.join(READABLE)}"
                )
            elif suffix in READABLE:
                files.append(path)
            else:
                others[suffix or path.name] += 1
    if not files:
        instead = f" but {others.most_common(1)[0][0]} files" if others else ""
        raise DataError(f"{folder} holds no images{instead}; remove it, or add images ({', '.join(READABLE)})")
    return sorted(files, key=lambda path: path.as_posix())


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted, without hidden entries and what archivers leave (``__MACOSX``)."""
    try:
        return sorted(
            (path for path in folder.iterdir() if not path.name.startswith((".", "__"))), key=lambda p: p.name
        )
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def _usual_resolution(files: Sequence[Path]) -> int:
    step = max(1, len(files) // 64)
    return default_resolution(statistics.median_low(_opened(path, _short_side) for path in files[::step][:64]))


def _short_side(image: Any) -> int:
    width, height = image.size
    return min(int(width), int(height))


def _read(path: Path, side: int) -> Pixels:
    return _opened(path, lambda image: square(image, "RGB", side))


def _opened(path: Path, use: Callable[[Any], T]) -> T:
    """Apply ``use`` to the opened image; whatever a decoder stumbles over is reported with the file's name."""
    try:
        with Image.open(path) as image:
            return use(image)
    except UnidentifiedImageError as error:
        raise DataError(f"cannot decode {path}: it is damaged, or no image; replace or remove it") from error
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ...
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(f"cannot decode {path}: {reason}; replace or remove it") from error

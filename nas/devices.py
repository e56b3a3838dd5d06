"""Which worker trains on which device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from nas.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Post:
    """Where one of the workers trains."""

    device: torch.device
    """The device."""
    workers: int
    """Workers in all, this one among them: they share the CPU."""
    beside: int
    """Processes that hold the data on that device, this one among them."""


def check(settings: Settings) -> None:
    """Raise if devices and numbers of workers cannot be meant, whatever there is here.

    Raises:
        ValueError: If they cannot.
    """
    for name, count in (("workers", settings.workers), ("workers per device", settings.workers_per_device)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, but got {count}")
    if settings.workers is not None and settings.workers_per_device is not None:
        raise ValueError(
            "give the workers in all or those per device, not both, but got "
            f"--workers {settings.workers} and --workers-per-device {settings.workers_per_device}"
        )
    if settings.devices is None:
        return
    if settings.ray is not None:
        raise ValueError(
            f"a Ray cluster gives each worker its device, but got --ray {settings.ray} and --devices {settings.devices}"
        )
    if settings.device != "auto":
        raise ValueError(
            "give one device with --device or several with --devices, not both, but got "
            f"--device {settings.device} and --devices {settings.devices}"
        )
    names = _names(settings.devices)
    if not all(names) or ("auto" in names and len(names) > 1):
        raise ValueError(f"devices must be auto, or names such as 0,1 or cuda:0,cuda:1, but got {settings.devices!r}")
    if len(set(names)) < len(names):
        raise ValueError(
            f"devices must differ, but got {settings.devices}; --workers-per-device has several processes on one"
        )


def posts(settings: Settings) -> list[Post]:
    """Return a post for each worker; neighbours in the list are on different devices, where there are several.

    Raises:
        ValueError: If a device is not there, if they are of different kinds, or if there are more of them than workers.
    """
    devices = _devices(settings)
    in_all = settings.workers if settings.ray is None else None  # those of a cluster do not share this machine
    count = in_all or len(devices) * (settings.workers_per_device or 1)
    if count < len(devices):
        raise ValueError(
            f"{len(devices)} devices take at least as many workers, but got --workers {count}; name fewer devices "
            "with --devices"
        )
    found = [devices[place % len(devices)] for place in range(count)]
    held = found if count == 1 else [devices[0], *found]  # with several workers another process checks and times first
    return [Post(device=device, workers=count, beside=held.count(device)) for device in found]


def _devices(settings: Settings) -> list[torch.device]:
    """Return the devices, all of one kind.

    Raises:
        ValueError: If one is not there, or they are of different kinds.
    """
    import torch

    from nas.latency import device_words
    from nas.proxy import select_device

    names = _names(settings.devices or settings.device)
    if settings.devices == "auto" and torch.cuda.is_available():
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    devices = [select_device(name) for name in names]
    kinds = {device_words(device): device for device in reversed(devices)}
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise ValueError(
            f"a study's latencies are of one kind of device, but {second} is {other!r} and {first} is {one!r}; name "
            "equal ones with --devices"
        )
    return devices


def _names(devices: str | tuple[str, ...]) -> list[str]:
    """Return devices by their full names: a number is that of a GPU."""
    given = devices.split(",") if isinstance(devices, str) else map(str, devices)
    names = [name.strip() for name in given]
    return [f"cuda:{name}" if name.isdecimal() else "cuda:0" if name == "cuda" else name for name in names]

"""The device that is timed: in words that tell it from others, as the name of its lock, and in what state it was."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch


def device_words(device: torch.device) -> str:
    """Return words that tell the device from others that would be slower or quicker: they are part of the protocol."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return f"{device.type}: {_processor()}"
    threads = torch.get_num_threads()
    # Threads that sleep while they wait made batch-1 latency of a small network four times longer, and ratios smaller.
    asleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" and threads > 1
    return f"cpu: {_processor()}, {threads} thread{'' if threads == 1 else 's'}{' (OMP passive)' if asleep else ''}"


def threads_in(words: str) -> int:
    """Return how many threads of a CPU those words name; 1 where they name none."""
    found = re.search(r", (\d+) threads?\b", words)
    return int(found[1]) if found else 1


def lock_name(device: torch.device) -> str:
    """Return what tells the physical device from others in this machine, for :class:`nas.locks.DeviceLock`.

    Unlike :func:`device_words` it is the same for any number of threads and differs between two equal GPUs.
    """
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_properties(device).uuid}"
    return device.type


def state(device: torch.device) -> dict[str, str]:
    """Return what the device says about itself right now: load, clocks, driver. What it does not say is left out."""
    if device.type == "cuda":
        return _gpu_state(device)
    found = {}
    if hasattr(os, "getloadavg"):
        found["load"] = f"{os.getloadavg()[0]:.2f}"
    for name, file in (("clock", "scaling_cur_freq"), ("governor", "scaling_governor")):
        try:
            text = Path("/sys/devices/system/cpu/cpu0/cpufreq", file).read_text(encoding="ascii").strip()
        except OSError:
            continue  # containers and many virtual machines have none
        found[name] = f"{int(text) / 1e6:.2f} GHz" if name == "clock" else text
    return found


_GPU_FIELDS = {
    "driver": "driver_version",
    "clock": "clocks.sm",
    "memory clock": "clocks.mem",
    "degrees C": "temperature.gpu",
}


def _gpu_state(device: torch.device) -> dict[str, str]:
    """Ask the driver's own tool; it comes with the driver, while its Python bindings would be one package more."""
    found = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return found
    uuid = torch.cuda.get_device_properties(device).uuid
    command = [tool, f"--id=GPU-{uuid}", f"--query-gpu={','.join(_GPU_FIELDS.values())}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return found  # no permission, or a driver that does not answer: the figures are no worse for it
    return found | dict(zip(_GPU_FIELDS, (value.strip() for value in answer.strip().split(",")), strict=False))


def _processor() -> str:
    """Return the processor's model as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"

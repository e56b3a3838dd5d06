"""The latency of a model against its bare backbone, on this device, in the runtime that will run it."""

from __future__ import annotations

from nas.latency.device import device_words, lock_name, threads_in
from nas.latency.interval import median_interval
from nas.latency.measure import FEWEST_ROUNDS, measure
from nas.latency.runtime import DTYPES, Runtime, RuntimeMissingError
from nas.latency.runtime import software as runtime_software

__all__ = [
    "DTYPES",
    "FEWEST_ROUNDS",
    "Runtime",
    "RuntimeMissingError",
    "device_words",
    "lock_name",
    "measure",
    "median_interval",
    "runtime_software",
    "threads_in",
]

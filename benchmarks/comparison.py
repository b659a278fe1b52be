"""What the benchmarks share: alternating timings of an optimized computation and its plain reference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Median wall-clock seconds of one side, and its peak memory on a GPU in bytes (None on a CPU)."""

    seconds: float
    peak_bytes: int | None


def alternate(sides: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, Timing]:
    """Time the sides alternately, so that other processes disturb all of them alike, after one untimed run of each."""
    peaks: dict[str, int | None] = {}
    for name, run in sides.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        run()
        wait(device)
        peaks[name] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            wait(device)
            start = time.perf_counter()
            run()
            wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(statistics.median(values), peaks[name]) for name, values in seconds.items()}


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """Return the name of a GPU, or the number of CPU threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"

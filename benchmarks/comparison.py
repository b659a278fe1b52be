"""What the benchmarks share: their command line, programs that they run, and alternating timings of two sides."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def parser(description: str, sizes: Iterable[str], threads: str) -> argparse.ArgumentParser:
    """Return a parser with the options of a comparison of two sides of a model; ``threads`` names the default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=sizes, default="published", help="size of the model")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each side, of which the median counts")
    parser.add_argument("--threads", type=int, help=f"CPU threads (default: {threads}); 1 varies less")
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    return parser


def run_python(*words: str, **environment: str) -> tuple[str, float]:
    """Run a Python program of the project; return its stdout and its wall-clock seconds.

    Raises:
        RuntimeError: it failed; the message has the last line of its stderr.
    """
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"{' '.join(words[:3])} failed: {last}")
    return done.stdout, time.perf_counter() - start


def alternate(
    sides: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Time the sides alternately, so that other processes disturb all of them alike, after one untimed run of each.

    Returns:
        For each side ``seconds``, the median wall-clock time, and ``peak_bytes`` of memory on a GPU (None on a CPU).
    """
    peaks: dict[str, int | None] = dict.fromkeys(sides)
    for name, run in sides.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        run()
        wait(device)
        if device.type == "cuda":
            peaks[name] = torch.cuda.max_memory_allocated(device)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            wait(device)
            start = time.perf_counter()
            run()
            wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: {"seconds": statistics.median(seconds[name]), "peak_bytes": peaks[name]} for name in sides}


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """Return the name of a GPU, or the number of CPU threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"

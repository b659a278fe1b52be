"""Devices and processes of a run by accelerate: the same code runs on a CPU and on many GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from mmf.common.registry import registry

from mmclvqa.clove.errors import ConfigError

Gather = Callable[[Any], list[Any]]
"""A function that returns the objects of all processes, ordered by rank."""
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""``training.precision`` to accelerate's ``mixed_precision``."""


def build_accelerator(training: Any) -> Accelerator:
    """Build the accelerator from ``training.device``, ``training.precision`` and ``find_unused_parameters``.

    Raises:
        ConfigError: the precision is unknown, or fp16 without a GPU.
    """
    if training.precision not in PRECISIONS:
        raise ConfigError(f"training.precision={training.precision}: expected one of: {', '.join(PRECISIONS)}")
    device, on_cpu = str(training.device), runs_on_cpu(training)
    if ":" in device and PartialState(cpu=on_cpu).num_processes == 1:
        torch.cuda.set_device(device)
    if training.precision == "fp16" and on_cpu:
        raise ConfigError("training.precision=fp16 needs a GPU; use fp32 or bf16")
    # An earlier trainer in this process may have used another precision.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=PRECISIONS[training.precision],
        cpu=on_cpu,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=training.find_unused_parameters)],
    )


def runs_on_cpu(training: Any) -> bool:
    """Return whether a run uses the CPU. accelerate must be told, or it takes each process for the only one."""
    return str(training.device) == "cpu" or not torch.cuda.is_available()


def register_device(accelerator: Accelerator) -> None:
    """Register the device, which MMF's data sets and models read."""
    registry.register("current_device", accelerator.device)
    registry.register("global_device", accelerator.process_index)
    registry.register("distributed", accelerator.num_processes > 1)
    registry.register("data_parallel", False)


def gather(value: Any) -> list[Any]:
    """Return the (picklable) values of all processes, ordered by rank, in every process."""
    return gather_object([value])


def describe_device(accelerator: Accelerator) -> str:
    """Return device and number of processes for the log, such as ``cuda:0 (NVIDIA H100), 4 processes``."""
    device = accelerator.device
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    return f"{name}, {accelerator.num_processes} processes" if accelerator.num_processes > 1 else name

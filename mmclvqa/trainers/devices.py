"""The devices and processes of a run, through accelerate: one path from a CPU to many GPUs."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from mmf.common.registry import registry

from mmclvqa.configuration import ConfigError

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""``training.precision`` to accelerate's word."""


def build_accelerator(training: Any) -> Accelerator:
    """The accelerator of ``training.device``, ``training.precision`` and ``find_unused_parameters``.

    Raises:
        ConfigError: an unknown precision, or fp16 without a GPU.
    """
    if training.precision not in PRECISIONS:
        raise ConfigError(f"training.precision={training.precision}: legal are {', '.join(PRECISIONS)}")
    device = str(training.device)
    if ":" in device and PartialState(cpu=device == "cpu").num_processes == 1:
        torch.cuda.set_device(device)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if training.precision == "fp16" and on_cpu:
        raise ConfigError("training.precision=fp16 needs a GPU; use fp32 or bf16")
    # An earlier trainer of this process may have had another precision.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=PRECISIONS[training.precision],
        cpu=device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=training.find_unused_parameters)],
    )


def register_device(accelerator: Accelerator) -> None:
    """Tell MMF's data sets and models where tensors go."""
    registry.register("current_device", accelerator.device)
    registry.register("global_device", accelerator.process_index)
    registry.register("distributed", accelerator.num_processes > 1)
    registry.register("data_parallel", False)


def gather(value: Any) -> list[Any]:
    """The (picklable) value of every process, in the order of ranks, in every process."""
    return gather_object([value])


def describe_device(accelerator: Accelerator) -> str:
    """For the log: ``cpu``, ``cuda:0 (NVIDIA H100)``, with the number of processes."""
    device = accelerator.device
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    return f"{name}, {accelerator.num_processes} processes" if accelerator.num_processes > 1 else name
